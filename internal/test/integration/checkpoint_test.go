package integration

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const criuOn = "[crio.checkpoint_restore]\ncontainer_level_enabled = \"checkpoint_restore\"\n"

// criuEnv finds a criu that works on this kernel: MONOCRIO_CRIU, or the one in PATH.
// The answer is the daemon's environment; it spares criu the need of iptables.
func criuEnv(t *testing.T) []string {
	t.Helper()
	path := os.Getenv("MONOCRIO_CRIU")
	if path == "" {
		path, _ = exec.LookPath("criu")
	}
	if path == "" {
		t.Skip("there is no criu on this machine (MONOCRIO_CRIU names one)")
	}
	if out, err := exec.Command(path, "check").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("%s does not work on this kernel: %s", path, lines[0])
	}
	home := t.TempDir()
	err := os.Mkdir(filepath.Join(home, ".criu"), 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(home, ".criu", "default.conf"), []byte("network-lock skip\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + filepath.Dir(path) + ":" + os.Getenv("PATH"), "HOME=" + home}
}

// counter counts in a file of its root file system, and in its log.
const counter = "n=0; rm -f /etc/group; while :; do n=$((n+1)); echo $n >/count; echo $n; sleep 0.05; done"

func count(w *world.World, ctr string) int {
	w.T.Helper()
	n := 0
	w.Eventually("it counts", func() bool {
		out, _ := w.Exec(ctr, "cat /count")
		var err error
		n, err = strconv.Atoi(out)
		return err == nil && n > 0
	})
	return n
}

func TestCheckpointContainer(t *testing.T) {
	env := criuEnv(t)
	w := world.New(t, world.Options{Extra: criuOn, Late: true})
	w.Start(env...)
	w.Pull()
	pod := w.Pod("origin", nil)
	data := filepath.Join(w.Dir, "data")
	mount := func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{{HostPath: data, ContainerPath: "/data"}} }
	ctr := w.Ctr(pod, "counter", counter, mount)
	w.Eventually("it gets somewhere", func() bool { return count(w, ctr) > 20 })
	file := filepath.Join(w.Dir, "counter.tar")
	if _, err := w.CheckpointContainer(w.Ctx(), &cri.CheckpointContainerRequest{ContainerId: ctr, Location: file}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the archive: %v, %v", fi, err)
	}
	at := count(w, ctr)
	w.Eventually("the original goes on", func() bool { return count(w, ctr) > at })
	_, err := w.CheckpointContainer(w.Ctx(), &cri.CheckpointContainerRequest{ContainerId: ctr, Location: file})
	refused(t, "a location that exists", err, codes.AlreadyExists, file)
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}

	other := w.Pod("other", nil)
	again := w.Create(other, "again", "unused", func(c *cri.ContainerConfig) { mount(c); c.Image.Image = file; c.Command = nil })
	if st := w.Status(again); st.GetState() != cri.ContainerState_CONTAINER_CREATED || st.GetImageId() != w.Status(ctr).GetImageId() {
		t.Errorf("before its start: %v", st)
	}
	w.Kill() // one that waits to be restored is known again
	w.Start(env...)
	if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: again}); err != nil {
		t.Fatalf("%v\n%s", err, w.Log())
	}
	if n := count(w, again); n < 20 {
		t.Errorf("the restored one begins at %d", n)
	}
	from := count(w, again)
	w.Eventually("the restored one goes on", func() bool { return count(w, again) > from })
	if out, _ := w.Exec(again, "ls /etc/group 2>/dev/null; echo over"); out != "over" {
		t.Errorf("a file that was deleted is back: %s", out)
	}
	w.Eventually("its log is where the request says", func() bool { return strings.Contains(w.LogText(w.Status(again).GetLogPath()), "\n") })
	if dirs, _ := os.ReadDir(filepath.Join(w.Dir, "state", "checkpoints")); len(dirs) > 0 {
		t.Errorf("images are left after the restore: %v", dirs)
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: again}); err != nil {
		t.Fatal(err)
	}
	if st := w.WaitExit(again); st.GetExitCode() != 137 {
		t.Errorf("after its stop: %v", st)
	}
	image := checkpointImage(t, w, file)
	third := w.Ctr(other, "third", "unused", func(c *cri.ContainerConfig) { mount(c); c.Image.Image = image })
	if n := count(w, third); n < 20 || w.Status(third).GetImageId() != w.Status(ctr).GetImageId() {
		t.Errorf("the one from an image begins at %d: %v", n, w.Status(third))
	}
	c := w.CtrConfig("lacking", "true")
	c.Image.Image = file
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: other, Config: c, SandboxConfig: w.PodConfig("other")})
	refused(t, "a restore without a mount that it had", err, codes.FailedPrecondition, "/data")
}

// checkpointImage makes an image of an archive, as Kubernetes' documentation does, and
// pulls it.
func checkpointImage(t *testing.T, w *world.World, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := map[string]registry.File{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		data, rerr := io.ReadAll(in)
		if err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		files[h.Name] = registry.File{Data: data}
	}
	if _, err := w.Registry.Add("checkpointed", "v1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip,
		Annotations: map[string]string{"io.kubernetes.cri-o.annotations.checkpoint.name": "counter"}}); err != nil {
		t.Fatal(err)
	}
	name := w.Addr + "/checkpointed:v1"
	if _, err := pullImage(w, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestCheckpointPod: two containers that share a folder are written down at one
// instant, and made again as a pod.
func TestCheckpointPod(t *testing.T) {
	env := criuEnv(t)
	w := world.New(t, world.Options{Extra: criuOn, Late: true})
	w.Start(env...)
	w.Pull()
	pod := w.Pod("origin", nil)
	one, two := w.Ctr(pod, "one", counter, nil), w.Ctr(pod, "two", counter, nil)
	w.Eventually("both get somewhere", func() bool { return count(w, one) > 10 && count(w, two) > 10 })
	dir := filepath.Join(w.Dir, "pod")
	call := func(change func(*cri.CheckpointPodRequest)) error {
		r := &cri.CheckpointPodRequest{PodSandboxId: pod, OutputPath: dir, ContainerIds: []string{one, two}}
		change(r)
		_, err := w.CheckpointPod(w.Ctx(), r)
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	refused(t, "one of two", call(func(r *cri.CheckpointPodRequest) { r.ContainerIds = r.ContainerIds[:1] }), codes.InvalidArgument, two)
	refused(t, "one twice", call(func(r *cri.CheckpointPodRequest) { r.ContainerIds = []string{one, one} }), codes.InvalidArgument, "twice")
	refused(t, "none", call(func(r *cri.CheckpointPodRequest) { r.ContainerIds = nil }), codes.InvalidArgument, "empty")
	refused(t, "an option", call(func(r *cri.CheckpointPodRequest) { r.Options = map[string]string{"fast": "yes"} }), codes.InvalidArgument, "fast")
	refused(t, "no folder", call(func(r *cri.CheckpointPodRequest) { r.OutputPath = dir + "/none" }), codes.InvalidArgument, "output_path")
	refused(t, "a full folder", call(func(r *cri.CheckpointPodRequest) { r.OutputPath = w.Dir }), codes.FailedPrecondition, "not empty")
	if err := call(func(*cri.CheckpointPodRequest) {}); err != nil {
		t.Fatal(err)
	}
	at := count(w, one)
	w.Eventually("the originals go on", func() bool { return count(w, one) > at && count(w, two) > at })
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	request := &cri.RestorePodRequest{CheckpointPath: dir, Config: w.PodConfig("again"), ContainerConfigs: []*cri.ContainerConfig{w.CtrConfig("one", "x"), w.CtrConfig("three", "x")}}
	_, err := w.RestorePod(w.Ctx(), request)
	refused(t, "a container that is not in it", err, codes.InvalidArgument, "three")
	request.ContainerConfigs = request.ContainerConfigs[:1]
	_, err = w.RestorePod(w.Ctx(), request)
	refused(t, "too few containers", err, codes.InvalidArgument, "two")
	if l, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(l.GetItems()) > 0 {
		t.Errorf("left after refusals: %v, %v", l, err)
	}
	request.ContainerConfigs = append(request.ContainerConfigs, w.CtrConfig("two", "x"))
	r, err := w.RestorePod(w.Ctx(), request)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range r.GetRestoredContainers() {
		if st := w.Status(c.GetContainerId()); st.GetState() != cri.ContainerState_CONTAINER_CREATED || st.GetMetadata().GetName() != c.GetName() {
			t.Errorf("before its start: %v", st)
		}
		if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: c.GetContainerId()}); err != nil {
			t.Fatalf("%v\n%s", err, w.Log())
		}
		ids = append(ids, c.GetContainerId())
	}
	if len(ids) != 2 || count(w, ids[0]) < 10 || count(w, ids[1]) < 10 {
		t.Errorf("restored: %v", r)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: r.GetPodSandboxId()}); err != nil {
		t.Fatal(err)
	}
}

// TestCheckpointRefusals: off, without criu, and of things that are no checkpoints.
//
// Options: crio.checkpoint_restore.container_level_enabled
func TestCheckpointRefusals(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("off", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	checkpoint := func() error {
		_, err := w.CheckpointContainer(w.Ctx(), &cri.CheckpointContainerRequest{ContainerId: ctr, Location: filepath.Join(w.Dir, "x.tar")})
		return err
	}
	restore := func(image string) error {
		c := w.CtrConfig("restored", "true")
		c.Image.Image = image
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("off")})
		return err
	}
	refused(t, "checkpoints are off", checkpoint(), codes.FailedPrecondition, "container_level_enabled")
	refused(t, "restores are off", restore("/some/archive.tar"), codes.FailedPrecondition, "container_level_enabled")
	_, err := w.CheckpointPod(w.Ctx(), &cri.CheckpointPodRequest{PodSandboxId: pod, OutputPath: w.Dir, ContainerIds: []string{ctr}})
	refused(t, "pods too", err, codes.FailedPrecondition, "container_level_enabled")
	w.Stop()
	off := w.ConfText()
	w.SetConf(off + strings.ReplaceAll(criuOn, "_restore\"", "_only\""))
	w.Start()
	refused(t, "restores are off still", restore("/some/archive.tar"), codes.FailedPrecondition, "container_level_enabled")
	w.Stop()
	w.SetConf(off + criuOn)
	w.Start("PATH=" + w.Dir)
	refused(t, "without criu", checkpoint(), codes.FailedPrecondition, "criu", "PATH")
	w.Stop()
	if err := os.WriteFile(filepath.Join(w.Dir, "criu"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Start("PATH=" + w.Dir + ":" + os.Getenv("PATH"))
	refused(t, "a criu that fails", checkpoint(), codes.FailedPrecondition, "checkpoint container "+ctr)
	if left, _ := filepath.Glob(filepath.Join(w.Dir, ".checkpoint-*")); len(left) > 0 {
		t.Errorf("left after a failure: %v", left)
	}
	if out, _ := w.Exec(ctr, "echo on"); out != "on" {
		t.Errorf("after a failed checkpoint the container says %q", out)
	}
	text := filepath.Join(w.Dir, "text")
	if err := os.WriteFile(text, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, "a text", restore(text), codes.InvalidArgument, "tar archive")
	refused(t, "a folder", restore(w.Dir), codes.InvalidArgument, "no checkpoint")
	refused(t, "nothing", restore(w.Dir+"/none"), codes.InvalidArgument, "none")
	_, err = w.RestorePod(w.Ctx(), &cri.RestorePodRequest{CheckpointPath: w.Dir, Config: w.PodConfig("again"), ContainerConfigs: []*cri.ContainerConfig{w.CtrConfig("one", "x")}})
	refused(t, "a folder without a pod", err, codes.InvalidArgument, "pod.json")
}
