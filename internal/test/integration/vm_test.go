package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/fakeshim"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func glob(pattern string) []string {
	found, _ := filepath.Glob(pattern)
	return found
}

// machines starts a daemon whose default handler is a shim, with lines in its table.
func machines(t *testing.T, lines string) *world.World {
	t.Helper()
	w := world.New(t, world.Options{Late: true})
	bin := filepath.Join(w.Dir, "shims")
	must(t, os.Mkdir(bin, 0o755))
	shim, err := fakeshim.Install(bin)
	must(t, err)
	config, err := json.Marshal(fakeshim.Config{Runtime: filepath.Join(w.Dir, "run/bin/runc")})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(bin, "shim.json"), config, 0o600))
	inTable(w, "crio.runtime", `default_runtime = "vm"`)
	inTable(w, "crio.runtime.runtimes.vm", fmt.Sprintf("runtime_type = \"vm\"\nruntime_path = %q\nruntime_config_path = %q\n%s", shim, filepath.Join(bin, "shim.json"), lines))
	w.AtEnd(func() {
		for _, f := range append(glob(bin+"/"+fakeshim.Sockets+"*"), glob(w.Dir+"/run/runtime/vm/*")...) {
			t.Errorf("%s was left", f)
		}
	})
	w.Start()
	w.Pull()
	return w
}

// shims lists the processes that serve pods.
func shims(t testing.TB) (list []int) { return named(t, fakeshim.Name+"\x00-socket") }

// named lists the processes whose command line begins so.
func named(t testing.TB, begin string) (list []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); strings.HasPrefix(string(args), begin) {
			list = append(list, pid)
		}
	}
	return list
}

// The calls of the CRI through a shim: what a container writes, its codes, exec, attach,
// signals, limits, statistics, and a daemon that is gone for a while.
//
// Options: crio.runtime.runtimes.NAME.runtime_type, crio.runtime.runtimes.NAME.runtime_config_path
func TestVM(t *testing.T) {
	w := machines(t, "")
	pod := w.Pod("vm", func(c *cri.PodSandboxConfig) {
		c.Linux.Overhead = &cri.LinuxContainerResources{MemoryLimitInBytes: 256 << 20}
	})
	if out, st := w.Output(pod, "short", "echo out; echo err >&2; cat /etc/hostname; exit 7", nil); !strings.Contains(out, "out\n") ||
		!strings.Contains(out, "err\n") || !strings.Contains(out, "vm\n") || st.GetExitCode() != 7 {
		t.Errorf("%q, %v", out, st)
	}
	main := w.Ctr(pod, "main", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done", nil)
	if n := shims(t); len(n) != 1 {
		t.Errorf("one pod has the shims %v", n)
	}
	if out, code := w.Exec(main, "echo inside; exit 4"); out != "inside" || code != 4 {
		t.Errorf("exec: %q, %d", out, code)
	}
	_, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: main, Cmd: []string{"sleep", "1000"}, Timeout: 1})
	refused(t, "exec with a time limit", err, codes.DeadlineExceeded, "timed out")
	if ip := w.IP(pod); ip == "" {
		t.Error("the pod has no address")
	} else if out, code := w.Exec(main, "ip addr show eth0"); code != 0 || !strings.Contains(out, ip) {
		t.Errorf("inside is %q, outside %s", out, ip)
	}
	infra := filepath.Join(w.Dir, "run/pods", pod, "infra/config.json")
	if data, err := os.ReadFile(infra); err != nil || !strings.Contains(string(data), `"pod-linux-overhead.crio.io":"{`) {
		t.Errorf("the shim is not told of the pod's overhead: %v", err)
	}
	vmTerminals(t, w, pod, main)
	vmLimits(t, w, main)
	w.Kill()
	w.Start()
	if out, code := w.Exec(main, "echo again"); out != "again" || code != 0 {
		t.Errorf("exec after a restart: %q, %d", out, code)
	}
	_, err = w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: main, Timeout: 60})
	must(t, err)
	if st := w.WaitExit(main); st.GetExitCode() != 5 || w.LogText(st.GetLogPath()) != "up\nbye\n" {
		t.Errorf("%v: %q", st, w.LogText(st.GetLogPath()))
	}
	deaf := w.Ctr(pod, "deaf", "trap '' TERM; sleep 1000 & wait; sleep 1000", nil)
	_, err = w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: deaf, Timeout: 1})
	must(t, err)
	if st := w.WaitExit(deaf); st.GetExitCode() != 137 {
		t.Errorf("%v", st)
	}
	greedy := w.Ctr(pod, "greedy", "x=$(head -c 200000000 /dev/zero | tr '\\000' x)", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20}
	})
	if st := w.WaitExit(greedy); len(glob("/sys/fs/cgroup/memory")) == 1 && st.GetReason() != "OOMKilled" {
		t.Errorf("want of memory: %v", st)
	}
	_, err = w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
	must(t, err)
	if n := shims(t); len(n) != 0 {
		t.Errorf("a stopped pod has the shims %v", n)
	}
}

// vmTerminals tries exec and attach, with terminals and without.
func vmTerminals(t *testing.T, w *world.World, pod, main string) {
	t.Helper()
	s := current()[0]
	var out screen
	window := make(sizes, 1)
	defer close(window)
	window <- remotecommand.TerminalSize{Width: 100, Height: 40}
	err := within(t, "a terminal", func(ctx context.Context) error {
		address := execURL(w, shell(main, `until [ "$(stty size)" = "40 100" ]; do sleep 0.05; done; read word; echo got $word; exit 3`, true))
		return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("word\n"), Stdout: &out, Tty: true, TerminalSizeQueue: window})
	})
	if wantExit(t, s, err, 3); !strings.Contains(out.String(), "got word\r\n") {
		t.Errorf("%q", out.String())
	}
	talk := func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }
	reads := w.Ctr(pod, "reads", "while read x; do echo \"<$x>\"; done; echo over", talk)
	address := attachURL(w, &cri.AttachRequest{ContainerId: reads, Stdin: true, Stdout: true, Stderr: true})
	a := start(t, s, address, remotecommand.StreamOptions{Stdin: strings.NewReader("a\nb\n")})
	must(t, a.wait(t, "attach"))
	if st := w.WaitExit(reads); st.GetExitCode() != 0 || w.LogText(st.GetLogPath()) != "<a>\n<b>\nover\n" {
		t.Errorf("attach: %v, %q, seen %q", st, w.LogText(st.GetLogPath()), a.out.String())
	}
	tty := w.Ctr(pod, "tty", `until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done; read x; echo "<$x>"; tty`, func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
	keys, typing := io.Pipe()
	defer typing.Close()
	wide := make(sizes, 1)
	defer close(wide)
	wide <- remotecommand.TerminalSize{Width: 77, Height: 33}
	address = attachURL(w, &cri.AttachRequest{ContainerId: tty, Stdin: true, Stdout: true, Tty: true})
	b := start(t, s, address, remotecommand.StreamOptions{Stdin: keys, Tty: true, TerminalSizeQueue: wide})
	_, err = io.WriteString(typing, "key\n")
	must(t, err)
	if st := w.WaitExit(tty); st.GetExitCode() != 0 || !strings.Contains(w.LogText(st.GetLogPath()), "<key>\r\n/dev/") {
		t.Errorf("terminal: %v, %q", st, w.LogText(st.GetLogPath()))
	}
	_ = b.wait(t, "attach to a terminal")
}

// vmLimits changes limits and reads statistics, which come from inside.
func vmLimits(t *testing.T, w *world.World, id string) {
	t.Helper()
	_, err := w.UpdateContainerResources(w.Ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 99 << 20}})
	must(t, err)
	found := glob("/sys/fs/cgroup/memory/crio/pod-*/guest-" + id + "/memory.limit_in_bytes")
	if len(found) == 1 {
		if data, err := os.ReadFile(found[0]); err != nil || strings.TrimSpace(string(data)) != strconv.Itoa(99<<20) {
			t.Errorf("the limit inside is %s, %v", data, err)
		}
	}
	r, err := w.ContainerStats(w.Ctx(), &cri.ContainerStatsRequest{ContainerId: id})
	must(t, err)
	// The limit is known inside alone; that of the pod, on the node, is 256 MiB.
	s := r.GetStats()
	if left := s.GetMemory().GetAvailableBytes().GetValue(); s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 ||
		s.GetMemory().GetUsageBytes().GetValue() == 0 || len(found) == 1 && (left == 0 || left > 99<<20) {
		t.Errorf("statistics: %v", s)
	}
}

// Whichever process of a pod is killed, what it ran is told to have ended and nothing
// stays behind.
func TestVMKills(t *testing.T) {
	w := machines(t, "")
	for _, c := range []struct {
		name   string
		victim func(pod, ctr string) int
		code   int32
		ready  bool // the pod stays so
	}{
		{"shim", func(string, string) int { return shims(t)[0] }, 137, false},
		{"proxy", func(_, ctr string) int { return factsOf(w, ctr).Pid }, 137, true},
		{"monitor", func(_, ctr string) int { return factsOf(w, ctr).MonitorPid }, 255, true},
		{"proxy of infra", func(pod, _ string) int { return podFactsOf(w, pod).Infra.Init.Pid }, -1, false},
		{"monitor of infra", func(pod, _ string) int { return podFactsOf(w, pod).Infra.Monitor.Pid }, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := w.Pod("kills-"+strings.ReplaceAll(c.name, " ", "-"), nil)
			id := w.Ctr(pod, "main", "exec sleep 1000", nil)
			inside := "sleep\x001000"
			w.Eventually("it runs", func() bool { return len(named(t, inside)) == 1 })
			must(t, syscall.Kill(c.victim(pod, id), syscall.SIGKILL))
			if c.code >= 0 {
				if st := w.WaitExit(id); st.GetExitCode() != c.code {
					t.Errorf("%v", st)
				}
				w.Eventually("what ran is gone", func() bool { return len(named(t, inside)) == 0 })
			}
			w.Eventually("the pod's state", func() bool { return isReady(w, pod) == c.ready })
			_, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
			must(t, err)
			if left := append(shims(t), named(t, inside)...); len(left) > 0 {
				t.Errorf("after the stop there are %v", left)
			}
			_, err = w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			must(t, err)
		})
	}
}

// TestVMCrash kills the daemon where the machine and what is in it come and go.
func TestVMCrash(t *testing.T) {
	w := machines(t, "")
	crashAt(t, w, slices.DeleteFunc(crashPoints(), func(p string) bool {
		return !strings.Contains(p, ".infra.") && !strings.Contains(p, ".process.") && !strings.Contains(p, "start")
	}))
}

// Containers that share a PID namespace see each other, and nobody else.
func TestVMSharedPID(t *testing.T) {
	w := machines(t, "")
	pod := w.Pod("shared", sharedPID)
	share := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	w.Ctr(pod, "first", "exec sleep 4321", share)
	second := w.Ctr(pod, "second", "exec sleep 1000", share)
	w.Eventually("the other's process", func() bool {
		out, _ := w.Exec(second, "ps -o pid,args")
		if strings.Contains(out, fakeshim.Name) || strings.Contains(out, "conmon") {
			t.Fatalf("the node's processes are seen: %s", out)
		}
		return strings.Contains(out, "sleep 4321") && strings.Contains(out, "/pause")
	})
	third := w.Ctr(pod, "debugger", "exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: second}
	})
	if out, _ := w.Exec(third, "ps -o pid,args"); !strings.Contains(out, "sleep 4321") || strings.Contains(out, "conmon") {
		t.Errorf("a target's namespace: %s", out)
	}
}

// A daemon that is killed under an exec leaves it without anybody who waits: the next
// daemon ends it.
func TestVMExecOrphan(t *testing.T) {
	w := machines(t, "")
	id := w.Ctr(w.Pod("orphan", nil), "main", "exec sleep 1000", nil)
	go func() {
		_, _ = w.ExecSync(context.Background(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "1234"}})
	}()
	w.Eventually("the exec", func() bool { return len(named(t, "sleep\x001234")) == 1 })
	w.Kill()
	w.Start()
	w.Eventually("the end of the exec", func() bool { return len(named(t, "sleep\x001234")) == 0 })
	if st := w.Status(id); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%v", st)
	}
	if time.Duration(w.Status(id).GetStartedAt()) == 0 {
		t.Error("it has not started")
	}
}

// A shim that pulls images inside its machine is told which. What it logs is kept beside
// the record of the container with which it began.
//
// Options: crio.runtime.runtimes.NAME.runtime_pull_image
func TestVMGuestPull(t *testing.T) {
	w := machines(t, "runtime_pull_image = true")
	pod := w.Pod("guest", nil)
	w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Eventually("the shim's log", func() bool {
		data, err := os.ReadFile(filepath.Join(w.Dir, "run/runtime/vm", pod, "shim.log"))
		must(t, err)
		return strings.Contains(string(data), `"source":"`+w.Image+`"`) && strings.Contains(string(data), `"source":"pause"`)
	})
}

// Handlers with a machine and without one stand side by side, and pods of both restart
// with the daemon.
//
// Options: crio.runtime.runtimes.NAME.inherit_default_runtime
func TestVMBeside(t *testing.T) {
	w := machines(t, "")
	inTable(w, "crio.runtime.runtimes.plain", "runtime_path = \""+w.Dir+"/run/bin/runc\"")
	inTable(w, "crio.runtime.runtimes.heir", "inherit_default_runtime = true")
	w.Restart()
	count := func(handler string) int {
		r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("beside-" + handler), RuntimeHandler: handler})
		must(t, err)
		id := w.Ctr(r.GetPodSandboxId(), "main", "exec sleep 1000", nil)
		w.Restart()
		if out, code := w.Exec(id, "echo on"); out != "on" || code != 0 {
			t.Errorf("%s: %q, %d", handler, out, code)
		}
		return len(shims(t))
	}
	if plain, heir := count("plain"), count("heir"); plain != 0 || heir != 1 {
		t.Errorf("shims: %d, then %d", plain, heir)
	}
}
