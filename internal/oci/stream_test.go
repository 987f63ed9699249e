package oci

import (
	"io"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
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
