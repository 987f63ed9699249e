package monitortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor"
)

// failures wants the runtime's own words.
func failures(t *testing.T, r *Rig) {
	b := r.Box(t, "")
	b.Process("args", []string{"/no/such/program"})
	if err := b.Create(); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("no such program: %v", err)
	}
	b = r.Box(t, "")
	b.Spawn.Runtime = script(t, `i=0; while [ $i -lt 300 ]; do echo 'a "quoted" \ line	with tab, '$i >&2; i=$((i+1)); done; exit 3`)
	err := b.Create()
	if err == nil || !strings.Contains(err.Error(), "a \"quoted\" \\ line\twith tab, 7") || len(err.Error()) > 9000 {
		t.Errorf("long message: %.200v", err)
	}
	b = r.Box(t, "")
	b.Spawn.Runtime = script(t, "exit 5")
	if err := b.Create(); err == nil {
		t.Error("a silent failure is no error")
	}
	b = r.Box(t, "")
	b.Spawn.Runtime = filepath.Join(b.Dir, "absent")
	if err := b.Create(); err == nil {
		t.Error("an absent runtime is no error")
	} else if !r.Foreign && !strings.Contains(err.Error(), "absent") {
		t.Errorf("absent runtime: %v", err)
	}
	b = r.Box(t, "")
	b.Spawn.Path = "/no/such/monitor"
	if err := b.Create(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent monitor: %v", err)
	}
	b = r.Box(t, "")
	b.Spawn.LogLevel = "nonsense"
	if err := b.Create(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("wrong option: %v", err)
	}
}

// chatty runtimes say more than a pipe holds, and succeed.
func chatty(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors do not read while the runtime works")
	}
	b := r.Box(t, "echo hello")
	b.Spawn.Runtime = script(t, `if [ "$2" = create ]; then busybox seq 1 40000 >&2; fi; exec `+r.Runtime+` "$@"`)
	b.Run()
	b.WaitExit()
	var want strings.Builder
	for i := range 40000 {
		fmt.Fprintln(&want, i+1)
	}
	if got, _ := text(b, "stderr"); got != want.String() {
		t.Errorf("%d bytes, not %d", len(got), want.Len())
	}
	if got, _ := text(b, "stdout"); got != "hello\n" {
		t.Errorf("stdout %q", got)
	}
}

// script makes an executable for use as a runtime.
func script(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// abandoned ends the engine's patience while the runtime hangs.
func abandoned(t *testing.T, r *Rig) {
	b := r.Box(t, "")
	pidFile := filepath.Join(b.Dir, "runtime.pid")
	b.Spawn.Runtime = script(t, "echo $$ >"+pidFile+"; exec sleep 1000")
	defer func() { b.Spawn.Runtime = r.Runtime }() // for the cleaning
	list, _ := os.ReadDir("/proc/self/fd")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			if data, err := os.ReadFile(pidFile); err == nil && len(data) > 0 {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := monitor.Start(ctx, b.Spawn)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	b.Eventually("the end of the runtime", func() bool {
		id, err := proc.Find(pid)
		return err != nil || !id.Alive()
	})
	after, _ := os.ReadDir("/proc/self/fd")
	if len(after) > len(list) {
		t.Errorf("%d descriptors, before %d", len(after), len(list))
	}
}

// placed wants the moment before the monitor has children.
func placed(t *testing.T, r *Rig) {
	b := r.Box(t, "sleep 100")
	var first int
	b.Spawn.Place = func(pid int) error {
		first = pid
		if st, err := proc.Status(pid); err != nil || st["Threads"] != "1" {
			return fmt.Errorf("threads %s, %v", st["Threads"], err)
		}
		kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		if err != nil || len(kids) > 0 {
			return fmt.Errorf("children %q, %v", kids, err)
		}
		return nil
	}
	b.Run()
	if first == 0 || first == b.Proc.Monitor.Pid {
		t.Errorf("placed %d, monitor %v", first, b.Proc.Monitor)
	}
	b = r.Box(t, "true")
	b.Spawn.Place = func(int) error { return errors.New("no room") }
	if err := b.Create(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("refused placement: %v", err)
	}
}

// startPipeEnds closes the start pipe without a word, as an engine that died does.
func startPipeEnds(t *testing.T, r *Rig) {
	b := r.Box(t, "true")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(b.Dir, "ran")
	cmd := exec.Cmd{
		Path: r.Path, Args: []string{"conmon", "-b", b.Spawn.Bundle, "-c", b.Spawn.ID, "-u", b.Spawn.ID, "-n", "x",
			"-r", script(t, "echo ran >"+marker+"; exit 1"), "-l", "none", "--full-attach"},
		Env: append([]string{"_OCI_STARTPIPE=3", "PATH=/usr/bin:/bin"}, r.Env...), ExtraFiles: []*os.File{read},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read.Close()
	time.Sleep(100 * time.Millisecond)
	if _, err := os.Stat(marker); err == nil {
		t.Error("the monitor did not wait")
	}
	write.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	b.Eventually("the runtime to be run", func() bool { _, err := os.Stat(marker); return err == nil })
}

// signalForwarded sends TERM to the monitor.
func signalForwarded(t *testing.T, r *Rig) {
	b := r.Box(t, "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.01; done")
	b.Run()
	b.WaitLog("up")
	if err := unix.Kill(b.Proc.Monitor.Pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := b.WaitExit(); e.Code != 9 {
		t.Errorf("exit %+v", e)
	}
}

// cleanProcess wants a process that inherits nothing odd.
func cleanProcess(t *testing.T, r *Rig) {
	b := r.Box(t, "umask; cat /proc/self/status; id -u; echo again >/proc/self/fd/1")
	b.Process("user", map[string]any{"uid": 1234, "gid": 1234})
	b.Process("env", []string{"PATH=/bin"})
	b.Run()
	if e := b.WaitExit(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	log := strings.Join(b.Records(), "")
	for _, want := range []string{"0022\n", "SigBlk:\t0000000000000000\n", "SigIgn:\t0000000000000000\n", "1234\n", "again\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in %s", want, log)
		}
	}
}

// orphans leaves a process behind that becomes the monitor's child.
func orphans(t *testing.T, r *Rig) {
	b := r.Box(t, "(setsid sleep 0.1 &) ; sleep 0.4")
	b.Linux("namespaces", []any{map[string]any{"type": "mount"}})
	b.spec["hostname"] = ""
	b.Run()
	time.Sleep(300 * time.Millisecond)
	kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", b.Proc.Monitor.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range strings.Fields(string(kids)) {
		pid, _ := strconv.Atoi(kid)
		if id, err := proc.Find(pid); err == nil && !id.Alive() {
			t.Errorf("child %s is a zombie", kid)
		}
	}
	b.WaitExit()
}

// backgroundWriter holds the output open, and writes, after the container's end.
func backgroundWriter(t *testing.T, r *Rig) {
	b := r.Box(t, "(setsid busybox yes spam &); sleep 0.1; exit 4")
	b.Linux("namespaces", []any{map[string]any{"type": "mount"}})
	b.spec["hostname"] = ""
	b.Run()
	if e := b.WaitExit(); e.Code != 4 {
		t.Errorf("exit %+v", e)
	}
	b.runtime("kill", "--all", b.Spawn.ID, "KILL")
}

func outOfMemory(t *testing.T, r *Rig) {
	tries := 1
	if r.Foreign {
		tries = 3 // older releases miss it now and then, on a busy machine
	}
	for try := 1; ; try++ {
		b := r.Box(t, "busybox dd if=/dev/zero of=/dev/null bs=60M count=4; echo after; sleep 0.1; exit 3")
		b.Linux("resources", map[string]any{"memory": map[string]any{"limit": 20 << 20, "swap": 20 << 20}})
		b.Run()
		e := b.WaitExit()
		if !e.OOM && try < tries {
			continue
		}
		if !e.OOM {
			t.Errorf("exit %+v without mark", e)
		}
		if _, err := os.Stat(filepath.Join(b.Spawn.Bundle, "oom")); err != nil && !r.Foreign {
			t.Error(err)
		}
		return
	}
}

// engineDies starts a monitor from a process that is then killed.
func engineDies(t *testing.T, r *Rig) {
	b := r.Box(t, "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo alive; exit 6")
	if err := b.Create(); err != nil { // writes the specification
		t.Fatal(err)
	}
	b.runtime("delete", "--force", b.Spawn.ID)
	b.WaitExit()
	os.Remove(filepath.Join(b.Spawn.ExitDir, b.Spawn.ID))
	os.Remove(filepath.Join(b.Spawn.PersistDir, "exit"))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), EngineVar+"="+b.encode())
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var pid, container int
	var start uint64
	if _, err := fmt.Fscan(out, &pid, &start, &container); err != nil {
		t.Fatalf("the engine said nothing: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	b.Proc = monitor.Process{Monitor: proc.ID{Pid: pid, Start: start}, Container: container}
	b.Start()
	if !monitor.Alive(b.Proc.Monitor) {
		t.Fatal("the monitor died with the engine")
	}
	if err := os.WriteFile(filepath.Join(b.Spawn.Bundle, "rootfs/tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := b.WaitExit(); e.Code != 6 {
		t.Errorf("exit %+v", e)
	}
	if got := b.Records(); len(got) != 1 || got[0] != "stdout F alive\n" {
		t.Errorf("log %q", got)
	}
}
