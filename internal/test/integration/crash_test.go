package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// life is what a kubelet does with one pod, call by call. Each call may be repeated
// after it failed.
type life struct {
	w        *world.World
	name     string
	port     int32 // on the host
	pod, ctr string
}

var lifeCalls = []struct {
	name string
	do   func(*life) error
}{
	{"RunPodSandbox", func(l *life) error {
		c := l.w.PodConfig(l.name)
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD // with an infra process
		c.PortMappings = []*cri.PortMapping{{HostPort: l.port, ContainerPort: 80}}
		r, err := l.w.RunPodSandbox(l.w.Ctx(), &cri.RunPodSandboxRequest{Config: c})
		l.pod = r.GetPodSandboxId()
		return err
	}},
	{"CreateContainer", func(l *life) error {
		c := l.w.CtrConfig("main", "exec sleep 1000")
		c.Mounts = []*cri.Mount{{ContainerPath: "/image", Readonly: true, Image: &cri.ImageSpec{Image: l.w.Image}}}
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		r, err := l.w.CreateContainer(l.w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: l.pod, Config: c, SandboxConfig: l.w.PodConfig(l.name)})
		l.ctr = r.GetContainerId()
		return err
	}},
	{"StartContainer", func(l *life) error {
		r, err := l.w.ContainerStatus(l.w.Ctx(), &cri.ContainerStatusRequest{ContainerId: l.ctr})
		if err != nil || r.GetStatus().GetState() == cri.ContainerState_CONTAINER_RUNNING {
			return err // the kubelet looks first
		}
		_, err = l.w.StartContainer(l.w.Ctx(), &cri.StartContainerRequest{ContainerId: l.ctr})
		return err
	}},
	{"StopContainer", func(l *life) error {
		_, err := l.w.StopContainer(l.w.Ctx(), &cri.StopContainerRequest{ContainerId: l.ctr})
		return err
	}},
	{"ContainerStatus", func(l *life) error {
		r, err := l.w.ContainerStatus(l.w.Ctx(), &cri.ContainerStatusRequest{ContainerId: l.ctr})
		if st := r.GetStatus(); err == nil && (st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 137) {
			l.w.T.Errorf("%s: after the stop: %s, code %d, %s %s", l.name, st.GetState(), st.GetExitCode(), st.GetReason(), st.GetMessage())
		}
		return err
	}},
	{"RemoveContainer", func(l *life) error {
		_, err := l.w.RemoveContainer(l.w.Ctx(), &cri.RemoveContainerRequest{ContainerId: l.ctr})
		return err
	}},
	{"StopPodSandbox", func(l *life) error {
		_, err := l.w.StopPodSandbox(l.w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: l.pod})
		return err
	}},
	{"RemovePodSandbox", func(l *life) error {
		_, err := l.w.RemovePodSandbox(l.w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: l.pod})
		return err
	}},
}

// from makes the calls from the n-th one on until one fails.
func (l *life) from(n int) (int, error) {
	for ; n < len(lifeCalls); n++ {
		if err := lifeCalls[n].do(l); err != nil {
			return n, err
		}
	}
	return n, nil
}

// steady is a pod that must live through everything.
type steady struct {
	pod, ctr string
	pid      string
}

func newSteady(w *world.World) *steady {
	s := &steady{}
	s.pod = w.Pod("steady", nil)
	s.ctr = w.Ctr(s.pod, "steady", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done", nil)
	w.Eventually("it handles signals", func() bool { return strings.Contains(w.LogText(w.Status(s.ctr).GetLogPath()), "ready") })
	s.pid = pidOf(w, s.ctr)
	return s
}

// pidOf is the first process of a container, as the verbose status tells it.
func pidOf(w *world.World, ctr string) string {
	w.T.Helper()
	return strconv.Itoa(factsOf(w, ctr).Pid)
}

func (s *steady) check(w *world.World, when string) {
	w.T.Helper()
	if st := w.Status(s.ctr); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		w.T.Errorf("%s: the steady container is %v %s %s", when, st.GetState(), st.GetReason(), st.GetMessage())
		return
	}
	if pid := pidOf(w, s.ctr); pid != s.pid || pid == "" {
		w.T.Errorf("%s: the steady container was process %s and is %s", when, s.pid, pid)
	}
	r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: s.pod})
	if err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY || r.GetStatus().GetNetwork().GetIp() == "" {
		w.T.Errorf("%s: the steady pod: %v %v", when, r.GetStatus(), err)
	}
}

// end lets the steady container exit by itself: its code must be reported by a
// daemon that did not start it.
func (s *steady) end(w *world.World) {
	w.T.Helper()
	if out, code := w.Exec(s.ctr, "echo alive"); out != "alive" || code != 0 {
		w.T.Errorf("exec in the steady container: %q %d", out, code)
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: s.ctr, Timeout: 30}); err != nil {
		w.T.Error(err)
	}
	if st := w.Status(s.ctr); st.GetExitCode() != 42 || st.GetReason() != "Error" {
		w.T.Errorf("the steady container ended with %d, %s", st.GetExitCode(), st.GetReason())
	}
}

// crashPoints are all places at which the daemon can be told to die.
func crashPoints() (list []string) {
	for kind, steps := range map[string]string{"pod": "files logs cgroup namespaces network infra", "container": "rootfs checkpoint volumes bundle process"} {
		for _, step := range strings.Fields(steps) {
			for _, when := range []string{"before-up", "after-up", "before-down", "after-down"} {
				list = append(list, kind+"."+step+"."+when)
			}
		}
	}
	return append(list, "pod.ready.before-transition", "pod.stop.before-down", "pod.notready.before-transition",
		"pod.removing.after-transition", "pod.record.before-delete", "container.created.before-transition",
		"container.start.before-up", "container.started.before-transition", "container.removing.after-transition", "container.record.before-delete")
}

// TestCrashMatrix kills the daemon at every point of a pod's life. The next daemon
// must undo what was half made, answer the repeated call, and leave nothing.
func TestCrashMatrix(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	crashAt(t, w, crashPoints())
}

func crashAt(t *testing.T, w *world.World, points []string) {
	s := newSteady(w)
	held := w.Holds()
	for n, point := range points {
		w.Kill()
		w.Start("MONOCRIO_CRASH=" + point)
		l := &life{w: w, name: fmt.Sprintf("crash%d", n), port: 18080}
		call, err := l.from(0)
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: the daemon lives; call %d: %v", point, call, err)
			continue
		}
		w.WaitEnd()
		where := fmt.Sprintf("%s, in %s", point, lifeCalls[call].name)
		// A daemon that dies during recovery at the same point changes nothing.
		if strings.HasSuffix(point, "-down") && w.TryStart("MONOCRIO_CRASH="+point) == nil {
			w.Kill()
		}
		w.Start()
		s.check(w, where)
		checkUndone(w, where, call, s, l)
		if call, err = l.from(call); err != nil {
			t.Errorf("%s: the repeated life fails in %s: %v", where, lifeCalls[call].name, err)
		}
		removePods(w, s.pod)
		for _, leak := range w.Leaks(held...) {
			t.Errorf("%s: left behind: %s", where, leak)
		}
		if t.Failed() {
			break // the rest would only repeat it
		}
	}
	s.end(w)
}

// checkUndone looks for what a cut-short RunPodSandbox or CreateContainer left.
func checkUndone(w *world.World, where string, call int, s *steady, l *life) {
	w.T.Helper()
	pods, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		w.T.Fatal(err)
	}
	ctrs, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{})
	if err != nil {
		w.T.Fatal(err)
	}
	wantPods, wantCtrs := 2, 2
	switch lifeCalls[call].name {
	case "RunPodSandbox", "RemovePodSandbox":
		wantPods, wantCtrs = 1, 1
	case "CreateContainer", "RemoveContainer", "StopPodSandbox":
		wantCtrs = 1
	}
	if n := len(pods.GetItems()); n != wantPods {
		w.T.Errorf("%s: %d pods, want %d", where, n, wantPods)
	}
	if n := len(ctrs.GetContainers()); n != wantCtrs {
		w.T.Errorf("%s: %d containers, want %d", where, n, wantCtrs)
	}
}

func removePods(w *world.World, except string) {
	w.T.Helper()
	r, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		w.T.Fatal(err)
	}
	for _, p := range r.GetItems() {
		if p.GetId() == except {
			continue
		}
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
			w.T.Error(err)
		}
	}
}

// TestRandomKills kills the daemon at random instants of pods' lives.
func TestRandomKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("MONOCRIO_SEED"); v != "" {
		fmt.Sscan(v, &seed)
	}
	t.Logf("MONOCRIO_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := world.New(t, world.Options{})
	w.Pull()
	s := newSteady(w)
	held := w.Holds()
	const rounds, parallel = 20, 3
	for round := range rounds {
		results := make(chan error, parallel)
		lives := make([]*life, parallel)
		done := make(chan struct{})
		for i := range lives {
			lives[i] = &life{w: w, name: fmt.Sprintf("r%d-%d", round, i), port: int32(18080 + i)}
			go func() { results <- liveOn(lives[i], done) }()
		}
		time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond)
		w.Kill()
		w.Start()
		close(done)
		for range lives {
			if err := <-results; err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		s.check(w, fmt.Sprintf("round %d", round))
		removePods(w, s.pod)
		for _, leak := range w.Leaks(held...) {
			t.Errorf("round %d: left behind: %s", round, leak)
		}
		if t.Failed() {
			break
		}
	}
	s.end(w)
}

// liveOn makes the calls of a life; while the daemon is away the call is repeated.
// Once it is back for good each call must succeed within a few tries: a call of
// before may still be on its way.
func liveOn(l *life, back chan struct{}) error {
	tries := 0
	for n := 0; n < len(lifeCalls); {
		at, err := l.from(n)
		if err == nil {
			return nil
		}
		if at > n {
			n, tries = at, 0
		}
		select {
		case <-back:
			tries++
		default:
		}
		if tries > 3 || status.Code(err) != codes.Unavailable {
			return fmt.Errorf("%s of %s: %w", lifeCalls[at].name, l.name, err)
		}
		time.Sleep(10 * time.Millisecond)
		l.w.Redial()
	}
	return nil
}
