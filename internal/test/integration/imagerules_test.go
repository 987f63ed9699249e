package integration

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pullFor pulls for a pod of a namespace.
func pullFor(w *world.World, ref, namespace string) (string, error) {
	r, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(ref),
		SandboxConfig: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Namespace: namespace, Uid: "u"}}})
	return r.GetImageRef(), err
}

// imageConf is the configuration with more in the table [crio.image].
func imageConf(base, format string, args ...any) string {
	return strings.Replace(base, "[crio.image]\n", "[crio.image]\n"+fmt.Sprintf(format+"\n", args...), 1)
}

// What one namespace may pull, another one does not run, neither as a container nor as
// a volume; a changed policy counts after a reload.
//
// Options: crio.image.signature_policy_dir
func TestPoliciesOfNamespaces(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	policies := filepath.Join(w.Dir, "policies")
	if err := os.Mkdir(policies, 0o700); err != nil {
		t.Fatal(err)
	}
	setFile(t, filepath.Join(policies, "strict.json"), fmt.Sprintf(`{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {%q: [{"type": "reject"}]}}}`, w.Addr+"/model"))
	base := w.ConfText()
	setFile(t, w.Conf, imageConf(base, "signature_policy_dir = %q", policies))
	w.Start()
	if _, err := pullFor(w, w.Image, "strict"); err != nil {
		t.Fatal(err)
	}
	name := add(t, w, "model", 1000)
	_, err := pullFor(w, name, "strict")
	refused(t, "the pull", err, codes.PermissionDenied, "SignatureValidationFailed: ")
	id, err := pullFor(w, name, "lenient")
	if err != nil {
		t.Fatal(err)
	}
	pod := w.Pod("strict", func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "strict" })
	create := func(image *cri.ImageSpec, mounts ...*cri.Mount) error {
		c := w.CtrConfig("main", "true")
		c.Image, c.Mounts = image, mounts
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("x")})
		return err
	}
	model := &cri.ImageSpec{Image: id, UserSpecifiedImage: name}
	volume := &cri.Mount{ContainerPath: "/model", Readonly: true, Image: model}
	refused(t, "a container", create(model), codes.PermissionDenied, "SignatureValidationFailed: ", id)
	refused(t, "a volume", create(spec(w.Image), volume), codes.PermissionDenied, "ImageVolumeMountFailed: ", "signature policy", id)
	w.Ctr(w.Pod("lenient", nil), "main", "exec sleep 1000", withVolume(volume))
	at := len(w.Log())
	setFile(t, w.Conf, imageConf(base, "signature_policy_dir = %q", filepath.Join(w.Dir, "none")))
	logged(w, at, "configuration reloaded", "signature_policy_dir")
	if err := create(spec(w.Image), volume); err != nil {
		t.Errorf("after the reload: %v", err)
	}
}

// Options: crio.image.namespaced_auth_dir
func TestAuthOfNamespaces(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	auth := filepath.Join(w.Dir, "auth")
	if err := os.Mkdir(auth, 0o700); err != nil {
		t.Fatal(err)
	}
	setFile(t, w.Conf, imageConf(w.ConfText(), "namespaced_auth_dir = %q", auth)+"[crio.runtime]\nseparate_pull_cgroup = \"pod\"\ncgroup_manager = \"cgroupfs\"\n")
	w.Start()
	name := add(t, w, "private", 1000)
	sum := sha256.Sum256([]byte(w.Addr + "/private"))
	w.Registry.SetLogin("me", "secret", "")
	file := filepath.Join(auth, "default-"+hex.EncodeToString(sum[:])+".json")
	parent := fmt.Sprintf("/mtest-auth-%d", os.Getpid())
	w.AtEnd(func() { removeCgroup(t, parent) })
	for _, linux := range []*cri.LinuxPodSandboxConfig{nil, {CgroupParent: parent}} { // by the daemon, by a process in the cgroup
		setFile(t, file, fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, w.Addr, base64.StdEncoding.EncodeToString([]byte("me:secret"))))
		pod := w.PodConfig("x")
		pod.Linux = linux
		if _, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(name), SandboxConfig: pod}); err != nil {
			t.Errorf("cgroup parent %q: %v", linux.GetCgroupParent(), err)
		}
		w.Eventually("the credentials are gone", func() bool {
			used, _ := filepath.Glob(filepath.Join(auth, "*", "*"))
			_, err := os.Stat(file)
			return os.IsNotExist(err) && len(used) == 0
		})
	}
	_, err := pullFor(w, name, "default")
	refused(t, "a second pull", err, codes.PermissionDenied, "credentials")
}
