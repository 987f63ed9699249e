// Package notifier hears of the system calls that the seccomp filters of some containers
// refuse: it logs and counts them, answers them as the filter would have, and ends
// containers whose annotation wants it.
//
// A runtime that loads such a filter sends its listener to the notifier's socket, as the
// runtime specification says (containerProcessState); it does so for each exec'd process
// too. A listener is a file descriptor and ends with the daemon that holds it: after a
// restart, calls of containers that ran before are refused as ever, but with ENOSYS, and
// nobody hears of them. What was heard of a container that is to be ended is on record in
// its bundle, so that a restart does not spare it.
//
// It knows no pod.
package notifier

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/seccomp/listener"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/spec"
	"golang.org/x/sys/unix"
)

// Grace is how long after the last refused call a container is ended.
const Grace = 5 * time.Second

// Reason is that of a container which was ended so.
const Reason = "seccomp killed"

// recordFile is the name of the record in a container's bundle.
const recordFile = "seccomp.json"

// Options say where and for whom to listen.
type Options struct {
	// Socket is the path to listen on; it is made. Without one nobody is listened to.
	Socket string
	// Bundle is the folder of a container, which exists while there is one of that id.
	Bundle func(id string) string
	// Stop kills a container.
	Stop func(id string) error
	// Seen counts refused calls; nil: nobody counts.
	Seen func(id, call string)
	// Grace is the time to Stop; 0 is the constant.
	Grace time.Duration
	Log   *slog.Logger
}

// Notifier is the listener of all such filters of a node.
type Notifier struct {
	o Options
	l *net.UnixListener

	mu     sync.Mutex // guards what follows
	closed bool
	open   map[*listener.Listener]bool
	ctrs   map[string]*container
	wg     sync.WaitGroup
}

// container is one of which calls are heard.
type container struct {
	id        string
	listeners int
	timer     *time.Timer
	record    record
}

// record is what outlives the daemon.
type record struct {
	spec.Refusals
	// Calls counts refused calls.
	Calls map[string]int `json:"calls,omitempty"`
	// Killed says that the container's end was our doing.
	Killed bool `json:"killed,omitempty"`
}

// Listen makes the socket and serves it until Close.
func Listen(o Options) (*Notifier, error) {
	if o.Grace == 0 {
		o.Grace = Grace
	}
	if o.Socket == "" {
		return &Notifier{o: o}, nil
	}
	if err := fsx.RemoveIfThere(o.Socket); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: o.Socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for seccomp filters: %w", err)
	}
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	n := &Notifier{o: o, l: l, open: map[*listener.Listener]bool{}, ctrs: map[string]*container{}}
	n.wg.Go(n.accept)
	return n, nil
}

// Close ends all listening; callers that wait get ENOSYS.
func (n *Notifier) Close() error {
	n.mu.Lock()
	n.closed = true
	for l := range n.open {
		_ = l.Close()
	}
	for _, c := range n.ctrs {
		c.stopTimer()
	}
	n.mu.Unlock()
	if n.l == nil {
		return nil
	}
	err := n.l.Close()
	n.wg.Wait()
	return err
}

// Recover takes note of containers that run already: their listeners are gone, and who
// was to be ended is.
func (n *Notifier) Recover(running []string) {
	for _, id := range running {
		r, err := n.load(id)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			n.o.Log.Error("cannot read what seccomp refused to a container", "ctr", id, "err", err)
		case r.Stop && len(r.Calls) > 0:
			n.kill(&container{id: id, record: r})
		default:
			n.o.Log.Warn("calls of a container that seccomp refuses are heard of no more: the daemon was restarted while it ran; they fail with ENOSYS", "ctr", id, "name", r.Container)
		}
	}
}

// Why tells the reason of an end that was our doing; empty if it was not.
func (n *Notifier) Why(id string) (reason, message string) {
	r, err := n.load(id)
	if err != nil || !r.Killed {
		return "", ""
	}
	var calls []string
	for _, c := range slices.Sorted(maps.Keys(r.Calls)) {
		calls = append(calls, fmt.Sprintf("%s (%d)", c, r.Calls[c]))
	}
	return Reason, "the container made system calls that its seccomp profile forbids: " + strings.Join(calls, ", ")
}

func (n *Notifier) load(id string) (r record, err error) {
	data, err := os.ReadFile(filepath.Join(n.o.Bundle(id), recordFile))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

func (n *Notifier) save(c *container) {
	data, err := json.Marshal(c.record)
	if err == nil {
		err = fsx.WriteFile(filepath.Join(n.o.Bundle(c.id), recordFile), data, 0o600, fsx.Process)
	}
	if err != nil {
		n.o.Log.Error("cannot record what seccomp refused to a container", "ctr", c.id, "err", err)
	}
}

// watch serves a listener of a container until its processes have ended.
func (n *Notifier) watch(id string, r spec.Refusals, l *listener.Listener) error {
	if !oci.ValidID(id) {
		return errs.Invalid("container %q: no container has such an id", id)
	}
	if _, err := os.Stat(n.o.Bundle(id)); err != nil {
		return errs.Invalid("container %s: it is none of ours: %w", id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errs.Precondition("the daemon ends")
	}
	c := n.ctrs[id]
	if c == nil {
		c = &container{id: id, record: record{Refusals: r, Calls: map[string]int{}}}
		if old, err := n.load(id); err == nil && old.Calls != nil { // an exec after a restart
			c.record.Calls, c.record.Killed = old.Calls, old.Killed
		}
		n.ctrs[id] = c
		n.save(c)
	}
	c.listeners++
	n.open[l] = true
	n.wg.Go(func() {
		err := l.Serve(func(call listener.Call) { n.refuse(c, l, call) })
		n.mu.Lock()
		delete(n.open, l)
		if c.listeners--; c.listeners == 0 {
			c.stopTimer()
			delete(n.ctrs, id)
		}
		n.mu.Unlock()
		if err = errors.Join(err, l.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
			n.o.Log.Error("calls of a container that seccomp refuses are heard of no more; they fail with ENOSYS", "ctr", id, "err", err)
		}
	})
	return nil
}

func (c *container) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// refuse does with a call what the filter would have done, and takes note.
func (n *Notifier) refuse(c *container, l *listener.Listener, call listener.Call) {
	r := &c.record.Refusals
	errno, named := r.Errnos[call.Name]
	if !named {
		errno = r.Errno
	}
	n.mu.Lock()
	c.record.Calls[call.Name]++
	count := c.record.Calls[call.Name]
	if r.Stop && !c.record.Killed && !n.closed {
		if count == 1 {
			n.save(c)
		}
		c.stopTimer()
		c.timer = time.AfterFunc(n.o.Grace, func() { n.kill(c) })
	}
	n.mu.Unlock()
	if n.o.Seen != nil {
		n.o.Seen(c.id, call.Name)
	}
	if loud(count) { // a program may make thousands of them a second
		n.o.Log.Warn("seccomp refused a system call", "ctr", c.id, "name", r.Container, "syscall", call.Name, "pid", call.PID, "errno", unix.ErrnoName(unix.Errno(errno)), "count", count)
	}
	if slices.Contains(r.Kills, call.Name) || !named && slices.Contains(r.Kills, spec.AllCalls) {
		if call.PID > 0 && l.Waits(call) { // while it waits the number is its own
			_ = unix.Kill(call.PID, unix.SIGKILL)
		}
	}
	if err := l.Refuse(call, unix.Errno(errno)); err != nil {
		n.o.Log.Error("a call that seccomp refuses was not answered", "ctr", c.id, "err", err)
	}
}

// loud tells whether the n-th call of its kind is worth a line: the first ten, then the
// 20th, 40th, 80th, ...
func loud(n int) bool {
	for n > 10 && n%2 == 0 {
		n /= 2
	}
	return n <= 10
}

// kill ends a container for the calls that it made.
func (n *Notifier) kill(c *container) {
	n.mu.Lock()
	c.record.Killed = true
	n.save(c)
	n.mu.Unlock()
	n.o.Log.Warn("a container is ended for system calls that its seccomp profile forbids", "ctr", c.id, "name", c.record.Container)
	if err := n.o.Stop(c.id); err != nil {
		n.o.Log.Error("cannot end a container that made forbidden system calls", "ctr", c.id, "err", err)
	}
}
