// Package integration tests the real executable as root: every verb of the CRI over
// gRPC, restarts, crashes, bad input, images and networks.
package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPodLife(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("life", nil)
	ctr := w.Ctr(pod, "main", "echo out; echo err >&2; exec sleep 1000", nil)
	st := w.Status(ctr)
	if st.GetState() != cri.ContainerState_CONTAINER_RUNNING || st.GetStartedAt() < st.GetCreatedAt() {
		t.Errorf("after the start: %v", st)
	}
	w.Eventually("both lines are in the log", func() bool {
		text := w.LogText(st.GetLogPath())
		return strings.Contains(text, "out\n") && strings.Contains(text, "err\n")
	})
	if out, code := w.Exec(ctr, "echo hi; exit 3"); out != "hi" || code != 3 {
		t.Errorf("exec: %q, code %d", out, code)
	}
	if got := w.IP(pod); !strings.HasPrefix(got, "10.99.0.") {
		t.Errorf("address %q", got)
	}
	for range 2 { // stop and remove are idempotent
		if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
			t.Fatal(err)
		}
	}
	if st := w.Status(ctr); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 || st.GetReason() != "Error" {
		t.Errorf("after the stop: %v", st)
	}
	for range 2 {
		if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	again := w.Pod("life", nil) // the name is free the moment its pod is gone
	if again == pod {
		t.Error("an id was used twice")
	}
}

func TestGracePeriod(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("grace", nil)
	polite := w.Ctr(pod, "polite", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", nil)
	deaf := w.Ctr(pod, "deaf", "trap '' TERM; echo ready; while :; do sleep 0.05; done", nil)
	for _, id := range []string{polite, deaf} {
		w.Eventually("it handles signals", func() bool { return strings.Contains(w.LogText(w.Status(id).GetLogPath()), "ready") })
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: polite, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	if st := w.Status(polite); st.GetExitCode() != 7 {
		t.Errorf("the polite one ended with %d", st.GetExitCode())
	}
	// A long stop is shortened by a later one, and holds nobody up meanwhile.
	long := make(chan error, 1)
	go func() {
		_, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: deaf, Timeout: 3600})
		long <- err
	}()
	time.Sleep(100 * time.Millisecond)
	if st := w.Status(deaf); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("during the long stop: %v", st.GetState())
	}
	if _, code := w.Exec(deaf, "true"); code != 0 {
		t.Error("exec does not work during a long stop")
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: deaf, Timeout: 0}); err != nil {
		t.Fatal(err)
	}
	if err := <-long; err != nil {
		t.Errorf("the long stop, shortened: %v", err)
	}
	if st := w.Status(deaf); st.GetExitCode() != 137 {
		t.Errorf("the deaf one ended with %d", st.GetExitCode())
	}
}

func TestReasons(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("reasons", nil)
	for _, c := range []struct {
		name, script, reason string
		code                 int32
		memory               int64
	}{
		{"completed", "exit 0", "Completed", 0, 0},
		{"error", "exit 42", "Error", 42, 0},
		{"killed", "sh -c 'kill -9 $$'; exit $?", "Error", 137, 0},
		{"oom", "x=a; while :; do x=$x$x; done", "OOMKilled", 137, 24 << 20},
	} {
		id := w.Ctr(pod, c.name, c.script, func(cc *cri.ContainerConfig) {
			if c.memory > 0 {
				cc.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: c.memory}
			}
		})
		st := w.WaitExit(id)
		if st.GetReason() != c.reason || st.GetExitCode() != c.code || st.GetFinishedAt() < st.GetStartedAt() {
			t.Errorf("%s: reason %s, code %d, times %d %d", c.name, st.GetReason(), st.GetExitCode(), st.GetStartedAt(), st.GetFinishedAt())
		}
	}
}

func TestRunIsIdempotent(t *testing.T) {
	w := world.New(t, world.Options{})
	ids := make(chan string, 8)
	for range cap(ids) {
		go func() {
			r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("same")})
			if err != nil {
				t.Error(err)
			}
			ids <- r.GetPodSandboxId()
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("two pods of one name: %s and %s", first, id)
		}
	}
	if r, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(r.GetItems()) != 1 {
		t.Errorf("%d pods, %v", len(r.GetItems()), err)
	}
}

func TestLists(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	a, b := w.Pod("a", nil), w.Pod("b", nil)
	one, two := w.Ctr(a, "one", "sleep 1000", nil), w.Create(b, "two", "sleep 1000", nil)
	pods := func(f *cri.PodSandboxFilter) int {
		r, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.GetItems())
	}
	ctrs := func(f *cri.ContainerFilter) int {
		r, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{Filter: f})
		if err != nil {
			t.Fatal(err)
		}
		return len(r.GetContainers())
	}
	ready := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}
	notReady := &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}
	running := &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}
	for i, c := range []struct{ got, want int }{
		{pods(nil), 2}, {pods(&cri.PodSandboxFilter{Id: a}), 1}, {pods(&cri.PodSandboxFilter{Id: a[:10]}), 1},
		{pods(&cri.PodSandboxFilter{State: ready}), 2}, {pods(&cri.PodSandboxFilter{State: notReady}), 0},
		{pods(&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "b"}}), 1}, {pods(&cri.PodSandboxFilter{LabelSelector: map[string]string{"app": "c"}}), 0},
		{ctrs(nil), 2}, {ctrs(&cri.ContainerFilter{Id: one}), 1}, {ctrs(&cri.ContainerFilter{PodSandboxId: b}), 1}, {ctrs(&cri.ContainerFilter{State: running}), 1},
	} {
		if c.got != c.want {
			t.Errorf("list %d has %d entries, want %d", i, c.got, c.want)
		}
	}
	if st := w.Status(two[:12]); st.GetId() != two || st.GetState() != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("status by the beginning of an id: %v", st)
	}
	st, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: a, Verbose: true})
	if err != nil || st.GetStatus().GetAnnotations()["note"] != w.PodConfig("a").Annotations["note"] || !strings.Contains(st.GetInfo()["info"], "cgroup") {
		t.Errorf("pod status: %v %v", st, err)
	}
}

// What the kubelet shows of a program that is not there is for people.
func TestAbsentProgram(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("absent", nil)
	c := w.CtrConfig("main", "")
	c.Command = []string{"/no/such/program"}
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("absent")})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") || strings.Contains(err.Error(), "level=") {
		t.Errorf("%v", err)
	}
	if r, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{}); err != nil || len(r.GetContainers()) != 0 {
		t.Errorf("left: %v %v", r, err)
	}
}

// A container whose runtime has lost its state is stopped all the same.
func TestRuntimeStateLost(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("lost", nil)
	ctr := w.Ctr(pod, "main", "trap '' TERM; while :; do sleep 0.1; done", nil)
	if err := os.RemoveAll(filepath.Join(w.Dir, "run", "runtime", "runc", ctr)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	if st := w.Status(ctr); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137 {
		t.Errorf("after the stop: %v", st)
	}
}

// Calls that remove the same image at once all succeed: absence is what they want.
func TestRemoveImageAtOnce(t *testing.T) {
	w := world.New(t, world.Options{})
	for range 10 {
		id := w.Pull()
		failed := make(chan error, 8)
		for range cap(failed) {
			go func() {
				_, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: id}})
				failed <- err
			}()
		}
		for range cap(failed) {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
	}
}
