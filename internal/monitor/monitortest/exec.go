package monitortest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// session is a monitor in exec mode: one more process in the container of a box.
type session struct {
	b        *Box
	Dir      string
	cmd      *exec.Cmd
	sync     *bufio.Reader // what the monitor tells
	attach   *bufio.Reader
	syncPipe *os.File
	start    *os.File // what it waits for
	stderr   *os.File
}

// exec starts one; the script is the process's, args are more of the monitor's.
func (b *Box) exec(script string, args ...string) *session {
	b.t.Helper()
	return b.execProcess(map[string]any{"args": []string{"/bin/sh", "-c", script}}, args...)
}

func (b *Box) execProcess(process map[string]any, args ...string) *session {
	b.t.Helper()
	s := &session{b: b, Dir: b.t.TempDir()}
	for k, v := range map[string]any{"cwd": "/", "env": []string{"PATH=/bin", "TERM=xterm"}, "user": map[string]any{"uid": 0, "gid": 0}} {
		process[k] = v
	}
	data, err := json.Marshal(process)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.Dir, "process"), data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var theirs []*os.File
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			b.t.Fatal(err)
		}
		return r, w
	}
	syncR, syncW := pipe()
	startR, startW := pipe()
	attachR, attachW := pipe()
	stdin, held := pipe() // nobody is to read the monitor's own
	theirs = append(theirs, syncW, startR, attachW)
	s.syncPipe = syncR
	s.sync, s.attach, s.start = bufio.NewReader(syncR), bufio.NewReader(attachR), startW
	b.t.Cleanup(func() { syncR.Close(); startW.Close(); attachR.Close(); stdin.Close(); held.Close() })
	if s.stderr, err = os.Create(filepath.Join(s.Dir, "stderr")); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { s.stderr.Close() })
	s.cmd = &exec.Cmd{
		Path: b.rig.Path, ExtraFiles: theirs, Stdin: stdin, Stderr: s.stderr,
		Args: append([]string{"conmon", "-e", "-c", b.Spawn.ID, "-n", "box", "-r", b.Spawn.Runtime, "-p", filepath.Join(s.Dir, "pid"),
			"-l", filepath.Join(s.Dir, "log"), "--exec-process-spec", filepath.Join(s.Dir, "process"),
			"--runtime-arg", b.Spawn.RuntimeArgs[0]}, args...),
		Env: append([]string{"_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4", "_OCI_ATTACHPIPE=5"}, b.Spawn.Env...),
	}
	if err := s.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range theirs {
		f.Close()
	}
	return s
}

// release lets the monitor begin.
func (s *session) release() {
	s.b.t.Helper()
	if _, err := s.start.Write([]byte{0}); err != nil {
		s.b.t.Fatal(err)
	}
}

// wait returns the status of the process that was started, and fails if it lasts.
func (s *session) wait() int {
	s.b.t.Helper()
	timer := time.AfterFunc(30*time.Second, func() { s.cmd.Process.Kill() })
	defer timer.Stop()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.b.t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// told returns the messages on the sync pipe up to its end.
func (s *session) told() []message {
	s.b.t.Helper()
	data, err := io.ReadAll(s.sync)
	if err != nil {
		s.b.t.Fatal(err)
	}
	var out []message
	for line := range strings.Lines(string(data)) {
		out = append(out, decode(s.b.t, line))
	}
	return out
}

// message is one line for the engine; its number is that of the key.
type message struct {
	key, text string
	number    int
}

func decode(t testing.TB, line string) message {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(line), &m); err != nil || !strings.HasSuffix(line, "\n") {
		t.Fatalf("message %q: %v", line, err)
	}
	var out message
	for k, v := range m {
		switch v := v.(type) {
		case string:
			out.text = v
		case float64:
			out.key, out.number = k, int(v)
		}
	}
	return out
}

func (s *session) text(stream string) string {
	data, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.b.t.Error(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) == 4 && f[1] == stream {
			if f[2] == "P" {
				f[3] = strings.TrimSuffix(f[3], "\n")
			}
			out.WriteString(f[3])
		}
	}
	return out.String()
}

func (s *session) said() string {
	data, _ := os.ReadFile(s.stderr.Name())
	return string(data)
}

// sleeper is a container in which to execute something.
func sleeper(t *testing.T, r *Rig) *Box {
	b := r.Box(t, "sleep 1000")
	b.Run()
	return b
}

// execModes asks for status and output in both forms of the sync messages.
func execModes(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	for _, api := range []bool{false, true} {
		for script, want := range map[string]int{"true": 0, "exit 7": 7, "kill -9 $$": 137} {
			args := []string{"--sync", "-s", "--log-level", "info", "--socket-dir-path", b.Spawn.SocketDir} // -s is not for exec
			if api {
				args = append(args, "--api-version", "1", "-u", "session")
			}
			s := b.exec("echo out; echo err >&2; "+script, args...)
			s.release()
			told, status := s.told(), s.wait()
			last := told[len(told)-1]
			key := map[bool]string{true: "data", false: "exit_code"}[api]
			if len(told) != map[bool]int{true: 2, false: 1}[api] || last.key != key || last.number != want || last.text != "" {
				t.Errorf("api %v, %q: messages %+v", api, script, told)
			}
			if status != want && !r.Foreign {
				t.Errorf("api %v, %q: own status %d", api, script, status)
			}
			if pid, err := os.ReadFile(filepath.Join(s.Dir, "pid")); api && (err != nil || strings.TrimSpace(string(pid)) != strconv.Itoa(told[0].number)) {
				t.Errorf("api %v, %q: pid %q is not in %+v", api, script, pid, told)
			}
			if s.text("stdout") != "out\n" || s.text("stderr") != "err\n" {
				t.Errorf("api %v, %q: stdout %q, stderr %q", api, script, s.text("stdout"), s.text("stderr"))
			}
		}
	}
	if left, _ := filepath.Glob(b.Spawn.SocketDir + "/*"); len(left) != 1 { // the container's own
		t.Errorf("links %v", left)
	}
}

// execFails wants the runtime's words, and the monitor's own.
func execFails(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	for _, api := range []bool{false, true} {
		args := []string{"--sync"}
		if api {
			args = append(args, "--api-version", "-u", "session")
		}
		s := b.execProcess(map[string]any{"args": []string{"/no/such/program"}}, args...)
		s.release()
		told := s.told()
		if status := s.wait(); status == 0 || len(told) != 1 || told[0].number != -1 || !strings.Contains(told[0].text, "/no/such/program") {
			t.Errorf("api %v: status %d, messages %+v", api, status, told)
		}
	}
	if r.Foreign {
		return
	}
	s := b.exec("cat; echo end", "--sync", "-i") // nobody can come
	s.release()
	if told := s.told(); len(told) != 1 || told[0].number != 0 || s.text("stdout") != "end\n" {
		t.Errorf("input without a bundle: %+v, log %q", told, s.text("stdout"))
	}
	s.wait()
	s = b.exec("true", "--sync", "--exec-attach")
	if status := s.wait(); status != 1 || !strings.Contains(s.said(), "--bundle") {
		t.Errorf("attach without a bundle: status %d, %q", status, s.said())
	}
}

// execTimeout kills a process that lasts too long; the container goes on.
func execTimeout(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	for _, api := range []bool{false, true} {
		args := []string{"--sync", "-T", "1"}
		if api {
			args = append(args, "--api-version", "-u", "session")
		}
		s := b.exec("echo begun; sleep 1000", args...)
		s.release()
		told := s.told()
		s.wait()
		last := told[len(told)-1]
		if last.number != -1 || last.text != "command timed out" || s.text("stdout") != "begun\n" {
			t.Errorf("api %v: messages %+v, log %q", api, told, s.text("stdout"))
		}
	}
	if id, err := proc.Find(b.Proc.Container); err != nil || !id.Alive() {
		t.Error("the container has ended")
	}
}

// execBackground has the monitor in the background, with the files by which an engine
// that did not wait learns of the end.
func execBackground(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	exits, mark := t.TempDir(), filepath.Join(t.TempDir(), "mark")
	s := b.exec("echo out; sleep 0.2; exit 5", "--api-version", "-u", "session", "--exit-dir", exits,
		"--exit-command", "/bin/sh", "--exit-command-arg", "-c", "--exit-command-arg", "echo ran >"+mark)
	s.release()
	if status := s.wait(); status != 0 {
		t.Errorf("the first process ends with %d: %s", status, s.said())
	}
	told := s.told()
	if len(told) != 2 || told[0].number <= 0 || told[1].number != 5 {
		t.Errorf("messages %+v", told)
	}
	if code := read(t, exits, b.Spawn.ID); code != "5" {
		t.Errorf("exit file %q", code)
	}
	b.Eventually("the exit command", func() bool { _, err := os.Stat(mark); return err == nil })
	if s.text("stdout") != "out\n" {
		t.Errorf("log %q", s.text("stdout"))
	}
}

// execAttached: nothing runs before the clients are there, and they get everything.
func execAttached(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	bundle := t.TempDir()
	s := b.exec("echo first; cat; echo last >&2; exit 3", "-b", bundle, "-i", "--exec-attach", "--api-version", "-u", "session",
		"--socket-dir-path", b.Spawn.SocketDir)
	s.release()
	line, err := s.attach.ReadString('\n')
	if m := decode(t, line); err != nil || m.key != "data" || m.number != 0 {
		t.Fatalf("on the attach pipe: %q %v, %s", line, err, s.said())
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "pid")); err == nil {
		t.Error("the process runs before its clients are attached")
	}
	var out, errs sink
	done := b.attachAt(context.Background(), filepath.Join(b.Spawn.SocketDir, "session"), monitor.AttachStreams{
		Stdin: strings.NewReader("word\n"), Stdout: &out, Stderr: &errs})
	b.Eventually("a connection", connected)
	s.release()
	b.ended(done)
	told := s.told()
	s.wait()
	if out.String() != "first\nword\n" || errs.String() != "last\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	if len(told) != 2 || told[1].number != 3 {
		t.Errorf("messages %+v", told)
	}
	if s.text("stdout") != "first\nword\n" || s.text("stderr") != "last\n" {
		t.Errorf("log: %q, %q", s.text("stdout"), s.text("stderr"))
	}
	if !r.Foreign {
		b.Eventually("the link to the bundle to be removed", func() bool {
			_, err := os.Lstat(filepath.Join(b.Spawn.SocketDir, "session"))
			return err != nil
		})
	}
}

// attachAt is attach to a socket of the caller's choice.
func (b *Box) attachAt(ctx context.Context, bundle string, s monitor.AttachStreams) <-chan error {
	done := make(chan error, 1)
	go func() { done <- monitor.Attach(ctx, bundle, s) }()
	return done
}

// connected tells whether a client of this process has a connection to an attach
// socket, be it accepted or not.
func connected() bool {
	own := map[string]bool{}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			own[to] = true
		}
	}
	data, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line) // address, references, protocol, flags, type, state, inode, path
		if len(f) >= 7 && f[4] == "0005" && f[5] == "03" && own["socket:["+f[6]+"]"] {
			return true
		}
	}
	return false
}

// execTerminal has a terminal that changes its size, and a console socket without a
// bundle.
func execTerminal(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	process := func(script string) map[string]any {
		return map[string]any{"args": []string{"/bin/sh", "-c", script}, "terminal": true}
	}
	bundle := t.TempDir()
	// Nobody waits for us between the terminal's arrival and the program's start.
	s := b.execProcess(process("until [ \"$(stty size)\" != '0 0' ]; do sleep 0.01; done; stty size; read go; stty size; echo err >&2; tty >/dev/null && exit 4"), "-b", bundle, "-t", "-i", "--exec-attach",
		"--api-version", "-u", "session", "--full-attach")
	s.release()
	if line, err := s.attach.ReadString('\n'); err != nil {
		t.Fatal(line, err, s.said())
	}
	var out sink
	in, keys := io.Pipe()
	defer keys.Close()
	done := b.attachAt(context.Background(), bundle, monitor.AttachStreams{Stdin: in, Stdout: &out, TTY: true})
	b.Eventually("a connection", connected)
	// The engine knows the size before there is a terminal.
	if err := monitor.Resize(context.Background(), bundle, 28, 64); err != nil {
		t.Fatal(err)
	}
	s.release()
	first, err := s.sync.ReadString('\n')
	if m := decode(t, first); err != nil || m.number <= 0 {
		t.Fatalf("first message %q %v", first, err)
	}
	b.Eventually("the first size", func() bool { return strings.Contains(out.String(), "28 64\r\n") })
	if err := monitor.Resize(context.Background(), bundle, 31, 72); err != nil {
		t.Fatal(err)
	}
	b.Eventually("the new size", func() bool { return size(b, s.Dir) == "31 72" })
	io.WriteString(keys, "go\n")
	b.ended(done)
	if told := s.told(); len(told) != 1 || told[0].number != 4 {
		t.Errorf("messages %+v", told)
	}
	s.wait()
	for _, want := range []string{"28 64\r\n", "31 72\r\n", "err\r\n"} {
		if !strings.Contains(out.String(), want) || !strings.Contains(s.text("stdout"), want) {
			t.Errorf("no %q in %q or in the log %q", want, out.String(), s.text("stdout"))
		}
	}
	s = b.execProcess(process("echo alone; exit 2"), "--sync", "-t")
	s.release()
	if told := s.told(); len(told) != 1 || told[0].number != 2 || !strings.Contains(s.text("stdout"), "alone\r") {
		t.Errorf("without a bundle: %+v, log %q, %s", told, s.text("stdout"), s.said())
	}
	s.wait()
}

// size is that of the terminal of the process whose pid the runtime wrote.
func size(b *Box, dir string) string {
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		b.t.Fatal(err)
	}
	fd, err := unix.Open("/proc/"+strings.TrimSpace(string(pid))+"/fd/0", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(fd)
	ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		b.t.Fatal(err)
	}
	return fmt.Sprint(ws.Row, " ", ws.Col)
}

// execLimit drops output beyond --log-global-size-max.
func execLimit(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	s := b.exec("busybox seq 10000 19999; exit 6", "--sync", "--log-global-size-max", "8192")
	s.release()
	told := s.told()
	s.wait()
	if len(told) != 1 || told[0].number != 6 {
		t.Errorf("messages %+v", told)
	}
	st, err := os.Stat(filepath.Join(s.Dir, "log"))
	if err != nil || st.Size() == 0 || st.Size() > 8192 && !r.Foreign {
		t.Errorf("log: %v %v", st, err)
	}
	if err == nil {
		t.Logf("the log has %d bytes", st.Size())
	}
	if got := s.text("stdout"); !strings.HasPrefix(got, "10000\n10001\n") {
		t.Errorf("the log begins with %.50q", got)
	}
}
