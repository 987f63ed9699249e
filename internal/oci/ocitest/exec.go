package ocitest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

func execResults(w *World) {
	id, _ := w.Start("sleep 1000")
	for _, c := range []struct {
		script, stdout, stderr string
		code                   int
	}{
		{"echo a; echo b >&2", "a\n", "b\n", 0},
		{"exit 7", "", "", 7},
		{"exit 255", "", "", 255},
		{"kill -9 $$", "", "", 137},
		{"printf 'no newline'; exit 1", "no newline", "", 1},
	} {
		code, stdout, stderr, err := w.Exec(id, c.script)
		if err != nil || code != c.code || stdout != c.stdout || stderr != c.stderr {
			w.Errorf("%s: code %d, stdout %q, stderr %q, %v", c.script, code, stdout, stderr, err)
		}
	}
	_, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/not-there")})
	if w.kindOf("absent command", err, errs.KindInvalid); err != nil && !strings.Contains(err.Error(), "not-there") {
		w.Errorf("the error does not name the command: %v", err)
	}
	// Nobody listens, and nobody says anything.
	code, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/sh", "-c", "echo x; cat; exit 6")})
	if code != 6 || err != nil {
		w.Errorf("without streams: %d, %v", code, err)
	}
	var out bytes.Buffer
	code, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/cat"), Stdin: strings.NewReader("from us"), Stdout: &out})
	if code != 0 || err != nil || out.String() != "from us" {
		w.Errorf("cat: %d, %q, %v", code, out.String(), err)
	}
}

func execProcess(w *World) {
	id, _ := w.Start("sleep 1000")
	p := Process("/bin/sh", "-c", "id -u; id -g; id -G; pwd; echo \"$GREETING\"; echo $0", "name; $(touch /tmp/x)")
	p.User = specs.User{UID: 12, GID: 34, AdditionalGids: []uint32{56}}
	p.Cwd = "/tmp"
	p.Env = append(p.Env, "GREETING=a b  $HOME")
	var out bytes.Buffer
	code, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: p, Stdout: &out})
	if code != 0 || err != nil || out.String() != "12\n34\n34 56\n/tmp\na b  $HOME\nname; $(touch /tmp/x)\n" {
		w.Errorf("code %d, output %q, %v", code, out.String(), err)
	}
	pids := make(chan int, 1)
	ctx, cancel := context.WithCancel(w.Ctx)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = w.RT.Exec(ctx, id, oci.ExecRequest{Process: Process("/bin/sleep", "1000"), Started: func(pid int) { pids <- pid }})
	}()
	select {
	case pid := <-pids:
		if unix.Kill(pid, 0) != nil {
			w.Errorf("process %d, which was announced, does not exist", pid)
		}
	case <-time.After(Patience):
		w.Error("the start was not announced")
	}
	cancel()
	<-done
}

// execTail: everything a process wrote arrives, also to a slow reader.
func execTail(w *World) {
	id, _ := w.Start("sleep 1000")
	const lines = 100000
	var out bytes.Buffer
	slow := writerFunc(func(b []byte) (int, error) {
		if out.Len() == 0 {
			time.Sleep(2 * oci.Drain)
		}
		return out.Write(b)
	})
	code, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/seq", "100000"), Stdout: slow})
	if code != 0 || err != nil || strings.Count(out.String(), "\n") != lines || !strings.HasSuffix(out.String(), "\n100000\n") {
		w.Errorf("code %d, %d lines, %v", code, strings.Count(out.String(), "\n"), err)
	}
	// The last pipe full is written before the end and read long after it.
	out.Reset()
	slow = func(b []byte) (int, error) {
		time.Sleep(oci.Drain)
		return out.Write(b)
	}
	code, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/dd", "if=/proc/self/exe", "bs=4096", "count=40"), Stdout: slow})
	if code != 0 || err != nil || out.Len() != 40*4096 {
		w.Errorf("code %d, %d bytes, %v", code, out.Len(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// execBackground: a child that keeps the pipe does not keep the exec.
func execBackground(w *World) {
	id, _ := w.Start("sleep 1000")
	for _, script := range []string{
		"sleep 1000 & echo done; exit 3",
		"(while :; do echo flood; done) & echo done; exit 3",
	} {
		began := time.Now()
		code, out, _, err := w.Exec(id, script)
		if code != 3 || err != nil || !strings.Contains(out, "done\n") {
			w.Errorf("%s: code %d, %d bytes, %v", script, code, len(out), err)
		}
		if took := time.Since(began); took > Patience/2 {
			w.Errorf("%s: it took %v", script, took)
		}
	}
	pids, err := w.RT.Processes(w.Ctx, id)
	w.ok("processes", err)
	if len(pids) < 2 {
		w.Errorf("the background child was killed: %v", pids)
	}
}

func execDeadline(w *World) {
	id, _ := w.Start("sleep 1000")
	ctx, cancel := context.WithTimeout(w.Ctx, 500*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	began := time.Now()
	_, err := w.RT.Exec(ctx, id, oci.ExecRequest{
		Process: Process("/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1001 & echo before; sleep 1002"), Stdout: &out,
	})
	w.kindOf("deadline", err, errs.KindDeadline)
	if took := time.Since(began); took > Patience/2 {
		w.Errorf("it took %v", took)
	}
	if out.String() != "before\n" {
		w.Errorf("output is %q", out.String())
	}
	w.onlyInit(id)
	if code, _, _, err := w.Exec(id, "exit 2"); code != 2 || err != nil {
		w.Errorf("exec after that: %d, %v", code, err)
	}
	ctx, cancel = context.WithTimeout(w.Ctx, -time.Second)
	defer cancel()
	_, err = w.RT.Exec(ctx, id, oci.ExecRequest{Process: Process("/bin/true")})
	w.kindOf("deadline in the past", err, errs.KindDeadline)
}

// onlyInit waits until a container's init is alone.
func (w *World) onlyInit(id string) {
	w.Helper()
	w.Await("the init of "+id+" to be alone", func() bool {
		pids, err := w.RT.Processes(w.Ctx, id)
		w.ok("processes", err)
		return len(pids) == 1
	})
}

func execCancel(w *World) {
	id, _ := w.Start("sleep 1000")
	ctx, cancel := context.WithCancel(w.Ctx)
	defer cancel()
	r, in, err := os.Pipe() // a reader that never ends
	w.ok("pipe", err)
	defer r.Close()
	defer in.Close()
	_, err = w.RT.Exec(ctx, id, oci.ExecRequest{
		Process: Process("/bin/cat"), Stdin: r, Stdout: &bytes.Buffer{},
		Started: func(int) { cancel() },
	})
	w.kindOf("cancel", err, errs.KindCanceled)
	w.onlyInit(id)
}

// screen is what a terminal shows; written by the runtime, read by the test.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.buf.String(), text)
}

func execTerminal(w *World) {
	id, _ := w.Start("sleep 1000")
	p := Process("/bin/sh", "-c", "tty; read x; stty size; echo err >&2; exit 9")
	p.Terminal = true
	p.ConsoleSize = &specs.Box{Width: 60, Height: 20}
	r, in, err := os.Pipe()
	w.ok("pipe", err)
	defer r.Close()
	defer in.Close()
	sizes := make(chan oci.Size, 1)
	var s screen
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: p, Stdin: r, Stdout: &s, Resize: sizes})
		done <- result{code, err}
	}()
	w.Await("the terminal's name", func() bool { return s.has("/dev/") })
	sizes <- oci.Size{Width: 91, Height: 17}
	time.Sleep(300 * time.Millisecond) // nothing tells when the size has arrived
	if _, err := in.WriteString("go\n"); err != nil {
		w.Fatal(err)
	}
	select {
	case got := <-done:
		if got.code != 9 || got.err != nil {
			w.Errorf("code %d, %v", got.code, got.err)
		}
	case <-time.After(Patience):
		w.Fatal("the exec does not end")
	}
	in.Close()
	if !s.has("17 91") || !s.has("err") {
		w.Errorf("the terminal showed %q", s.buf.String())
	}
}

// execTyped: what is typed before the process runs is echoed once, by its terminal.
func execTyped(w *World) {
	id, _ := w.Start("sleep 1000")
	p := Process("/bin/sh", "-c", "read x; echo got $x")
	p.Terminal = true
	r, in, err := os.Pipe()
	w.ok("pipe", err)
	defer r.Close()
	defer in.Close()
	if _, err := in.WriteString("word\n"); err != nil {
		w.Fatal(err)
	}
	var s screen
	code, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: p, Stdin: r, Stdout: &s})
	// runc takes a moment until only one of two terminals adds carriage returns.
	if code != 0 || err != nil || strings.ReplaceAll(s.buf.String(), "\r", "") != "word\ngot word\n" {
		w.Errorf("code %d, %v, the terminal showed %q", code, err, s.buf.String())
	}
}

func execStates(w *World) {
	id, _ := w.Start("exit 0")
	w.AwaitStatus(id, oci.Stopped)
	_, err := w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: Process("/bin/true")})
	w.kindOf("exec in a stopped container", err, errs.KindPrecondition)
	id, _ = w.Start("sleep 1000")
	_, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{})
	w.kindOf("exec of nothing", err, errs.KindInvalid)
	_, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: &specs.Process{Cwd: "/"}})
	w.kindOf("exec without arguments", err, errs.KindInvalid)
}

// execHangup: a process whose output nobody takes any more is not held in a write,
// and one on a terminal learns that the line is dead.
func execHangup(w *World) {
	id, _ := w.Start("sleep 1000")
	flood := "echo up; while :; do echo flood; done"
	for _, c := range []struct {
		name, script string
		terminal     bool
		fails        bool // the writer fails; else hang-up
	}{
		{"a writer that fails", flood, false, true},
		{"hang-up", flood, false, false},
		{"a terminal that is not written to", "echo up; sleep 1000", true, false},
		{"a terminal whose writer fails", flood, true, true},
	} {
		p := Process("/bin/sh", "-c", c.script)
		p.Terminal = c.terminal
		r, in, err := os.Pipe() // silent, and open all the time
		w.ok("pipe", err)
		gone, up := make(chan struct{}), make(chan struct{})
		var once sync.Once
		out := writerFunc(func(b []byte) (int, error) {
			once.Do(func() { close(up) })
			if c.fails {
				return 0, errors.New("the reader is gone")
			}
			return len(b), nil
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = w.RT.Exec(w.Ctx, id, oci.ExecRequest{Process: p, Stdin: r, Stdout: out, Hangup: gone})
		}()
		<-up
		if !c.fails {
			close(gone)
		}
		select {
		case <-done:
		case <-time.After(Patience):
			w.Fatalf("%s: the exec does not end", c.name)
		}
		in.Close()
		r.Close()
		w.onlyInit(id)
	}
}
