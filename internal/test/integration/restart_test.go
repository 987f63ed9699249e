package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ctrFacts are what a verbose ContainerStatus adds.
type ctrFacts struct {
	Pid        int    `json:"pid"`
	MonitorPid int    `json:"monitorPid"`
	Bundle     string `json:"bundle"`
}

func factsOf(w *world.World, ctr string) (f ctrFacts) {
	w.T.Helper()
	r, err := w.ContainerStatus(w.Ctx(), &cri.ContainerStatusRequest{ContainerId: ctr, Verbose: true})
	if err == nil {
		err = json.Unmarshal([]byte(r.GetInfo()["info"]), &f)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	return f
}

// podFacts are what a verbose PodSandboxStatus adds.
type podFacts struct {
	Infra struct {
		Monitor struct{ Pid int }
		Init    struct{ Pid int }
	} `json:"infra"`
	NetworkOwed string `json:"networkOwed"`
	Cgroup      string `json:"cgroup"`
}

func podFactsOf(w *world.World, pod string) (f podFacts) {
	w.T.Helper()
	r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err == nil {
		err = json.Unmarshal([]byte(r.GetInfo()["info"]), &f)
	}
	if err != nil {
		w.T.Fatal(err)
	}
	return f
}

func isReady(w *world.World, pod string) bool {
	w.T.Helper()
	r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetStatus().GetState() == cri.PodSandboxState_SANDBOX_READY
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func sharedPID(c *cri.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
}

// TestRestart ends the daemon in both ways under containers that write.
func TestRestart(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("restart", nil)
	ctr := w.Ctr(pod, "writer", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.005; done", nil)
	created := w.Create(pod, "waits", "exit 4", nil)
	before := factsOf(w, ctr)
	for range 2 {
		w.Restart()
		w.Stop()
		w.Start()
	}
	if after := factsOf(w, ctr); after != before {
		t.Errorf("the container was %+v and is %+v", before, after)
	}
	if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: created}); err != nil {
		t.Errorf("a container that was created before: %v", err)
	}
	if st := w.WaitExit(created); st.GetExitCode() != 4 {
		t.Errorf("it ended with %d", st.GetExitCode())
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Error(err)
	}
	lines := strings.Fields(strings.ReplaceAll(w.LogText(w.Status(ctr).GetLogPath()), "line ", ""))
	for i, l := range lines {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, l)
		}
	}
	if len(lines) < 20 {
		t.Errorf("%d lines are too few for four restarts", len(lines))
	}
}

// waitGone waits until processes have ended.
func waitGone(w *world.World, pids ...int) {
	w.T.Helper()
	w.Eventually(fmt.Sprintf("processes %v end", pids), func() bool {
		for _, p := range pids {
			if alive(p) {
				return false
			}
		}
		return true
	})
}

// TestEndsWhileAway lets containers end while no daemon is there.
func TestEndsWhileAway(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("away", nil)
	gate := filepath.Join(w.Dir, "gate")
	if err := os.Mkdir(gate, 0o755); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, script, reason string
		code                 int32
		memory               int64
		id                   string
	}{
		{"zero", "exit 0", "Completed", 0, 0, ""},
		{"code", "exit 41", "Error", 41, 0, ""},
		{"signal", "kill -SEGV $$; sleep 10", "Error", 139, 0, ""},
		{"oom", "x=a; while :; do x=$x$x; done", "OOMKilled", 137, 24 << 20, ""},
	}
	var monitors []int
	for i := range cases {
		c := &cases[i]
		script := "while [ ! -e /gate/open ]; do sleep 0.02; done; " + c.script
		if c.name == "signal" { // process 1 of a namespace is spared by its own signals
			script = "sh -c '" + strings.ReplaceAll(script, "'", "") + "'; exit $?"
		}
		c.id = w.Ctr(pod, c.name, script, func(cc *cri.ContainerConfig) {
			cc.Mounts = []*cri.Mount{{HostPath: gate, ContainerPath: "/gate", Readonly: true}}
			if c.memory > 0 {
				cc.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: c.memory}
			}
		})
		monitors = append(monitors, factsOf(w, c.id).MonitorPid)
	}
	w.Kill()
	from := time.Now()
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	waitGone(w, monitors...)
	to := time.Now()
	w.Start()
	for _, c := range cases {
		st := w.Status(c.id)
		if st.GetExitCode() != c.code || st.GetReason() != c.reason || st.GetState() != cri.ContainerState_CONTAINER_EXITED {
			t.Errorf("%s: %v, code %d, reason %s %s", c.name, st.GetState(), st.GetExitCode(), st.GetReason(), st.GetMessage())
		}
		if at := time.Unix(0, st.GetFinishedAt()); at.Before(from.Add(-time.Second)) || at.After(to.Add(time.Second)) {
			t.Errorf("%s: finished at %s, not between %s and %s", c.name, at, from, to)
		}
	}
}

// TestMonitorKilled takes away the process that knows a container's end.
func TestMonitorKilled(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("monitor", nil)
	for _, away := range []bool{false, true} {
		ctr := w.Ctr(pod, fmt.Sprintf("lost%t", away), "sleep 1000", nil)
		f := factsOf(w, ctr)
		if away {
			w.Kill()
		}
		syscall.Kill(f.MonitorPid, syscall.SIGKILL)
		if away {
			waitGone(w, f.MonitorPid)
			w.Start()
		}
		st := w.WaitExit(ctr)
		if st.GetExitCode() != 255 || st.GetReason() != "MonitorLost" || st.GetMessage() == "" {
			t.Errorf("away %t: code %d, reason %s, %q", away, st.GetExitCode(), st.GetReason(), st.GetMessage())
		}
		waitGone(w, f.Pid)
		if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
			t.Error(err)
		}
	}
	if !isReady(w, pod) {
		t.Error("the pod is not ready")
	}
	again := w.Ctr(pod, "lostfalse", "exit 0", nil)
	w.WaitExit(again)
}

// TestPodBroken takes away what a pod stands on.
func TestPodBroken(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	live := w.Pod("live", sharedPID)
	syscall.Kill(podFactsOf(w, live).Infra.Init.Pid, syscall.SIGKILL)
	w.Eventually("the pod without infra process is not ready", func() bool { return !isReady(w, live) })

	away := w.Pod("away", sharedPID)
	in := w.Ctr(away, "in", "sleep 1000", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	})
	pins := w.Pod("pins", nil)
	beside := w.Ctr(pins, "beside", "sleep 1000", nil)
	sound := w.Pod("sound", nil)
	infra, f := podFactsOf(w, away).Infra, factsOf(w, in)
	w.Kill()
	syscall.Kill(infra.Init.Pid, syscall.SIGKILL)
	waitGone(w, infra.Init.Pid, infra.Monitor.Pid, f.Pid, f.MonitorPid) // the namespace goes with its first process
	if err := unix.Unmount(filepath.Join(w.Dir, "run/pods", pins, "net"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	w.Start()
	for what, pod := range map[string]string{"live": live, "away": away, "pins": pins} {
		if isReady(w, pod) {
			t.Errorf("pod %s is ready", what)
		}
	}
	if !isReady(w, sound) {
		t.Error("the sound pod is not ready")
	}
	if st := w.Status(in); st.GetExitCode() != 137 {
		t.Errorf("a container of the lost PID namespace: %v, code %d", st.GetState(), st.GetExitCode())
	}
	for _, pod := range []string{live, away, pins} {
		if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	}
	if st := w.Status(beside); st.GetState() != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("a container of the stopped pod is %v", st.GetState())
	}
}

// reboot makes the daemon's folders look as after a restart of the machine: no
// process, nothing in RUN, records of another boot.
func reboot(w *world.World, pids []int) {
	w.T.Helper()
	w.Kill()
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	waitGone(w, pids...)
	run := filepath.Join(w.Dir, "run")
	for range 2 {
		data, _ := os.ReadFile("/proc/self/mountinfo")
		lines := strings.Split(string(data), "\n")
		for i := len(lines) - 1; i >= 0; i-- {
			if f := strings.Fields(lines[i]); len(f) > 4 && (strings.HasPrefix(f[4], run) || strings.HasPrefix(f[4], w.Dir+"/root/overlay")) {
				unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
	}
	if err := os.RemoveAll(run); err != nil {
		w.T.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(w.Dir, "state/*/*/status.json"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			w.T.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(data), `"boot":"`)
		if !ok {
			w.T.Fatalf("%s has no boot id", f)
		}
		id, _, _ := strings.Cut(rest, `"`)
		if err := os.WriteFile(f, []byte(strings.Replace(string(data), id, "an-earlier-boot", 1)), 0o600); err != nil {
			w.T.Fatal(err)
		}
	}
}

func TestReboot(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	held := w.Holds()
	plain, shared := w.Pod("plain", nil), w.Pod("shared", sharedPID)
	ran := w.Ctr(plain, "ran", "sleep 1000", nil)
	over := w.Ctr(plain, "over", "exit 3", nil)
	made := w.Create(shared, "made", "sleep 1000", nil)
	w.WaitExit(over)
	a, b, i := factsOf(w, ran), factsOf(w, made), podFactsOf(w, shared).Infra
	reboot(w, []int{a.Pid, a.MonitorPid, b.Pid, b.MonitorPid, i.Init.Pid, i.Monitor.Pid})
	w.Start()
	for _, pod := range []string{plain, shared} {
		if isReady(w, pod) {
			t.Errorf("pod %s is ready after a reboot", pod)
		}
	}
	if st := w.Status(over); st.GetExitCode() != 3 || st.GetReason() != "Error" {
		t.Errorf("what was over before: code %d, reason %s", st.GetExitCode(), st.GetReason())
	}
	for _, id := range []string{ran, made} {
		if st := w.Status(id); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetReason() != "ContainerStatusUnknown" || st.GetExitCode() != 255 {
			t.Errorf("after a reboot: %v, code %d, reason %s", st.GetState(), st.GetExitCode(), st.GetReason())
		}
	}
	for _, h := range w.Holds() {
		if strings.HasPrefix(h, "link veth") || strings.Contains(h, "/cni/results/") {
			t.Errorf("the network still holds %s", h)
		}
	}
	// The kubelet makes the pods anew, with the next attempt.
	again := w.Pod("plain", func(c *cri.PodSandboxConfig) { c.Metadata.Attempt = 1 })
	w.WaitExit(w.Ctr(again, "ran", "exit 0", nil))
	removePods(w, "")
	for _, l := range w.Leaks(append(held, "link mtest0", "nft: table inet monocrio_masquerade")...) {
		t.Errorf("left behind: %s", l)
	}
}

// TestDamagedRecords damages the records of some pods; the daemon must serve the
// others, set the damaged ones aside, and sweep what they described.
func TestDamagedRecords(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	sound := w.Pod("sound", nil)
	soundCtr := w.Ctr(sound, "sound", "sleep 1000", nil)
	held := w.Holds()
	var gone []int
	pods, ctrs := make([]string, 3), make([]string, 3)
	for i := range pods {
		pods[i] = w.Pod(fmt.Sprintf("damaged%d", i), sharedPID)
		ctrs[i] = w.Ctr(pods[i], "c", "sleep 1000", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		})
		gone = append(gone, factsOf(w, ctrs[i]).Pid, podFactsOf(w, pods[i]).Infra.Init.Pid)
	}
	w.Kill()
	for path, text := range map[string]string{
		"pods/" + pods[0] + "/status.json":           "{\"kind\": \"pod\", \"vers", // cut off
		"pods/" + pods[1] + "/request.json":          "",
		"containers/" + ctrs[2] + "/request.json":    "\x00\x00\x00",
		"containers/" + ctrs[1] + "/status.json":     `{"kind":"pod","version":1,"body":{}}`, // of another kind
		"containers/not-an-id/status.json":           "?",
		"pods/" + strings.Repeat("f", 64) + "/stray": "?",
	} {
		path = filepath.Join(w.Dir, "state", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.Start()
	waitGone(w, gone[0], gone[1], gone[2], gone[3], gone[4])
	if !isReady(w, sound) || w.Status(soundCtr).GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Error("the sound pod was harmed")
	}
	if !isReady(w, pods[2]) {
		t.Error("a pod was harmed by its container's record")
	}
	quarantine := filepath.Join(w.Dir, "state/quarantine")
	entries, _ := os.ReadDir(quarantine)
	if len(entries) != 6 || !strings.Contains(w.Log(), quarantine) {
		t.Errorf("%d records are in quarantine, want 6: %v", len(entries), entries)
	}
	removePods(w, sound)
	for _, e := range entries {
		os.RemoveAll(filepath.Join(quarantine, e.Name()))
	}
	os.Remove(quarantine)
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind: %s", l)
	}
}

// TestNewerRecord plays a downgrade: what a newer version wrote is neither read nor
// harmed.
func TestNewerRecord(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("newer", nil)
	ctr := w.Ctr(pod, "newer", "sleep 1000", nil)
	pid := factsOf(w, ctr).Pid
	version := func(from, to string) {
		for _, f := range []string{"pods/" + pod, "containers/" + ctr} {
			path := filepath.Join(w.Dir, "state", f, "status.json")
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, []byte(strings.Replace(string(data), `"version":`+from, `"version":`+to, 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Kill()
	version("1", "99")
	w.Start()
	if r, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(r.GetItems()) != 0 {
		t.Errorf("pods: %v %v", r, err)
	}
	other := w.Pod("other", nil)
	w.Kill()
	version("99", "1")
	w.Start()
	if !isReady(w, pod) || !isReady(w, other) || !alive(pid) || w.Status(ctr).GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Error("the pod of the newer version was harmed by the older one")
	}
	if w.IP(pod) == w.IP(other) {
		t.Error("an address was given away twice")
	}
}

// TestManyPods restarts the daemon over many pods and tells how long it takes.
func TestManyPods(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	const pods, parallel = 50, 4
	ctrs := make([]string, pods)
	next := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range next {
				r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig(fmt.Sprintf("many%d", i))})
				if err != nil {
					t.Error(err)
					continue
				}
				c, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), Config: w.CtrConfig("c", "exec sleep 1000")})
				if err == nil {
					_, err = w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: c.GetContainerId()})
				}
				if err != nil {
					t.Error(err)
				}
				ctrs[i] = c.GetContainerId()
			}
		})
	}
	begin := time.Now()
	for i := range pods {
		next <- i
	}
	close(next)
	wg.Wait()
	t.Logf("%d pods with a container, %d at a time: %s", pods, parallel, time.Since(begin))
	w.Kill()
	begin = time.Now()
	w.Start()
	t.Logf("restart over %d pods: %s until the first answer", pods, time.Since(begin))
	for _, id := range ctrs {
		if st := w.Status(id); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after the restart: %v", st)
		}
	}
}
