package early_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// dir holds the real executable under its names.
var dir string

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "monocrio-early-"); err == nil {
		bin := filepath.Join(dir, "monocrio")
		if given := os.Getenv("MONOCRIO_BIN"); given != "" {
			err = os.Symlink(given, bin)
		} else {
			cmd := exec.Command("../../scripts/build", "-o", bin)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			err = cmd.Run()
		}
		for _, name := range []string{"conmon", "pinns", "pause"} {
			if err == nil {
				err = os.Symlink(bin, filepath.Join(dir, name))
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot build the executable:", err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

func applet(name string, args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(dir, name), args...)
}

// before lists the packages that may be initialised before the monitor runs. A
// newcomer costs every monitor memory and needs a reason.
var before = []string{
	"errors", "internal/bytealg", "internal/godebug", "internal/runtime/gc/scan", "iter", "runtime", "sync", "syscall",
}

func initTrace(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		t.Fatal(err, errs.String())
	}
	var names []string
	for line := range strings.Lines(errs.String()) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "init" {
			names = append(names, f[1])
		}
	}
	return names
}

func TestMonitorComesFirst(t *testing.T) {
	for _, args := range [][]string{{dir + "/conmon", "--version"}, {dir + "/monocrio", "conmon", "--version"}} {
		names := initTrace(t, args...)
		if len(names) == 0 {
			t.Fatal("no trace of initialisation")
		}
		for _, name := range names {
			if !slices.Contains(before, name) {
				t.Errorf("%v: package %s is initialised before the monitor", args, name)
			}
		}
	}
	if names := initTrace(t, dir+"/monocrio", "--list"); len(names) <= len(before) {
		t.Errorf("the trace does not show the others: %v", names)
	}
}

// TestRuntimeComesEarly: the OCI runtime runs before the libraries of the daemon are
// initialised, so neither it nor the container's first process pays for them.
func TestRuntimeComesEarly(t *testing.T) {
	if err := os.Symlink(dir+"/monocrio", dir+"/runc"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{dir + "/runc", "--version"}, {dir + "/monocrio", "runc", "--version"}} {
		names := initTrace(t, args...)
		if len(names) < 20 || len(names) > 110 {
			t.Errorf("%v: %d packages are initialised before the runtime", args, len(names))
		}
		for _, name := range names {
			for _, late := range []string{"google.golang.org/grpc", "go.podman.io/", "k8s.io/", "net/http", "github.com/distribution/", "github.com/prometheus/"} {
				if strings.HasPrefix(name, late) {
					t.Errorf("%v: package %s is initialised before the runtime", args, name)
				}
			}
		}
	}
	all := initTrace(t, dir+"/monocrio", "--list")
	stage := slices.Index(all, "github.com/monocrio/monocrio/applets/early/initstage")
	if stage < 0 || stage > 70 {
		t.Errorf("libcontainer's stage is package %d of %d", stage, len(all))
	}
}

// monitors starts idle ones and returns their pids; the containers are processes
// that sleep.
func monitors(t *testing.T, n int) []int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("monitors need root")
	}
	tmp := t.TempDir()
	runtime := filepath.Join(tmp, "runtime")
	text := "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --pid-file) f=$2; shift;; esac; shift; done\n" +
		"sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! >$f\n"
	if err := os.WriteFile(runtime, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for i := range n {
		b := filepath.Join(tmp, strconv.Itoa(i))
		if err := os.Mkdir(b, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := applet("conmon", "-b", b, "-c", "c", "-u", "c", "-r", runtime, "-p", b+"/pid", "-P", b+"/monitor",
			"-l", "k8s-file:"+b+"/log", "--full-attach", "--exit-dir", b)
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=16MiB")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		pids = append(pids, number(t, b+"/monitor"))
		pid := number(t, b+"/pid")
		t.Cleanup(func() {
			unix.Kill(pid, unix.SIGKILL)
			eventually(t, "the exit file", func() bool { _, err := os.Stat(b + "/c"); return err == nil })
		})
	}
	return pids
}

func number(t *testing.T, path string) int {
	t.Helper()
	n := 0
	eventually(t, path, func() bool {
		data, _ := os.ReadFile(path)
		var err error
		n, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestIdleMonitor holds the budget of memory, and that an idle monitor sleeps.
func TestIdleMonitor(t *testing.T) {
	const budget = 1200 // kB of PSS each
	pids := monitors(t, 20)
	time.Sleep(300 * time.Millisecond)
	sum := 0
	for _, pid := range pids {
		sum += field(t, pid, "smaps_rollup", "Pss:")
	}
	t.Logf("PSS of %d monitors: %d kB each", len(pids), sum/len(pids))
	if sum/len(pids) > budget {
		t.Errorf("%d kB, budget %d", sum/len(pids), budget)
	}
	first := field(t, pids[0], "status", "voluntary_ctxt_switches:")
	time.Sleep(2 * time.Second)
	if now := field(t, pids[0], "status", "voluntary_ctxt_switches:"); now != first {
		t.Errorf("the main thread woke up %d times in 2 s", now-first)
	}
}

func field(t *testing.T, pid int, file, name string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s has no %s", file, name)
	return 0
}

// TestStart logs how long the small applets take; it holds no limit, because a
// test machine may be busy.
func TestStart(t *testing.T) {
	for _, args := range [][]string{{"pinns", "--nonsense"}, {"conmon", "--sync", "--version"}, {"monocrio", "--list"}} {
		var took []time.Duration
		for range 40 {
			begin := time.Now()
			applet(args[0], args[1:]...).Run()
			took = append(took, time.Since(begin))
		}
		sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
		t.Logf("%v: p50 %v, min %v", args, took[len(took)/2], took[0])
	}
}

func TestForeground(t *testing.T) {
	out, err := applet("conmon", "--runtime-arg", "--sync").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--cid") {
		t.Errorf("%s %v", out, err)
	}
	if out, err := applet("conmon", "--sync", "--version").Output(); err != nil || !strings.HasPrefix(string(out), "conmon version 2.") {
		t.Errorf("%s %v", out, err)
	}
}

// TestOtherName runs the applets through a name that the C start level ignores.
func TestOtherName(t *testing.T) {
	other := filepath.Join(t.TempDir(), "busy")
	if err := os.Symlink(dir+"/monocrio", other); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(other, "conmon", "--version").Output(); err != nil || !strings.HasPrefix(string(out), "conmon version") {
		t.Errorf("conmon: %s %v", out, err)
	}
	if out, err := exec.Command(other, "pinns").CombinedOutput(); err == nil || !strings.Contains(string(out), "--dir is required") {
		t.Errorf("pinns: %s %v", out, err)
	}
	if out, err := exec.Command(other, "pause", "-v").Output(); err != nil || len(out) == 0 {
		t.Errorf("pause: %s %v", out, err)
	}
	cmd := exec.Command(other, "pause")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pause to wait", func() bool { return waiting(cmd.Process.Pid) })
	cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// waiting tells whether a process waits for signals, as pause does when it is ready.
func waiting(pid int) bool {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	return strings.HasPrefix(string(data), strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)+" ")
}

// TestInitStageIsNotMistaken starts the executable as libcontainer would: nothing
// of ours may take the process for an applet.
func TestInitStageIsNotMistaken(t *testing.T) {
	for _, name := range []string{"conmon", "pause", "pinns"} {
		cmd := exec.Cmd{Path: dir + "/monocrio", Args: []string{name, "init"}, Env: []string{"_LIBCONTAINER_INITPIPE=99"}}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "netlink header") {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
}
