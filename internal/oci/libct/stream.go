package libct

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/oci"
)

// streams are the pipes, or the terminal, between an exec'd process and whoever
// asked for it.
type streams struct {
	child   [3]*os.File // the process's ends; nil: /dev/null
	console *os.File    // the process's end of the socket for the terminal
	socket  *os.File    // ours
	stdin   *os.File    // our ends
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

	mu        sync.Mutex
	ended     bool      // the process is gone
	limit     time.Time // when the wait for more is over
	abandoned bool      // nobody waits for output any more
}

func openStreams(req *oci.ExecRequest) (_ *streams, err error) {
	s := &streams{done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.closeChild()
			s.close()
		}
	}()
	if req.Process.Terminal {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot make a socket pair: %w", err)
		}
		s.socket, s.console = os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-init")
		return s, nil
	}
	if req.Stdin != nil {
		if s.child[0], s.stdin, err = os.Pipe(); err != nil {
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
		s.child[i+1] = child
		s.outputs = append(s.outputs, &output{from: from, to: to, finished: make(chan struct{})})
	}
	return s, nil
}

// closeChild closes the ends that the process has by now.
func (s *streams) closeChild() {
	for _, f := range append(s.child[:], s.console) {
		if f != nil {
			f.Close()
		}
	}
	s.child, s.console = [3]*os.File{}, nil
}

// begin receives the terminal, if there is one, and starts the copying.
func (s *streams) begin(req *oci.ExecRequest) error {
	if s.socket != nil {
		master, err := receiveFile(s.socket)
		if err != nil {
			return fmt.Errorf("cannot receive the terminal: %w", err)
		}
		s.master = master
		to := req.Stdout
		if to == nil {
			to = io.Discard
		}
		s.outputs = append(s.outputs, &output{from: master, to: to, finished: make(chan struct{})})
		if req.Resize != nil {
			go s.resize(req.Resize)
		}
		if req.Stdin != nil {
			go func() { _, _ = io.Copy(master, req.Stdin) }()
		}
	} else if s.stdin != nil {
		go func() {
			_, _ = io.Copy(s.stdin, req.Stdin)
			s.stdin.Close()
		}()
	}
	for _, o := range s.outputs {
		go o.carry()
	}
	return nil
}

// resize follows the caller's terminal until the process ends.
func (s *streams) resize(sizes <-chan oci.Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = SetSize(s.master, size)
		case <-s.done:
			return
		}
	}
}

// SetSize sets the size of a terminal.
func SetSize(tty *os.File, size oci.Size) error {
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
		n, err := o.from.Read(buf)
		rest -= n
		if n > 0 && !o.deliver(buf[:n]) {
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

// deliver writes to the caller, unless it does not wait any more.
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

// drain waits for the outputs after the process's end, then lets go of them. A
// reader that does not take its output is waited for until the context ends.
func (s *streams) drain(ctx context.Context, window time.Duration) {
	for _, o := range s.outputs {
		o.end(window)
	}
	for _, o := range s.outputs {
		select {
		case <-o.finished:
		case <-ctx.Done():
			select {
			case <-o.finished:
			case <-time.After(oci.Drain):
			}
		}
		o.mu.Lock()
		o.abandoned = true
		o.mu.Unlock()
	}
}

func (s *streams) close() {
	s.once.Do(func() {
		close(s.done)
		for _, f := range []*os.File{s.stdin, s.socket, s.master} {
			if f != nil {
				f.Close()
			}
		}
		for _, o := range s.outputs {
			o.from.Close()
		}
	})
}

// receiveFile takes the terminal's master, which the init sends as SCM_RIGHTS
// (unix(7)) with its name as payload.
func receiveFile(socket *os.File) (*os.File, error) {
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

// ReceiveConsole takes one terminal from a socket that Create or Spawn got the
// other end of.
func ReceiveConsole(socket *os.File) (*os.File, error) {
	master, err := receiveFile(socket)
	if err != nil {
		return nil, fmt.Errorf("cannot receive the terminal: %w", err)
	}
	return master, nil
}
