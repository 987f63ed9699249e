package notifier

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

type rig struct {
	*Notifier
	dir     string
	stopped chan string
	log     strings.Builder
}

func newRig(t *testing.T) *rig {
	r := &rig{dir: t.TempDir(), stopped: make(chan string, 8)}
	n, err := Listen(Options{Socket: filepath.Join(r.dir, "s"), Bundle: func(id string) string { return filepath.Join(r.dir, id) },
		Stop: func(id string) error { r.stopped <- id; return nil }, Grace: time.Millisecond, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	r.Notifier = n
	return r
}

// send gives the notifier a message and descriptors; an error of it is in the log.
func (r *rig) send(t *testing.T, text string, fds ...int) {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(r.dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix([]byte(text), oob, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Read(make([]byte, 1)) // until it has looked
}

// What cannot be a listener is refused, and its descriptors are closed.
func TestStrangeMessages(t *testing.T) {
	r := newRig(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	state, err := json.Marshal(specs.ContainerProcessState{Fds: []string{specs.SeccompFdName}, State: specs.State{ID: "one"}})
	if err != nil {
		t.Fatal(err)
	}
	none, _ := json.Marshal(specs.ContainerProcessState{State: specs.State{ID: "one"}})
	r.send(t, "no JSON", int(write.Fd()))
	r.send(t, "")
	r.send(t, string(none), int(write.Fd()))
	r.send(t, string(state))
	r.send(t, string(state), int(write.Fd()), int(write.Fd()))
	r.send(t, strings.Repeat(" ", maxMessage+1)+string(state))
	write.Close()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := read.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := read.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a descriptor that was sent is still open")
	}
	if n := strings.Count(r.log.String(), "cannot use what was sent"); n != 6 {
		t.Errorf("%d of 6 messages were refused:\n%s", n, r.log.String())
	}
}

func TestRecover(t *testing.T) {
	r := newRig(t)
	write := func(id string, rec record) {
		data, err := json.Marshal(rec)
		if err == nil {
			err = errors.Join(os.Mkdir(filepath.Join(r.dir, id), 0o700), os.WriteFile(filepath.Join(r.dir, id, recordFile), data, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("hit", record{Refusals: spec.Refusals{Container: "c", Stop: true}, Calls: map[string]int{"swapoff": 3, "bpf": 1}})
	write("quiet", record{Refusals: spec.Refusals{Container: "c", Stop: true}})
	write("log", record{Refusals: spec.Refusals{Container: "c"}, Calls: map[string]int{"bpf": 1}})
	r.Recover([]string{"hit", "quiet", "log", "absent"})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if id := <-r.stopped; id != "hit" || len(r.stopped) > 0 {
		t.Errorf("ended: %s and %d more", id, len(r.stopped))
	}
	if reason, message := r.Why("hit"); reason != Reason || !strings.HasSuffix(message, ": bpf (1), swapoff (3)") {
		t.Errorf("%q %q", reason, message)
	}
	for _, id := range []string{"quiet", "log", "absent"} {
		if reason, _ := r.Why(id); reason != "" {
			t.Errorf("%s: %q", id, reason)
		}
	}
	if n := strings.Count(r.log.String(), "heard of no more"); n != 2 {
		t.Errorf("%d containers without listener are told of, not 2:\n%s", n, r.log.String())
	}
}

func TestLoud(t *testing.T) {
	n := 0
	for i := 1; i <= 100000; i++ {
		if loud(i) {
			n++
		}
	}
	if !loud(1) || !loud(10) || loud(11) || n > 120 {
		t.Errorf("%d of 100000 calls are logged", n)
	}
}

func TestNobodyListens(t *testing.T) {
	n, err := Listen(Options{Bundle: func(string) string { return t.TempDir() }})
	if err != nil {
		t.Fatal(err)
	}
	n.Recover([]string{"a"})
	if reason, _ := n.Why("a"); reason != "" {
		t.Errorf("%q", reason)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
