package integration

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
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

// An encrypted image is pulled as soon as its key is in the folder, and no more when
// another folder is named.
//
// Options: crio.runtime.decryption_keys_path
func TestDecryptionKeys(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	keys := filepath.Join(w.Dir, "keys")
	base := w.ConfText()
	setFile(t, w.Conf, base+fmt.Sprintf("[crio.runtime]\ndecryption_keys_path = %q\n", keys))
	w.Start()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	crypt, err := config.EncryptWithJwe([][]byte{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})})
	must(t, err)
	files, err := registry.Busybox()
	must(t, err)
	_, err = w.Registry.Add("sealed", "v1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip,
		Seal: func(data []byte, d v1.Descriptor) ([]byte, map[string]string, error) {
			r, end, err := ocicrypt.EncryptLayer(crypt.EncryptConfig, bytes.NewReader(data), d)
			if err != nil {
				return nil, nil, err
			}
			sealed, err := io.ReadAll(r)
			notes, e := end()
			return sealed, notes, errors.Join(err, e)
		}})
	must(t, err)
	name := w.Addr + "/sealed:v1"
	_, err = pullImage(w, name)
	refused(t, "without the key", err, codes.PermissionDenied, "encrypted", keys)
	must(t, os.Mkdir(keys, 0o700))
	setFile(t, filepath.Join(keys, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	id, err := pullImage(w, name)
	must(t, err)
	pod := w.Pod("sealed", nil)
	if out, _ := w.Output(pod, "main", "echo open", func(c *cri.ContainerConfig) { c.Image = spec(id); c.Command = []string{"/bin/sh", "-c", "echo open"} }); out != "open\n" {
		t.Errorf("%q", out)
	}
	at := len(w.Log())
	setFile(t, w.Conf, base+fmt.Sprintf("[crio.runtime]\ndecryption_keys_path = %q\n", filepath.Join(w.Dir, "none")))
	logged(w, at, "configuration reloaded", "decryption_keys_path")
	_, err = pullImage(w, name)
	refused(t, "without the folder", err, codes.PermissionDenied, "encrypted")
}
