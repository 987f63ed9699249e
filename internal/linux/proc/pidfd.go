package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// PidFD is a hold on one process that no reuse of its pid can redirect
// (pidfd_open(2)). Its methods may be called from any goroutine.
type PidFD struct {
	id ID
	f  *os.File
}

// Open takes hold of a process. If it is gone, or its pid belongs to another
// process now, the kind is NotFound.
func Open(id ID) (*PidFD, error) {
	fd, err := unix.PidfdOpen(id.Pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, errs.NotFound("process", id.String())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %s: %w", id, err)
	}
	// The descriptor is non-blocking, so the file joins the runtime's poller: no
	// thread is held while waiting.
	f := os.NewFile(uintptr(fd), "pidfd:"+id.String())
	if now, err := Find(id.Pid); err != nil || now != id {
		f.Close()
		return nil, errs.NotFound("process", id.String())
	}
	return &PidFD{id: id, f: f}, nil
}

// ID returns whom this is.
func (p *PidFD) ID() ID { return p.id }

// Wait returns nil when the process has ended, whoever its parent is; it reaps
// nothing. It returns the context's error when that ends first.
func (p *PidFD) Wait(ctx context.Context) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for process %s: %w", p.id, err)
	}
	stop := context.AfterFunc(ctx, func() { p.f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		var bad error
		err := conn.Read(func(fd uintptr) bool {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds, 0)
			if err != nil && !errors.Is(err, unix.EINTR) {
				bad = err
			}
			return n > 0 || bad != nil
		})
		switch {
		case err == nil && bad == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.f.SetReadDeadline(time.Time{}) // it was another waiter's
		default:
			return fmt.Errorf("cannot wait for process %s: %w", p.id, errors.Join(err, bad))
		}
	}
}

// Signal sends a signal. A process that has ended is no error.
func (p *PidFD) Signal(sig unix.Signal) error {
	conn, err := p.f.SyscallConn()
	if err == nil {
		var sent error
		err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
		if err == nil {
			err = sent
		}
	}
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("cannot send signal %s to process %s: %w", strconv.Itoa(int(sig)), p.id, err)
}

// Close gives up the hold; a running Wait returns an error.
func (p *PidFD) Close() error { return p.f.Close() }
