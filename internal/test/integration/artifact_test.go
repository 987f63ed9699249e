package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// The daemon dies while an artifact comes, at any moment: the next one lists nothing in
// part, has nothing of it, and pulls the same.
func TestKilledDuringArtifactPull(t *testing.T) {
	w := world.New(t, world.Options{})
	a := registry.Artifact{Type: "application/x"}
	for i := range 3 {
		data := make([]byte, 2<<20)
		rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		a.Files = append(a.Files, registry.Blob{MediaType: "application/octet-stream", Name: fmt.Sprint("f", i), Data: data})
	}
	if _, err := w.Registry.AddArtifact("killed", "v1", a); err != nil {
		t.Fatal(err)
	}
	name, root := w.Addr+"/killed:v1", filepath.Join(w.Dir, "root/artifacts")
	w.Registry.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 1000})
	for i := range 6 {
		done := make(chan error, 1)
		go func() {
			_, err := pullImage(w, name)
			done <- err
		}()
		if i == 0 { // in the middle of the transfers
			w.Eventually("the pull is in the middle", func() bool {
				e, _ := filepath.Glob(filepath.Join(root, ".pull-*/*"))
				return len(e) > 1
			})
		} else {
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		}
		w.Kill()
		<-done
		w.Registry.SetFaults(registry.Faults{})
		w.Start()
		for _, i := range images(t, w) {
			if i.GetSize() < 6<<20 {
				t.Errorf("an artifact is listed in part: %v", i)
			}
		}
		w.Eventually("nothing is left of the pull", func() bool {
			e, _ := filepath.Glob(filepath.Join(root, ".pull-*"))
			blobs, _ := filepath.Glob(filepath.Join(root, "blobs/sha256/*"))
			return len(e) == 0 && (len(blobs) == 0 || len(images(t, w)) == 1)
		})
		if _, err := pullImage(w, name); err != nil {
			t.Fatal(err)
		}
		if l := images(t, w); len(l) != 1 || l[0].GetSize() < 6<<20 {
			t.Fatalf("after the pull: %v", l)
		}
		if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(name)}); err != nil {
			t.Fatal(err)
		}
	}
}

// The daemon dies around the making and the unmaking of a volume: nothing of it stays.
func TestKilledDuringArtifactVolume(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	id, err := pullImage(w, addModel(t, w))
	if err != nil {
		t.Fatal(err)
	}
	pod := w.Pod("killed", nil)
	held := w.Holds()
	config := w.CtrConfig("main", "sleep 1000")
	config.Mounts = []*cri.Mount{{ContainerPath: "/model", Readonly: true, Image: spec(id)}}
	for _, point := range []string{"before-up", "after-up", "before-down", "after-down"} {
		w.Kill()
		w.Start("MONOCRIO_CRASH=container.volumes." + point)
		r, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("killed")})
		if err == nil {
			_, err = w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: r.GetContainerId()})
		}
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("%s: the daemon lives: %v", point, err)
		}
		w.WaitEnd()
		w.Start()
		w.Eventually(point+": nothing is left", func() bool { return strings.Join(w.Holds(), "\n") == strings.Join(held, "\n") })
	}
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(id)}); err != nil {
		t.Error(err)
	}
}

// A profile that an annotation names is brought from the registry, once, and applies.
func TestSeccompProfileFromArtifact(t *testing.T) {
	w := world.New(t, world.Options{Extra: "[crio.runtime.runtimes.runc]\nallowed_annotations = [\"seccomp-profile.crio.io\"]\n"})
	w.Pull()
	for name, data := range map[string]string{
		"strict": `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`, "broken": "{",
	} {
		if _, err := w.Registry.AddArtifact("profiles/"+name, "v1", registry.Artifact{ConfigType: "application/vnd.cncf.seccomp-profile.config.v1+json", Config: []byte("{}"),
			Files: []registry.Blob{{MediaType: "application/vnd.oci.image.layer.v1.tar", Name: name + ".json", Data: []byte(data)}}}); err != nil {
			t.Fatal(err)
		}
	}
	annotate := func(ref string) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) { c.Annotations["seccomp-profile.crio.io"] = w.Addr + "/profiles/" + ref }
	}
	pod := w.Pod("profiled", annotate("strict:v1"))
	script := "mkdir /tmp/x 2>/dev/null || echo refused; grep -c '^Seccomp:.*2' /proc/self/status"
	for i := range 2 {
		if i == 1 {
			w.Registry.SetFaults(registry.Faults{Unavailable: true})
		}
		if out, _ := w.Output(pod, fmt.Sprint("ctr", i), script, nil); out != "refused\n1\n" {
			t.Errorf("container %d: %q", i, out)
		}
	}
	w.Registry.SetFaults(registry.Faults{})
	for ref, code := range map[string]codes.Code{"broken:v1": codes.InvalidArgument, "absent:v1": codes.NotFound} {
		pod := w.Pod(ref, annotate(ref))
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig("main", "true"), SandboxConfig: w.PodConfig("x")})
		refused(t, ref, err, code, "seccomp-profile.crio.io", "profiles/"+ref)
	}
}

// crio check finds a file of an artifact that rotted, and mends the store.
func TestCheckArtifacts(t *testing.T) {
	w := world.New(t, world.Options{})
	name := addModel(t, w)
	id, err := pullImage(w, name)
	must(t, err)
	_, _, before := w.Run("crio", "-c", w.Conf, "check")
	rotten := filepath.Join(w.Dir, "root/artifacts/blobs/sha256", strings.TrimPrefix(registry.Digest([]byte("42")), "sha256:"))
	must(t, os.WriteFile(rotten, []byte("43"), 0o644))
	out, _, code := w.Run("crio", "-c", w.Conf, "check")
	if code == 0 || !strings.Contains(out, "artifact "+id[:12]+" ("+name+")") {
		t.Errorf("code %d: %s", code, out)
	}
	if out, _, _ := w.Run("crio", "-c", w.Conf, "check", "-q"); strings.Contains(out, "artifact "+id[:12]) {
		t.Errorf("a quick check reads everything: %s", out)
	}
	w.Run("crio", "-c", w.Conf, "check", "--repair")
	if out, _, code := w.Run("crio", "-c", w.Conf, "check"); code != before || strings.Contains(out, "artifact "+id[:12]) {
		t.Errorf("after the repair: code %d: %s", code, out)
	}
	if _, err := pullImage(w, name); err != nil {
		t.Error(err)
	}
}
