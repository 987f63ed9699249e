package monitortest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/linux/proc"
)

// direct runs a monitor in the foreground with a script as its runtime, which
// starts $CONTAINER as the container. The container begins when the runtime is gone:
// a shell may reap a child that ends before itself.
func direct(t *testing.T, r *Rig, container string, env []string, args ...string) (dir string, status int, stderr string) {
	t.Helper()
	r.need(t)
	dir = t.TempDir()
	rt := script(t, `while [ $# -gt 0 ]; do case $1 in --pid-file) f=$2; shift;; esac; shift; done
echo "$LISTEN_PID $$" >`+dir+`/listen
sh -c "while [ -e /proc/$$ ]; do sleep 0.01; done; $CONTAINER" </dev/null & echo $! >$f`)
	cmd := exec.Cmd{Path: r.Path, Args: append([]string{"conmon", "--sync", "-b", dir, "-c", "id", "-u", "id", "-n", "name",
		"-r", rt, "-l", "k8s-file:" + dir + "/log", "-p", dir + "/pid", "--exit-dir", dir, "--full-attach"}, args...)}
	cmd.Env = append(append([]string{"PATH=/usr/bin:/bin", "CONTAINER=" + container}, env...), r.Env...)
	file, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stderr = file
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(file.Name())
	return dir, status, string(data)
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func foreground(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("older releases lose the status of a short process, and more")
	}
	dir, status, stderr := direct(t, r, "echo hi; exit 5", nil)
	if status != 5 && !r.Foreign || read(t, dir, "id") != "5" || !strings.HasSuffix(read(t, dir, "log"), " stdout F hi\n") {
		t.Errorf("status %d, exit file %q, stderr %q", status, read(t, dir, "id"), stderr)
	}
}

func exitCommand(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("older releases lose the status of a short process, and more")
	}
	mark := filepath.Join(t.TempDir(), "mark")
	begin := time.Now()
	_, status, stderr := direct(t, r, "exit 5", nil, "--exit-delay", "1", "--exit-command", "/bin/sh", "--exit-command-arg", "-c",
		"--exit-command-arg", "ls /proc/self/fd >"+mark+"; exit 3")
	if took := time.Since(begin); status != 3 || took < time.Second {
		t.Errorf("status %d after %v, stderr %q", status, took, stderr)
	}
	// 0 to 2 and the one of ls itself.
	if fds := strings.Fields(read(t, mark)); len(fds) != 4 {
		t.Errorf("the exit command has descriptors %v", fds)
	}
}

func timeLimit(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("older releases lose the status of a short process, and more")
	}
	begin := time.Now()
	dir, _, stderr := direct(t, r, "exec sleep 1000", nil, "-T", "1")
	if took := time.Since(begin); took < time.Second/2 || read(t, dir, "id") != "-1" {
		t.Errorf("after %v, exit file %q, stderr %q", took, read(t, dir, "id"), stderr)
	}
}

func listenPid(t *testing.T, r *Rig) {
	dir, _, stderr := direct(t, r, "exit 0", []string{"LISTEN_PID=1", "LISTEN_FDS=1"}, "--replace-listen-pid")
	f := strings.Fields(read(t, dir, "listen"))
	if len(f) != 2 || f[0] != f[1] {
		t.Errorf("LISTEN_PID and pid of the runtime: %v, stderr %q", f, stderr)
	}
	if _, err := strconv.Atoi(strings.TrimSpace(read(t, dir, "pid"))); err != nil {
		t.Error(err)
	}
}

// born starts a monitor inside a cgroup of version 2.
func born(t *testing.T, r *Rig) {
	r.need(t)
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root = "/sys/fs/cgroup"
	}
	b := r.Box(t, "sleep 100")
	name := b.Spawn.ID + "-monitor"
	group := filepath.Join(root, name)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skip("this machine lacks a writable cgroup of version 2: ", err)
	}
	t.Cleanup(func() { // a process that has just ended still counts for a moment
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			err := os.Remove(group)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	f, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b.Spawn.CgroupFD = int(f.Fd())
	b.Run()
	cg, err := proc.Cgroups(b.Proc.Monitor.Pid)
	if err != nil || filepath.Base(cg[""]) != name {
		t.Errorf("cgroups %v, %v", cg, err)
	}
	b.runtime("kill", b.Spawn.ID, "KILL")
	b.WaitExit()
}
