package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// addModel puts an artifact with two files into the registry and returns its name.
func addModel(t *testing.T, w *world.World) string {
	t.Helper()
	if _, err := w.Registry.AddArtifact("artifact/model", "v1", registry.Artifact{Type: "application/vnd.cncf.model.manifest.v1+json",
		ConfigType: "application/vnd.cncf.model.config.v1+json", Config: []byte(`{"descriptor":{"name":"m"}}`), Files: []registry.Blob{
			{MediaType: "application/vnd.cncf.model.weight.v1.raw", Data: []byte("42"), Notes: map[string]string{"org.cncf.model.filepath": "weights.bin"}},
			{MediaType: "application/vnd.cncf.model.doc.v1.raw", Name: "docs/readme", Data: []byte("read me")}}}); err != nil {
		t.Fatal(err)
	}
	return w.Addr + "/artifact/model:v1"
}

// An artifact is pulled, listed, mounted and removed like an image; its files can be read
// and not written, by root and by mapped users, before and after a restart.
//
// Options: crio.image.oci_artifact_mount_support
func TestArtifactVolumes(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	name := addModel(t, w)
	id, err := pullImage(w, name)
	if err != nil {
		t.Fatal(err)
	}
	if l := images(t, w); len(l) != 2 {
		t.Errorf("%v", l)
	}
	r, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: spec(name)})
	if err != nil || r.GetImage().GetId() != id || r.GetImage().GetRepoTags()[0] != name || r.GetImage().GetSize() < 9 {
		t.Errorf("%v, %v", r, err)
	}
	pod := w.Pod("artifacts", nil)
	held := w.Holds()
	at := func(at, sub string) *cri.Mount {
		return &cri.Mount{ContainerPath: at, Readonly: true, Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: name}, ImageSubPath: sub}
	}
	ctr := w.Ctr(pod, "main", "exec sleep 1000", withVolume(at("/model", ""), at("/docs", "docs"), at("/w", "weights.bin")))
	look := func(when string) {
		for script, want := range map[string]string{
			"cat /model/weights.bin /docs/readme /w": "42read me42", "ls /model": "docs\nweights.bin",
			"touch /model/new 2>/dev/null || echo no": "no", "(echo 43 > /model/weights.bin) 2>/dev/null || echo no": "no", "(echo 43 > /w) 2>/dev/null || echo no": "no",
			"rm -f /docs/readme 2>/dev/null; cat /model/docs/readme": "read me", "grep ' /model' /proc/self/mounts | grep -vc 'ro,nosuid,nodev'": "0",
		} {
			if out, _ := w.Exec(ctr, script); out != want {
				t.Errorf("%s: %s: %q", when, script, out)
			}
		}
	}
	look("at first")
	_, err = w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(name)})
	refused(t, "removing what is mounted", err, codes.FailedPrecondition, ctr)
	w.Kill()
	w.Start()
	look("after a restart")
	_, err = w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(name)})
	refused(t, "removing what is mounted", err, codes.FailedPrecondition, ctr)
	if got := w.Status(ctr).GetMounts()[0].GetImage().GetImageRef(); got != id {
		t.Errorf("the status shows image_ref %q", got)
	}
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	if now := w.Holds(); strings.Join(now, "\n") != strings.Join(held, "\n") {
		t.Errorf("left after the removal:\n%s\nbefore:\n%s", strings.Join(now, "\n"), strings.Join(held, "\n"))
	}
	if left, _ := os.ReadDir(filepath.Join(w.Dir, "run/artifacts")); len(left) > 0 {
		t.Errorf("leases are left: %v", left)
	}
	ids := []*cri.IDMapping{{ContainerId: 0, HostId: 300_000, Length: 65536}}
	userns := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	mapped := w.Pod("mapped", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns })
	if out, st := w.Output(mapped, "main", "cat /model/weights.bin /model/docs/readme", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns
		c.Mounts = []*cri.Mount{at("/model", "")}
	}); out != "42read me\n" {
		t.Errorf("in a user namespace: %q, code %d", out, st.GetExitCode())
	}
	for what, c := range map[string]struct {
		change func(*cri.ContainerConfig)
		code   codes.Code
		says   string
	}{
		"as a root file system": {func(c *cri.ContainerConfig) { c.Image = spec(name) }, codes.InvalidArgument, "artifact"},
		"an absent path":        {func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{at("/m", "nothing")} }, codes.InvalidArgument, "not in the image"},
	} {
		config := w.CtrConfig("bad", "true")
		c.change(config)
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("x")})
		refused(t, what, err, c.code, c.says)
	}
	for _, p := range []string{pod, mapped} {
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p}); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(id)}); err != nil {
		t.Error(err)
	}
	if l := images(t, w); len(l) != 1 {
		t.Errorf("%v", l)
	}
}

// The switch counts at once, for pulls and mounts; what is there can be removed.
//
// Options: crio.image.oci_artifact_mount_support
func TestArtifactsOff(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	name := addModel(t, w)
	id, err := pullImage(w, name)
	if err != nil {
		t.Fatal(err)
	}
	pod := w.Pod("off", nil)
	at := len(w.Log())
	setFile(t, w.Conf, imageConf(w.ConfText(), "oci_artifact_mount_support = false"))
	logged(w, at, "configuration reloaded", "oci_artifact_mount_support")
	config := w.CtrConfig("main", "true")
	config.Mounts = []*cri.Mount{{ContainerPath: "/m", Readonly: true, Image: spec(id)}}
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("x")})
	refused(t, "the mount", err, codes.FailedPrecondition, "oci_artifact_mount_support")
	_, err = pullImage(w, name)
	refused(t, "the pull", err, codes.FailedPrecondition, "oci_artifact_mount_support")
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(id)}); err != nil {
		t.Error(err)
	}
}

// A store on a read-only medium serves without a registry; and a pull into a pod's cgroup
// brings artifacts too.
//
// Options: crio.runtime.additional_artifact_stores
func TestArtifactsOfOthers(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	medium := filepath.Join(w.Dir, "medium")
	setFile(t, w.Conf, w.ConfText()+fmt.Sprintf("[crio.runtime]\nadditional_artifact_stores = [%q]\nseparate_pull_cgroup = \"pod\"\ncgroup_manager = \"cgroupfs\"\n", medium))
	w.Start()
	w.Pull()
	name := addModel(t, w)
	parent := fmt.Sprintf("/mtest-artifact-%d", os.Getpid())
	w.AtEnd(func() { removeCgroup(t, parent) })
	r, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(name), SandboxConfig: &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{CgroupParent: parent}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(medium, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(w.Dir, "root/artifacts"), filepath.Join(medium, "artifacts")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(medium, medium, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	w.AtEnd(func() { syscall.Unmount(medium, syscall.MNT_DETACH) })
	if err := syscall.Mount("", medium, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	w.Registry.SetFaults(registry.Faults{Unavailable: true})
	if l := images(t, w); len(l) != 2 {
		t.Errorf("%v", l)
	}
	pod := w.Pod("others", nil)
	if out, _ := w.Output(pod, "main", "cat /model/weights.bin", withVolume(&cri.Mount{ContainerPath: "/model", Readonly: true, Image: spec(r.GetImageRef())})); out != "42\n" {
		t.Errorf("%q", out)
	}
	_, err = w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(name)})
	refused(t, "its removal", err, codes.FailedPrecondition, "only read")
}
