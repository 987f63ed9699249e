package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// volumeImage puts an image with a program, a folder and links into the registry and
// pulls it; the answer is its name and its id.
func volumeImage(t *testing.T, w *world.World) (name, id string) {
	t.Helper()
	if _, err := w.Registry.Add("model", "v1", registry.Image{Compress: registry.Gzip, Layers: []map[string]registry.File{{
		"weights": {Data: []byte("42\n")}, "sub/deep/file": {Data: []byte("deep\n")},
		"run.sh": {Data: []byte("#!/bin/sh\necho ran\n"), Mode: 0o755},
		"out":    {Link: "/etc", Mode: os.ModeSymlink | 0o777}, "in": {Link: "sub/deep", Mode: os.ModeSymlink | 0o777},
	}}}); err != nil {
		t.Fatal(err)
	}
	name = w.Addr + "/model:v1"
	id, err := pullImage(w, name)
	if err != nil {
		t.Fatal(err)
	}
	return name, id
}

func withVolume(mounts ...*cri.Mount) ctrChange {
	return func(c *cri.ContainerConfig) { c.Mounts = append(c.Mounts, mounts...) }
}

func TestImageVolumes(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	name, id := volumeImage(t, w)
	pod := w.Pod("volumes", nil)
	held := w.Holds()
	image := func(at, sub string) *cri.Mount {
		return &cri.Mount{ContainerPath: at, Readonly: true, Image: &cri.ImageSpec{Image: id, UserSpecifiedImage: name}, ImageSubPath: sub}
	}
	ctr := w.Ctr(pod, "main", "exec sleep 1000", withVolume(image("/model", ""), image("/deep", "sub/deep"), image("/linked", "in"), image("/file", "weights")))
	for script, want := range map[string]string{
		"cat /model/weights; /model/run.sh": "42\nran", "cat /deep/file /linked/file": "deep\ndeep", "cat /file": "42",
		"touch /model/new 2>/dev/null || echo read-only": "read-only", "rm -f /deep/file 2>/dev/null; cat /model/sub/deep/file": "deep",
		"grep ' /model ' /proc/self/mounts | grep -c 'ro,nosuid,nodev'": "1",
	} {
		if out, _ := w.Exec(ctr, script); out != want {
			t.Errorf("%s: %q", script, out)
		}
	}
	mounts := w.Status(ctr).GetMounts()
	if len(mounts) != 4 || mounts[0].GetImage().GetImageRef() != id || mounts[0].GetImage().GetUserSpecifiedImage() != name || mounts[1].GetImageSubPath() != "sub/deep" {
		t.Errorf("the status shows %v", mounts)
	}
	_, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(id)})
	refused(t, "removing an image that is mounted", err, codes.FailedPrecondition, ctr)
	w.Kill()
	w.Start()
	if out, _ := w.Exec(ctr, "cat /model/weights"); out != "42" {
		t.Errorf("after a restart: %q", out)
	}
	if got := w.Status(ctr).GetMounts()[0].GetImage().GetImageRef(); got != id {
		t.Errorf("after a restart the status shows image_ref %q", got)
	}
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	if now := w.Holds(); strings.Join(now, "\n") != strings.Join(held, "\n") {
		t.Errorf("left after the removal:\n%s\nbefore:\n%s", strings.Join(now, "\n"), strings.Join(held, "\n"))
	}
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(id)}); err != nil {
		t.Errorf("removing it after its user: %v", err)
	}
}

// TestImageVolumeRefusals: what cannot be mounted says why, under the kubelet's word
// for it, and leaves nothing.
func TestImageVolumeRefusals(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	_, id := volumeImage(t, w)
	pod := w.Pod("refusals", nil)
	held := w.Holds()
	const reason = "ImageVolumeMountFailed: "
	for what, c := range map[string]struct {
		change func(*cri.Mount)
		code   codes.Code
		says   string
	}{
		"writable":        {func(m *cri.Mount) { m.Readonly = false }, codes.InvalidArgument, "read-only"},
		"with a host":     {func(m *cri.Mount) { m.HostPath = "/etc" }, codes.InvalidArgument, "exclude each other"},
		"an absent path":  {func(m *cri.Mount) { m.ImageSubPath = "nothing/here" }, codes.InvalidArgument, "not in the image"},
		"below a file":    {func(m *cri.Mount) { m.ImageSubPath = "weights/x" }, codes.InvalidArgument, "not in the image"},
		"a way out":       {func(m *cri.Mount) { m.ImageSubPath = "../.." }, codes.InvalidArgument, "leaves the image"},
		"a link out":      {func(m *cri.Mount) { m.ImageSubPath = "out" }, codes.InvalidArgument, "not in the image"}, // the image has no /etc
		"an absolute one": {func(m *cri.Mount) { m.ImageSubPath = "/sub" }, codes.InvalidArgument, "leaves the image"},
		"an absent image": {func(m *cri.Mount) { m.Image.Image = strings.Repeat("ab", 32) }, codes.NotFound, "mount at"},
		"propagation":     {func(m *cri.Mount) { m.Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL }, codes.InvalidArgument, "private"},
	} {
		m := &cri.Mount{ContainerPath: "/model", Readonly: true, Image: &cri.ImageSpec{Image: id}}
		c.change(m)
		config := w.CtrConfig("main", "true")
		config.Mounts = []*cri.Mount{m}
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("x")})
		refused(t, what, err, c.code, reason, c.says)
	}
	if now := w.Holds(); strings.Join(now, "\n") != strings.Join(held, "\n") {
		t.Errorf("left after refusals:\n%s", strings.Join(now, "\n"))
	}
}

// TestImageVolumeUserNamespace: the files of a mounted image belong to the pod's root
// user as seen by the pod.
func TestImageVolumeUserNamespace(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	_, id := volumeImage(t, w)
	ids := []*cri.IDMapping{{ContainerId: 0, HostId: 300_000, Length: 65536}}
	userns := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	pod := w.Pod("userns", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns })
	out, st := w.Output(pod, "main", "stat -c %u /model/weights; cat /model/weights", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns
		c.Mounts = []*cri.Mount{{ContainerPath: "/model", Readonly: true, Image: &cri.ImageSpec{Image: id}}}
	})
	if out != "0\n42\n" {
		t.Errorf("code %d: %q", st.GetExitCode(), out)
	}
}
