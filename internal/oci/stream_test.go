package oci

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/internal/errs"
)

// A process that has closed its input does not hold up who sends to it: other things
// may come the same way. When the process is gone, nothing is read any more.
func TestDeafInput(t *testing.T) {
	from, sender := io.Pipe()
	req := &ExecRequest{Process: &specs.Process{}, Stdin: from}
	s, err := OpenStreams(req)
	if err != nil {
		t.Fatal(err)
	}
	s.CloseChild() // nobody else has the other end
	s.Begin(req, nil)
	sent := make(chan error, 1)
	send := func() {
		_, err := sender.Write(make([]byte, 1<<20)) // more than a pipe holds
		sent <- err
	}
	go send()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the sender waits")
	}
	s.Close()
	go send()
	// One read may have been under way; the second part of the megabyte stays.
	time.Sleep(50 * time.Millisecond)
	select {
	case err := <-sent:
		t.Errorf("somebody reads although the exec is over: %v", err)
	default:
	}
	sender.Close()
	<-sent
}

func TestExecProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "root"}, Linux: &specs.Linux{}, Process: &specs.Process{
		Args: []string{"main"}, Env: []string{"A=b"}, Cwd: "/", User: specs.User{UID: 7}, Terminal: true, ConsoleSize: &specs.Box{Width: 1, Height: 1}}}
	if err := WriteBundle(dir, spec); err != nil {
		t.Fatal(err)
	}
	p, err := ExecProcess(dir, []string{"x"}, false, Size{})
	if err != nil || p.Terminal || p.ConsoleSize != nil || p.Args[0] != "x" || p.User.UID != 7 || !slices.Equal(p.Env, []string{"A=b"}) {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = ExecProcess(dir, []string{"x"}, true, Size{Width: 80, Height: 24})
	if err != nil || !p.Terminal || *p.ConsoleSize != (specs.Box{Width: 80, Height: 24}) || !slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("with a terminal: %+v, %v", p, err)
	}
	spec.Process.Env = []string{"TERM=vt100"}
	if err := WriteBundle(dir, spec); err != nil {
		t.Fatal(err)
	}
	if p, err = ExecProcess(dir, []string{"x"}, true, Size{}); err != nil || p.ConsoleSize != nil || !slices.Equal(p.Env, []string{"TERM=vt100"}) {
		t.Errorf("with TERM: %+v, %v", p, err)
	}
	if _, err := ExecProcess(dir, nil, false, Size{}); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("no command: %v", err)
	}
}
