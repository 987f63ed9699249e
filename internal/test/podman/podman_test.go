package podman

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOurs(t *testing.T) { suite(t, newEngine(t, bin(t, "conmon"), "runc")) }

// TestOursBoth has our runtime besides our monitor.
func TestOursBoth(t *testing.T) { suite(t, newEngine(t, bin(t, "conmon"), bin(t, "runc"))) }

const foreign = "/usr/bin/conmon"

func TestForeign(t *testing.T) {
	if _, err := os.Stat(foreign); err != nil {
		t.Skip("this machine lacks ", foreign)
	}
	suite(t, newEngine(t, foreign, "runc"))
}

func suite(t *testing.T, e *engine) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *engine)
	}{
		{"Monitor", theMonitor}, {"ExitCodes", exitCodes}, {"Logs", logs}, {"Journal", journal}, {"Passthrough", passthrough},
		{"Attach", attach}, {"Exec", execs}, {"Terminal", terminals}, {"DetachKeys", detachKeys}, {"ExecTerminal", execTerminal},
		{"Restart", restart}, {"Timeout", timeout}, {"Remove", remove}, {"Notify", notifies}, {"Stop", stop}, {"OutOfMemory", outOfMemory}, {"Pod", pods}, {"Remote", remote},
	} {
		t.Run(c.name, func(t *testing.T) {
			e.t = t
			c.f(t, e)
			e.podman("rm", "--force", "--all", "--time", "0")
		})
	}
	e.t = t
	e.eventually(t, "the end of all monitors", func() bool { return len(e.monitors()) == 0 })
}

// theMonitor makes sure that it is the monitor under test that podman has started.
func theMonitor(t *testing.T, e *engine) {
	id := e.ok(shell("sleep 1000", "-d")...)
	pid := strings.TrimSpace(string(must(os.ReadFile(e.inspect(id, "{{.ConmonPidFile}}")))))
	exe := must(os.Readlink("/proc/" + pid + "/exe"))
	if want := must(filepath.EvalSymlinks(e.monitor)); exe != want {
		t.Errorf("the monitor is %s, not %s", exe, want)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func exitCodes(t *testing.T, e *engine) {
	for script, want := range map[string]int{"true": 0, "exit 3": 3, "exit 255": 255, "trap 'exit 42' TERM; kill -15 $$; sleep 1; exit 1": 42} {
		r := e.podman(shell("echo out; echo err >&2; "+script, "--rm")...)
		if r.status != want || r.out != "out\n" || r.err != "err\n" {
			t.Errorf("%q: %+v, not %d", script, r, want)
		}
	}
	if r := e.podman(append(run("--rm"), "img", "/no/such/program")...); r.status != 127 || !strings.Contains(r.err, "/no/such/program") {
		t.Errorf("no such program: %+v", r)
	}
	if r := e.podman(append(run("--rm"), "img", "/etc/passwd")...); r.status != 126 {
		t.Errorf("no program: %+v", r)
	}
	id := e.ok(shell("sleep 1000", "-d")...)
	e.ok("kill", "--signal", "KILL", id)
	if code := e.ok("wait", id); code != "137" {
		t.Errorf("killed: %s", code)
	}
}

func logs(t *testing.T, e *engine) {
	for _, driver := range []string{"k8s-file", "json-file"} {
		id := e.ok(shell("echo one; echo two >&2; printf three", "-d", "--log-driver", driver)...)
		e.ok("wait", id)
		r := e.podman("logs", id)
		if r.out != "one\nthree\n" && r.out != "one\nthree" || r.err != "two\n" {
			t.Errorf("%s: %+v", driver, r)
		}
		text := string(must(os.ReadFile(e.inspect(id, "{{.HostConfig.LogConfig.Path}}"))))
		if !strings.Contains(text, " stdout F one\n") || !strings.Contains(text, " stderr F two\n") {
			t.Errorf("%s: the file holds %q", driver, text)
		}
	}
	id := e.ok(shell("seq 100000 109999", "-d", "--log-driver", "k8s-file", "--log-opt", "max-size=20k")...)
	e.ok("wait", id)
	if st := must(os.Stat(e.inspect(id, "{{.HostConfig.LogConfig.Path}}"))); st.Size() > 21000 {
		t.Errorf("the log has %d bytes", st.Size())
	}
	if out := e.ok("logs", id); !strings.HasSuffix(out, "\n109999") {
		t.Errorf("the log ends with %q", out[max(0, len(out)-50):])
	}
	follow := e.cmd("logs", "--follow", e.ok(shell("for i in 1 2 3; do echo $i; sleep 0.1; done", "-d", "--log-driver", "k8s-file")...))
	if r := e.finish(follow); r.out != "1\n2\n3\n" {
		t.Errorf("followed: %+v", r)
	}
	id = e.ok(shell("echo nothing", "-d", "--log-driver", "none")...)
	e.ok("wait", id)
	if r := e.podman("logs", id); strings.Contains(r.out, "nothing") {
		t.Errorf("none: %+v", r)
	}
}

// journal has a socket of our own at the journal's place.
func journal(t *testing.T, e *engine) {
	id := e.ok(shell("echo one; echo two >&2; sleep 0.1; echo end", "-d", "--name", "jay", "--log-driver", "journald", "--log-opt", "tag=bird")...)
	var all []string
	buf := make([]byte, 1<<20)
	e.journal.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		n, err := e.journal.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		text := string(buf[:n])
		if !strings.Contains(text, "CONTAINER_ID_FULL="+id+"\n") {
			continue // podman's own, or of a test before
		}
		all = append(all, text)
		if strings.Contains(text, "end\n") {
			break
		}
	}
	for i, want := range []string{"one", "two", "end"} {
		priority := map[string]string{"two": "PRIORITY=3\n"}[want]
		if priority == "" {
			priority = "PRIORITY=6\n"
		}
		if i >= len(all) || !strings.Contains(all[i], want+"\n") || !strings.Contains(all[i], priority) ||
			!strings.Contains(all[i], "CONTAINER_NAME=jay\n") || !strings.Contains(all[i], "CONTAINER_TAG=bird\n") {
			t.Errorf("message %d of %q is not %q", i, all, want)
		}
	}
	e.ok("wait", id)
}

func passthrough(t *testing.T, e *engine) {
	r := e.podman(shell("echo out; echo err >&2; exit 6", "--rm", "--log-driver", "passthrough")...)
	if r.status != 6 || r.out != "out\n" || r.err != "err\n" {
		t.Errorf("%+v", r)
	}
}

func attach(t *testing.T, e *engine) {
	cmd := e.cmd(shell("cat; echo done >&2; exit 9", "--rm", "-i")...)
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if r := e.finish(cmd); r.status != 9 || r.out != "one\ntwo\n" || r.err != "done\n" {
		t.Errorf("run -i: %+v", r)
	}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 64<<10)
	cmd = e.cmd(shell("cat", "--rm", "-i")...)
	cmd.Stdin = bytes.NewReader(big)
	if r := e.finish(cmd); r.status != 0 || r.out != string(big) {
		t.Errorf("a MiB through run -i: status %d, %d bytes, %s", r.status, len(r.out), r.err)
	}
	e.ok(append(append([]string{"create"}, run("-i", "--name", "later")[1:]...), "img", "/bin/sh", "-c", "read a; echo got $a; exit 4")...)
	cmd = e.cmd("start", "--attach", "--interactive", "later")
	cmd.Stdin = strings.NewReader("word\n")
	if r := e.finish(cmd); r.status != 4 || r.out != "got word\n" {
		t.Errorf("start --attach: %+v", r)
	}
	id := e.ok(shell("read a; echo got $a; exit 5", "-d", "-i")...)
	cmd = e.cmd("attach", id)
	cmd.Stdin = strings.NewReader("again\n")
	if r, code := e.finish(cmd), e.ok("wait", id); code != "5" || !strings.HasPrefix(r.out, "got again\n") { // podman 4.3 itself ends with 0
		t.Errorf("attach: %+v, status of the container %s", r, code)
	}
}

func execs(t *testing.T, e *engine) {
	id := e.ok(shell("sleep 1000", "-d")...)
	for script, want := range map[string]int{"true": 0, "exit 7": 7, "kill -9 $$": 137} {
		if r := e.podman("exec", id, "/bin/sh", "-c", "echo out; echo err >&2; "+script); r.status != want || r.out != "out\n" || !strings.HasPrefix(r.err, "err\n") {
			t.Errorf("%q: %+v", script, r)
		}
	}
	cmd := e.cmd("exec", "-i", id, "/bin/sh", "-c", "cat; exit 8")
	big := bytes.Repeat([]byte("0123456789abcde\n"), 16<<10)
	cmd.Stdin = bytes.NewReader(big)
	if r := e.finish(cmd); r.status != 8 || r.out != string(big) {
		t.Errorf("-i: status %d, %d bytes, %s", r.status, len(r.out), r.err)
	}
	if r := e.podman("exec", id, "/no/such/program"); r.status != 127 || !strings.Contains(r.err, "/no/such/program") {
		t.Errorf("no such program: %+v", r)
	}
	session := e.ok("exec", "-d", id, "/bin/sh", "-c", "echo x >/tmp/mark; sleep 1000")
	e.eventually(t, "the detached command", func() bool { return e.podman("exec", id, "cat", "/tmp/mark").out == "x\n" })
	if !strings.Contains(e.inspect(id, "{{.ExecIDs}}"), session) {
		t.Errorf("session %s is not among %s", session, e.inspect(id, "{{.ExecIDs}}"))
	}
	var wg sync.WaitGroup
	for i := range 4 {
		cmd := e.cmd("exec", id, "/bin/sh", "-c", fmt.Sprintf("echo %d; exit %[1]d", i))
		wg.Go(func() {
			out, _ := cmd.Output()
			if code := cmd.ProcessState.ExitCode(); code != i || string(out) != fmt.Sprintln(i) {
				t.Errorf("exec %d beside others: %d %q", i, code, out)
			}
		})
	}
	wg.Wait()
}

// screen is what a program has written to its terminal.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) add(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) wait(t *testing.T, e *engine, text string) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !strings.Contains(s.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q on the screen: %q", text, s)
		}
	}
}

func terminals(t *testing.T, e *engine) {
	tty := newTerminal(t)
	tty.size(t, 22, 66)
	cmd := e.cmd(shell("stty size; read a; stty size; echo got $a; tty; exit 3", "--rm", "-it")...)
	s := tty.start(t, cmd)
	s.wait(t, e, "22 66\r\n")
	tty.size(t, 33, 77)
	cmd.Process.Signal(syscall.SIGWINCH)
	time.Sleep(300 * time.Millisecond) // podman passes the size on without an answer
	tty.WriteString("word\n")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{"33 77\r\n", "got word\r\n", "/dev/pts/0\r\n"} {
		s.wait(t, e, want)
	}
}

func execTerminal(t *testing.T, e *engine) {
	id := e.ok(shell("sleep 1000", "-d")...)
	tty := newTerminal(t)
	tty.size(t, 25, 61)
	cmd := e.cmd("exec", "-it", id, "/bin/sh", "-c", "stty size; read a; stty size; echo got $a; exit 5")
	s := tty.start(t, cmd)
	s.wait(t, e, "25 61\r\n")
	tty.size(t, 31, 72)
	cmd.Process.Signal(syscall.SIGWINCH)
	time.Sleep(300 * time.Millisecond)
	tty.WriteString("word\n")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{"31 72\r\n", "got word\r\n"} {
		s.wait(t, e, want)
	}
}

func detachKeys(t *testing.T, e *engine) {
	tty := newTerminal(t)
	cmd := e.cmd(shell("echo up; read a; echo got $a; read b; exit 2", "-it", "--name", "keys", "--detach-keys", "ctrl-a,b")...)
	s := tty.start(t, cmd)
	s.wait(t, e, "up\r\n")
	tty.WriteString("first\n")
	s.wait(t, e, "got first\r\n")
	tty.WriteString("\x01")
	time.Sleep(200 * time.Millisecond) // podman wants each key in a read of its own
	tty.WriteString("b")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 || e.inspect("keys", "{{.State.Running}}") != "true" {
		t.Errorf("detached: status %d, running %s, %q", code, e.inspect("keys", "{{.State.Running}}"), s)
	}
	again := newTerminal(t)
	cmd = e.cmd("attach", "keys")
	again.start(t, cmd)
	time.Sleep(300 * time.Millisecond)
	again.WriteString("second\n")
	cmd.Wait()
	if code := e.ok("wait", "keys"); code != "2" {
		t.Errorf("attached again: status %s", code)
	}
}

// restart is podman's own doing, by the exit command.
func restart(t *testing.T, e *engine) {
	id := e.ok(shell("echo again; exit 1", "-d", "--restart", "on-failure:2")...)
	e.eventually(t, "two restarts", func() bool { return e.inspect(id, "{{.RestartCount}} {{.State.Status}}") == "2 exited" })
	if out := e.ok("logs", id); out != "again\nagain\nagain" {
		t.Errorf("log %q", out)
	}
}

func timeout(t *testing.T, e *engine) {
	id := e.ok(shell("echo begun; sleep 1000", "-d", "--timeout", "1")...)
	e.eventually(t, "the end", func() bool { return e.inspect(id, "{{.State.Status}}") == "exited" })
	if code := e.inspect(id, "{{.State.ExitCode}}"); code != "-1" {
		t.Errorf("exit code %s", code)
	}
}

func remove(t *testing.T, e *engine) {
	id := e.ok(shell("exit 0", "-d", "--rm")...)
	e.eventually(t, "the container to be removed", func() bool { return e.podman("container", "exists", id).status == 1 })
	if r := e.podman(shell("exit 1", "--rm", "--name", "gone")...); r.status != 1 || e.podman("container", "exists", "gone").status != 1 {
		t.Errorf("run --rm: %+v", r)
	}
}

// notifies plays the service manager of podman.
func notifies(t *testing.T, e *engine) {
	path := filepath.Join(e.dir, "manager")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	read := func() string {
		buf := make([]byte, 4096)
		manager.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, err := manager.Read(buf)
		if err != nil {
			t.Error(err)
		}
		return string(buf[:n])
	}
	for _, mode := range []string{"conmon", "container"} {
		cmd := e.cmd(shell("echo $NOTIFY_SOCKET; sleep 1000", "-d", "--sdnotify", mode)...)
		cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path)
		r := e.finish(cmd)
		if r.status != 0 {
			t.Fatalf("%s: %+v", mode, r)
		}
		id := strings.TrimSpace(r.out)
		pid := strings.TrimSpace(string(must(os.ReadFile(e.inspect(id, "{{.ConmonPidFile}}")))))
		said := read()
		for mode == "conmon" && !strings.Contains(said, "READY=1") {
			said += "\n" + read()
		}
		if !strings.Contains(said, "MAINPID="+pid) {
			t.Errorf("%s: %q, the monitor is %s", mode, said, pid)
		}
		if mode == "conmon" {
			continue
		}
		var socket string
		e.eventually(t, "the container's socket", func() bool {
			socket = strings.TrimSpace(e.podman("logs", id).out)
			return socket != ""
		})
		say(t, "/proc/"+e.inspect(id, "{{.State.Pid}}")+"/root"+socket, "MAINPID=1\nREADY=1")
		if said := strings.TrimSpace(read()); said != "READY=1" {
			t.Errorf("%s: %q", mode, said)
		}
	}
}

func say(t *testing.T, path, text string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte(text), 0, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

func outOfMemory(t *testing.T, e *engine) {
	if e.monitor == foreign {
		t.Skip("conmon 2.1.6 does not mark the bundle, which is where podman looks")
	}
	id := e.ok(shell("dd if=/dev/zero of=/dev/null bs=60M count=4; sleep 0.2; exit 3", "-d", "--memory", "20m", "--memory-swap", "20m")...)
	e.ok("wait", id)
	if oom := e.inspect(id, "{{.State.OOMKilled}}"); oom != "true" {
		t.Errorf("OOMKilled: %s", oom)
	}
}

// pods has an infra container, which is a container like others to the monitor.
func pods(t *testing.T, e *engine) {
	infra := e.podman("pod", "create", "--infra-image", "img", "--infra-command", "sleep 1000", "--network", "none", "--cgroup-parent", "/"+cgroupParent, "--name", "pod")
	if infra.status != 0 {
		t.Fatalf("%+v", infra)
	}
	r := e.podman("run", "--rm", "--pod", "pod", "img", "/bin/sh", "-c", "echo in the pod; exit 4")
	if r.status != 4 || r.out != "in the pod\n" {
		t.Errorf("%+v", r)
	}
	e.ok("pod", "rm", "--force", "--time", "0", "pod")
}

// remote is another client of the attach sockets: podman's service, which speaks HTTP.
func remote(t *testing.T, e *engine) {
	socket := filepath.Join(e.dir, "api.sock")
	service := e.cmd("system", "service", "--time", "0", "unix://"+socket)
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		service.Process.Signal(syscall.SIGTERM)
		service.Wait()
		// The service wants five minutes between the end of an exec and its exit command.
		for _, pid := range e.monitors() {
			unix.Kill(pid, unix.SIGKILL)
		}
	}()
	far := func(args ...string) *exec.Cmd {
		cmd := e.cmd()
		cmd.Args = append([]string{"podman", "--remote", "--url", "unix://" + socket}, args...)
		return cmd
	}
	e.eventually(t, "the service", func() bool { return e.finish(far("version")).status == 0 })
	r := e.finish(far(shell("echo up; sleep 1000", "-d", "--name", "far")...))
	if r.status != 0 {
		t.Fatalf("%+v", r)
	}
	if r := e.finish(far("exec", "far", "/bin/sh", "-c", "echo out; echo err >&2; exit 5")); r.status != 5 || r.out != "out\n" || !strings.HasPrefix(r.err, "err\n") {
		t.Errorf("exec: %+v", r)
	}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 16<<10)
	for name, cmd := range map[string]*exec.Cmd{"exec -i": far("exec", "-i", "far", "/bin/sh", "-c", "cat; exit 3"), "run -i": far(shell("cat; exit 3", "--rm", "-i")...)} {
		cmd.Stdin = bytes.NewReader(big)
		if r := e.finish(cmd); r.status != 3 || r.out != string(big) {
			t.Errorf("%s: status %d, %d bytes, %s", name, r.status, len(r.out), r.err)
		}
	}
	if r := e.finish(far("logs", "far")); r.out != "up\n" {
		t.Errorf("logs: %+v", r)
	}
}

func stop(t *testing.T, e *engine) {
	id := e.ok(shell("trap 'echo asked; exit 11' TERM; echo up; while :; do sleep 0.05; done", "-d")...)
	e.eventually(t, "the container", func() bool { return e.ok("logs", id) == "up" })
	e.ok("stop", id)
	if code := e.inspect(id, "{{.State.ExitCode}}"); code != "11" {
		t.Errorf("exit code %s", code)
	}
	if out := e.ok("logs", id); out != "up\nasked" {
		t.Errorf("log %q", out)
	}
	e.ok("start", id) // the same container lives again, with the same log
	e.eventually(t, "the second life", func() bool { return e.ok("logs", id) == "up\nasked\nup" })
	e.ok("stop", "--time", "0", id)
	if code := e.inspect(id, "{{.State.ExitCode}}"); code != "137" {
		t.Errorf("killed: exit code %s", code)
	}
}
