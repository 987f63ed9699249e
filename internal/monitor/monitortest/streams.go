package monitortest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/monitor"
)

// sink is a buffer that may be read while it is written.
type sink struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// attach runs Attach and returns its result on a channel.
func (b *Box) attach(ctx context.Context, s monitor.AttachStreams) <-chan error {
	done := make(chan error, 1)
	go func() { done <- monitor.Attach(ctx, b.Spawn.Bundle, s) }()
	return done
}

// attachFirst attaches and returns when the monitor has taken the connection: what
// comes from now on is for this client too.
func (b *Box) attachFirst(ctx context.Context, s monitor.AttachStreams) <-chan error {
	b.t.Helper()
	sockets := func() (n int) {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", b.Proc.Monitor.Pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
				n++
			}
		}
		return n
	}
	before := sockets()
	done := b.attach(ctx, s)
	b.Eventually("the monitor takes the connection", func() bool { return sockets() > before })
	return done
}

func (b *Box) ended(done <-chan error) {
	b.t.Helper()
	select {
	case err := <-done:
		if err != nil {
			b.t.Errorf("attach: %v", err)
		}
	case <-time.After(30 * time.Second):
		b.t.Fatal("attach does not end")
	}
}

// halfClose sends input and its end; the container answers and ends by itself.
func halfClose(t *testing.T, r *Rig) {
	b := r.Box(t, "cat; echo done >&2")
	b.Spawn.Stdin = true
	b.Run()
	var out, errs sink
	done := b.attach(context.Background(), monitor.AttachStreams{
		Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out, Stderr: &errs,
	})
	b.ended(done)
	b.WaitExit()
	if out.String() != "one\ntwo\n" || errs.String() != "done\n" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	if got := strings.Join(b.Records(), ""); got != "stdout F one\nstdout F two\nstderr F done\n" {
		t.Errorf("log %q", got)
	}
}

// leaveOpen lets two clients speak to the same container, one after the other.
func leaveOpen(t *testing.T, r *Rig) {
	b := r.Box(t, "read a; echo got $a; read b; echo got $b")
	b.Spawn.Stdin, b.Spawn.LeaveStdinOpen = true, true
	b.Run()
	for _, word := range []string{"first", "second"} {
		ctx, cancel := context.WithCancel(context.Background())
		done := b.attach(ctx, monitor.AttachStreams{Stdin: strings.NewReader(word + "\n"), Stdout: io.Discard})
		b.WaitLog("got " + word + "\n")
		cancel()
		<-done
	}
	if e := b.WaitExit(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
}

// onlyListening: clients that never could send come and go; the input stays open
// until the end of one that does send, however it ends.
func onlyListening(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors close the input when any client goes")
	}
	b := r.Box(t, "echo up; cat; echo done")
	b.Spawn.Stdin = true
	b.Run()
	b.WaitLog("up\n")
	ctx, cancel := context.WithCancel(context.Background())
	var out sink
	done := b.attachFirst(ctx, monitor.AttachStreams{Stdout: &out})
	keys, typing := io.Pipe()
	other, leave := context.WithCancel(context.Background())
	second := b.attach(other, monitor.AttachStreams{Stdin: keys, Stdout: io.Discard})
	io.WriteString(typing, "one\n")
	b.Eventually("output", func() bool { return out.String() == "one\n" })
	cancel()
	<-done
	io.WriteString(typing, "two\n")
	b.WaitLog("two\n")
	leave() // without a half-close
	<-second
	typing.Close()
	b.WaitExit()
	if got := strings.Join(b.Records(), ""); got != "stdout F up\nstdout F one\nstdout F two\nstdout F done\n" {
		t.Errorf("log %q", got)
	}
}

// lastInput: clients send a line and are gone at once, while output is on its way to
// them.
func lastInput(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors may lose it")
	}
	const clients = 40
	b := r.Box(t, "while :; do echo flood; done & while read n; do echo got $n >&2; [ $n = last ] && break; done; kill $!")
	b.Spawn.Stdin, b.Spawn.LeaveStdinOpen = true, true
	b.Run()
	short := filepath.Join(t.TempDir(), "s")
	if err := os.Symlink(b.Spawn.Bundle, short); err != nil {
		t.Fatal(err)
	}
	send := func(line string) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: short + "/attach"}); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range clients {
		send(strconv.Itoa(i) + "\n")
	}
	send("last\n")
	b.WaitExit()
	for i := range clients {
		if !strings.Contains(b.Log(), "got "+strconv.Itoa(i)+"\n") {
			t.Errorf("the input of client %d is lost", i)
		}
	}
}

// bulkInput sends more than all buffers hold to a reader that begins late.
func bulkInput(t *testing.T, r *Rig) {
	const size = 8 << 20
	b := r.Box(t, "sleep 0.3; busybox wc -c")
	b.Spawn.Stdin = true
	b.Run()
	done := b.attach(context.Background(), monitor.AttachStreams{Stdin: io.LimitReader(zeros{}, size), Stdout: io.Discard})
	b.ended(done)
	b.WaitExit()
	if got := b.Records(); len(got) != 1 || got[0] != "stdout F "+strconv.Itoa(size)+"\n" {
		t.Errorf("log %q", got)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// stuckClient has three clients, one of which never reads.
func stuckClient(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors wait for a client that does not read")
	}
	const lines = 400000
	b := r.Box(t, "read go; busybox seq 1 "+strconv.Itoa(lines))
	b.Spawn.Stdin = true
	b.Run()
	stuck, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stuck)
	short := filepath.Join(t.TempDir(), "s")
	if err := os.Symlink(b.Spawn.Bundle, short); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(stuck, &unix.SockaddrUnix{Name: short + "/attach"}); err != nil {
		t.Fatal(err)
	}
	var one, two sink
	a := b.attachFirst(context.Background(), monitor.AttachStreams{Stdout: &one})
	c := b.attach(context.Background(), monitor.AttachStreams{Stdout: &two, Stdin: strings.NewReader("go\n")})
	b.ended(a)
	b.ended(c)
	b.WaitExit()
	var want strings.Builder
	for i := 1; i <= lines; i++ {
		want.WriteString(strconv.Itoa(i) + "\n")
	}
	// A reader that is slower than the kernel's buffer may be cut off, too; it gets
	// the beginning without a gap. Ours read all the time.
	for name, s := range map[string]*sink{"first": &one, "second": &two} {
		if got := s.String(); !strings.HasPrefix(want.String(), got) || len(got) < 1<<20 {
			t.Errorf("the %s reader got %d of %d bytes", name, len(got), want.Len())
		}
	}
	if n := strings.Count(b.Log(), "\n"); n < lines {
		t.Errorf("the log has %d of %d lines", n, lines)
	}
}

func terminal(t *testing.T, r *Rig) {
	b := r.Box(t, "read go; stty size; echo out; echo err >&2; read line; stty size; echo got $line")
	b.Terminal()
	b.Run()
	ctx := context.Background()
	var out sink
	stdin, keys := io.Pipe()
	defer keys.Close()
	sizes := make(chan monitor.Size, 1)
	done := b.attach(ctx, monitor.AttachStreams{Stdin: stdin, Stdout: &out, TTY: true, Resize: sizes})
	if err := monitor.Resize(ctx, b.Spawn.Bundle, 33, 77); err != nil {
		t.Fatal(err)
	}
	// The fifo and the socket are two ways: let the size arrive first.
	time.Sleep(100 * time.Millisecond)
	io.WriteString(keys, "go\n")
	b.Eventually("output", func() bool { return strings.Contains(out.String(), "err\r\n") })
	sizes <- monitor.Size{Height: 44, Width: 88}
	time.Sleep(100 * time.Millisecond)
	io.WriteString(keys, "word\n")
	b.ended(done)
	b.WaitExit()
	for _, want := range []string{"33 77\r\n", "out\r\n", "err\r\n", "44 88\r\n", "got word\r\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
		if !strings.Contains(b.Text(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(b.Spawn.Bundle, "console*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// winsz uses the older fifo.
func winsz(t *testing.T, r *Rig) {
	b := r.Box(t, "read go; stty size")
	b.Terminal()
	b.Run()
	lines := []string{"x y\n", "7\n", "1001 5\n", strings.Repeat("9", 500) + "\n", "11 22\n"}
	if r.Foreign { // which may stumble over nonsense
		lines = lines[len(lines)-1:]
	}
	for _, line := range lines {
		if err := os.WriteFile(filepath.Join(b.Spawn.Bundle, "winsz"), []byte(line), 0); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	done := b.attach(context.Background(), monitor.AttachStreams{Stdin: strings.NewReader("go\n")})
	b.WaitExit()
	<-done
	if !strings.Contains(b.Text(), "11 22\r\n") {
		t.Errorf("log %q", b.Log())
	}
}

// hangUp closes every use of the terminal and opens it again.
func hangUp(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors poll")
	}
	b := r.Box(t, "tty=/dev/pts/0; echo one; (exec </dev/null >/dev/null 2>&1; sleep 0.3; echo two >$tty) & exec </dev/null >/dev/null 2>&1; sleep 0.6; echo three >$tty")
	b.Terminal()
	b.Run()
	b.WaitLog("one\r")
	b.WaitExit()
	for _, want := range []string{"two\r", "three\r"} {
		if !strings.Contains(b.Log(), want) {
			t.Errorf("no %q in %q", want, b.Log())
		}
	}
}

// attachLeaks comes and goes often; the monitor must hold nothing of it.
func attachLeaks(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("older releases now and then end when a client leaves, under load")
	}
	b := r.Box(t, "while :; do echo x; sleep 0.005; done")
	b.Spawn.Stdin, b.Spawn.LeaveStdinOpen = true, true
	b.Run()
	fds := func() int {
		list, err := os.ReadDir("/proc/" + strconv.Itoa(b.Proc.Monitor.Pid) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	own := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before, ownBefore := fds(), own()
	for range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		<-b.attach(ctx, monitor.AttachStreams{Stdin: strings.NewReader("x"), Stdout: io.Discard})
		cancel()
	}
	b.Eventually("descriptors to be closed", func() bool { return fds() <= before })
	if n := own(); n > ownBefore {
		t.Errorf("the client has %d descriptors, had %d", n, ownBefore)
	}
}
