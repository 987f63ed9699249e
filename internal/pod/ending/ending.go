// Package ending is how a container's processes are made to end: the stop signal, a
// grace period that later calls can shorten, SIGKILL to everything, and a word about
// what does not die.
//
// It needs no lock of its subject's life. The end of a process is a fact that comes
// from the kernel, not a state that callers negotiate: they wait for it together.
package ending

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/monocrio/monocrio/internal/flight"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
	"golang.org/x/sys/unix"
)

// KillTime is how long processes may take to end after SIGKILL.
const KillTime = 10 * time.Second

// Subject is who is to end.
type Subject struct {
	ID string
	// Life ends with the daemon; Go runs a function that it waits for.
	Life context.Context
	Go   func(func())
	Log  *slog.Logger
	// Runtime runs the container.
	Runtime func() (oci.Runtime, error)
	// Init is its first process, false if there is none on record.
	Init func() (proc.ID, bool)
	// Signal asks it to end in the ordinary way.
	Signal func() syscall.Signal
	// Exited is closed when its end is recorded.
	Exited <-chan struct{}
}

// Waits says what a stop waits for.
func Waits(grace time.Duration) string {
	if grace <= 0 {
		return "its processes to end after SIGKILL"
	}
	return "its processes to end; SIGKILL comes at " + time.Now().Add(grace).Format("15:04:05")
}

// Ending joins the calls that want one subject to end. The zero value is ready.
type Ending struct {
	mu      sync.Mutex
	current *attempt
}

// attempt is a stop in progress. Later stops join it; one with a shorter grace period
// moves its deadline.
type attempt struct {
	flight.Deadline
	done chan struct{}
	err  error // valid after done: the process did not end
}

// Stop returns when the end is recorded. A grace period of zero is SIGKILL at once. A
// caller that goes away leaves the stop to go on.
func (e *Ending) Stop(ctx context.Context, s Subject, grace time.Duration) error {
	deadline := time.Now().Add(grace)
	e.mu.Lock()
	a := e.current
	if a == nil {
		a = &attempt{Deadline: flight.NewDeadline(deadline), done: make(chan struct{})}
		e.current = a
		s.Go(func() { e.run(a, s) })
	}
	e.mu.Unlock()
	a.Shorten(deadline)
	select {
	case <-s.Exited:
		return nil
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("container %s is still being stopped: %w", s.ID, ctx.Err())
	}
}

func (e *Ending) run(a *attempt, s Subject) {
	a.err = s.terminate(a)
	e.mu.Lock()
	e.current = nil
	e.mu.Unlock()
	close(a.done)
}

func (s Subject) terminate(a *attempt) error {
	r, err := s.Runtime()
	if err != nil {
		return err
	}
	if a.Left() > 0 {
		sig := s.Signal()
		if err := r.Kill(s.Life, s.ID, sig, false); err != nil {
			s.Log.Debug("cannot send the stop signal", "ctr", s.ID, "signal", sig, "err", err)
		}
	}
	if over, err := a.Wait(s.Life, s.Exited); err != nil || !over {
		return err
	}
	return s.killAll(r)
}

// killAll sends SIGKILL to everything in the container and waits for its end. A
// paused container is thawed, or the signal would wait with it.
func (s Subject) killAll(r oci.Runtime) error {
	var last error
	for try := range 2 {
		last = r.Kill(s.Life, s.ID, syscall.SIGKILL, true)
		if last != nil && try == 0 {
			last = errors.Join(last, r.Resume(s.Life, s.ID))
			last = errors.Join(last, r.Kill(s.Life, s.ID, syscall.SIGKILL, true))
		}
		s.killInit()
		select {
		case <-s.Exited:
			return nil
		case <-time.After(KillTime / 2):
		case <-s.Life.Done():
			return s.Life.Err()
		}
	}
	return errors.Join(fmt.Errorf("container %s does not end %s after SIGKILL%s", s.ID, KillTime, s.stuck()), last)
}

// killInit kills the first process without the runtime, whose state may be lost. The
// process is the recorded one: its start time is compared.
func (s Subject) killInit() {
	id, ok := s.Init()
	if !ok {
		return
	}
	if fd, err := proc.Open(id); err == nil {
		err = errors.Join(fd.Signal(unix.SIGKILL), fd.Close())
		s.Log.Debug("killed the first process", "ctr", s.ID, "err", err)
	}
}

// stuck says where the first process hangs in the kernel.
func (s Subject) stuck() string {
	id, ok := s.Init()
	switch {
	case !ok:
		return ""
	case !id.Alive():
		return "; its first process is gone, its monitor waits"
	}
	state, wchan := proc.Blocked(id.Pid)
	return fmt.Sprintf("; process %d is in state %s, waiting in %s", id.Pid, state, wchan)
}
