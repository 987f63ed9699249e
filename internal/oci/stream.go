package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Streams are the pipes, or the terminal, between an exec'd process and whoever
// asked for it: the part of Exec that all runtimes share.
type Streams struct {
	// Child has the process's ends of the standard streams; nil: /dev/null. All
	// are nil with a terminal.
	Child [3]*os.File
	// Resized is told of each new size after the terminal got it; may be nil. Set
	// it before Begin.
	Resized func(Size)
	// InputEnded is told when the input, without a terminal, has ended and our end of it
	// is closed; may be nil. Set it before Begin.
	InputEnded func()

	stdin   *os.File // our end
	outputs []*output
	master  *os.File
	done    chan struct{} // closed with the streams: ends the resizer
	once    sync.Once
}

// output carries one stream from the process to its reader. One goroutine runs
// carry; the fields under the lock are how others tell it to come to an end.
type output struct {
	from     *os.File
	to       io.Writer
	finished chan struct{}

	carried atomic.Int64 // bytes
	waiting atomic.Bool  // for the process, not for the reader

	mu        sync.Mutex
	ended     bool      // the process is gone
	limit     time.Time // when the wait for more is over
	abandoned bool      // nobody waits for output any more
}

// OpenStreams makes the pipes that a request needs.
func OpenStreams(req *ExecRequest) (_ *Streams, err error) {
	s := &Streams{done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.CloseChild()
			s.Close()
		}
	}()
	if req.Process.Terminal {
		return s, nil
	}
	if req.Stdin != nil {
		if s.Child[0], s.stdin, err = os.Pipe(); err != nil {
			return nil, err
		}
	}
	for i, to := range []io.Writer{req.Stdout, req.Stderr} {
		if to == nil {
			continue
		}
		from, child, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		s.Child[i+1] = child
		s.outputs = append(s.outputs, &output{from: from, to: to, finished: make(chan struct{})})
	}
	return s, nil
}

// CloseChild closes our copies of the ends that the process has by now.
func (s *Streams) CloseChild() {
	for _, f := range s.Child {
		if f != nil {
			f.Close()
		}
	}
	s.Child = [3]*os.File{}
}

// Begin starts the copying. master is the terminal, nil without one; the streams
// own it from here.
func (s *Streams) Begin(req *ExecRequest, master *os.File) {
	if master != nil {
		s.master = master
		to := req.Stdout
		if to == nil {
			to = io.Discard
		}
		s.outputs = append(s.outputs, &output{from: master, to: to, finished: make(chan struct{})})
		if req.Stdin != nil {
			go func() {
				_, _ = io.Copy(master, req.Stdin)
				s.discard(req.Stdin)
			}()
		}
	} else if s.stdin != nil {
		go func() {
			_, _ = io.Copy(s.stdin, req.Stdin)
			s.stdin.Close()
			if s.InputEnded != nil {
				s.InputEnded()
			}
			s.discard(req.Stdin)
		}()
	}
	if req.Process.Terminal && req.Resize != nil {
		go s.resize(req.Resize)
	}
	for _, o := range s.outputs {
		go o.carry()
	}
	if req.Hangup != nil {
		go s.hangUp(req.Hangup)
	}
}

// discard goes on reading what the process does not want, so that it does not stand
// in the way of what else comes from there.
func (s *Streams) discard(from io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		select {
		case <-s.done:
			return
		default:
		}
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

// hangUp closes our ends of the outputs when nobody sees them any more.
func (s *Streams) hangUp(gone <-chan struct{}) {
	select {
	case <-gone:
		for _, o := range s.outputs {
			o.from.Close()
		}
	case <-s.done:
	}
}

// resize follows the caller's terminal until the process ends.
func (s *Streams) resize(sizes <-chan Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if s.master != nil {
				_ = SetSize(s.master, size)
			}
			if s.Resized != nil {
				s.Resized(size)
			}
		case <-s.done:
			return
		}
	}
}

// SetSize sets the size of a terminal.
func SetSize(tty *os.File, size Size) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
	return errors.Join(cerr, err)
}

// carry copies until the stream ends. Once the process ended, what the pipe holds
// at that moment is still carried in full, what comes later until the limit.
func (o *output) carry() {
	defer close(o.finished)
	buf := make([]byte, 32<<10)
	rest, counted := 0, false
	for {
		ended, limit := o.atEnd()
		if ended && !counted {
			rest, counted = o.pending(), true
		}
		switch {
		case counted && rest > 0:
			_ = o.from.SetReadDeadline(time.Time{})
		case counted && time.Now().After(limit):
			return
		case counted:
			_ = o.from.SetReadDeadline(limit)
		}
		o.waiting.Store(true)
		n, err := o.from.Read(buf)
		o.waiting.Store(false)
		o.carried.Add(int64(n))
		rest -= n
		if n > 0 && !o.deliver(buf[:n]) {
			o.from.Close() // or the process would wait for a reader
			return
		}
		// A deadline interrupts so that the loop looks again; anything else is the
		// end: io.EOF of a pipe, EIO of a terminal.
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
	}
}

func (o *output) atEnd() (bool, time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended, o.limit
}

// pending counts the bytes that can be read now.
func (o *output) pending() (n int) {
	if raw, err := o.from.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return n
}

// deliver writes to the caller, unless it does not wait any more. False: it takes
// no more.
func (o *output) deliver(b []byte) bool {
	o.mu.Lock()
	gone := o.abandoned
	o.mu.Unlock()
	if gone {
		return false
	}
	_, err := o.to.Write(b)
	return err == nil
}

// end tells that the process is gone and wakes a read that waits.
func (o *output) end(window time.Duration) {
	o.mu.Lock()
	o.ended, o.limit = true, time.Now().Add(window)
	o.mu.Unlock()
	_ = o.from.SetReadDeadline(time.Now())
}

// Drain waits for the outputs after the process's end, then lets go of them. A
// reader that does not take its output is waited for until the context ends.
func (s *Streams) Drain(ctx context.Context, window time.Duration) {
	for _, o := range s.outputs {
		o.end(window)
	}
	for _, o := range s.outputs {
		select {
		case <-o.finished:
		case <-ctx.Done():
			select {
			case <-o.finished:
			case <-time.After(Drain):
			}
		}
		o.mu.Lock()
		o.abandoned = true
		o.mu.Unlock()
	}
}

// Settle waits until no stream has brought anything for as long as Drain, or has
// brought more than limit: the process is gone, but what it wrote is on its way
// through a third party.
func (s *Streams) Settle(ctx context.Context, limit int64) {
	for _, o := range s.outputs {
		o.settle(ctx, limit)
	}
}

func (o *output) settle(ctx context.Context, limit int64) {
	first := o.carried.Load()
	last, since := first, time.Now()
	tick := time.NewTicker(Drain / 20)
	defer tick.Stop()
	for {
		select {
		case <-o.finished:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := o.carried.Load()
		if now != last || !o.waiting.Load() {
			last, since = now, time.Now()
		}
		if now-first > limit || time.Since(since) > Drain {
			return
		}
	}
}

// Close lets go of everything.
func (s *Streams) Close() {
	s.once.Do(func() {
		close(s.done)
		for _, f := range []*os.File{s.stdin, s.master} {
			if f != nil {
				f.Close()
			}
		}
		for _, o := range s.outputs {
			o.from.Close()
		}
	})
}

// ReceiveConsole takes a terminal's master from the other end of a console
// socket, on which a runtime sends it as SCM_RIGHTS (unix(7)) with its name as
// payload.
func ReceiveConsole(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages came instead of one", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	for _, extra := range fds[min(1, len(fds)):] {
		unix.Close(extra)
	}
	if len(fds) == 0 {
		return nil, errors.New("no descriptor came")
	}
	// Non-blocking, so that reads know deadlines.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), string(name[:n])), nil
}
