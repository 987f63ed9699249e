package podman

import (
	"regexp"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A node where podman has a store, images and a running container: the daemon finds the
// store by storage.conf, runs podman's images, leaves its container alone, and podman
// runs what the daemon has pulled. Either may go; the other stays.
//
// Options: crio.root, crio.runroot, crio.storage_driver
func TestSwitch(t *testing.T) {
	e := newEngine(t, bin(t, "conmon"), "runc")
	theirs := e.ok(shell("echo up; exec sleep 1000", "-d", "--name", "theirs")...)
	w := world.New(t, world.Options{Late: true})
	w.SetConf(regexp.MustCompile(`(?m)^(root|runroot) = .*\n`).ReplaceAllString(w.ConfText(), ""))
	w.Start("CONTAINERS_STORAGE_CONF=" + e.dir + "/storage.conf")

	list, err := w.Images.ListImages(w.Ctx(), &cri.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 1 || !strings.Contains(list.GetImages()[0].String(), "img:latest") {
		t.Fatalf("podman's image is not seen: %v, %v", list, err)
	}
	img := list.GetImages()[0]
	pod := w.Pod("switch", nil)
	change := func(c *cri.ContainerConfig) { c.Image.Image = img.GetId() }
	if out, _ := w.Output(pod, "from-podman", "echo runs", change); out != "runs\n" {
		t.Errorf("podman's image runs as %q", out)
	}
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: img.GetId()}}); err == nil || !strings.Contains(err.Error(), "use") {
		t.Errorf("an image that podman's container uses: %v", err)
	}
	w.Pull()
	if out := e.ok(append(run("--rm"), w.Image, "sh", "-c", "echo and back")...); out != "and back" {
		t.Errorf("the daemon's image runs under podman as %q", out)
	}
	if out := e.ok("ps", "--all", "--format", "{{.ID}}", "--no-trunc"); out != theirs {
		t.Errorf("podman's containers are %q, want its own %s", out, theirs)
	}
	ours := w.Ctr(pod, "ours", "exec sleep 1000", change)
	w.Restart()
	if st := w.Status(ours); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after a restart our container is %v", st)
	}
	if out := e.ok("exec", "theirs", "echo", "alive"); out != "alive" {
		t.Errorf("podman's container says %q", out)
	}
	w.Stop()
	out, errs, code := w.RunEnv([]string{"CONTAINERS_STORAGE_CONF=" + e.dir + "/storage.conf"}, "crio", "-c", w.Conf, "wipe", "-f")
	if code != 0 || !strings.Contains(out, "removed 1 pods") {
		t.Errorf("wipe: %d, %s%s", code, out, errs)
	}
	if out := e.ok("exec", "theirs", "echo", "alive"); out != "alive" {
		t.Errorf("after a wipe podman's container says %q", out)
	}
}
