package stream

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod"
)

// session is one use of an address. It implements the library's interfaces Executor,
// Attacher and PortForwarder; what the library passes on of the request is in the ticket
// already. Streams that were not asked for are left out here, because over a WebSocket
// the library has streams for them nevertheless.
type session struct {
	s    *Server
	t    ticket
	conn *conn
}

// sizeTime is how long a command with a terminal waits for the terminal's size. A client
// sends it at once; without it a program would draw its first picture for no size.
const sizeTime = 100 * time.Millisecond

// ExecInContainer runs the command. A client that goes takes the streams with it, as a
// broken line does: the command gets the end of its input, SIGPIPE when it writes, SIGHUP
// on a terminal. It is killed when the server ends.
func (x *session) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	t := &x.t
	r := pod.ExecRequest{Command: t.command, Terminal: t.tty}
	r.Hangup = x.conn.life.Done()
	if t.stdin && in != nil {
		r.Stdin = in
	}
	if t.stdout && out != nil {
		r.Stdout = out
	}
	if t.stderr && errOut != nil {
		r.Stderr = errOut
	}
	if t.tty && resize != nil {
		ctx, cancel := context.WithCancel(x.conn.life)
		defer cancel()
		sizes := pass(ctx, resize, func(s remotecommand.TerminalSize) oci.Size { return oci.Size{Width: s.Width, Height: s.Height} })
		select {
		case r.Size = <-sizes:
		case <-time.After(sizeTime):
		}
		r.Resize = sizes
	}
	code, err := x.s.o.Pods.Exec(x.s.ctx, t.id, r)
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return x.outcome(err)
}

// AttachContainer connects the client to the container's own process, until the
// container's output ends or the client goes.
func (x *session) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	t := &x.t
	ctx, cancel := context.WithCancel(x.s.ctx)
	defer cancel()
	var r monitor.AttachStreams
	last := &lastInput{from: in, ended: make(chan struct{})}
	if t.stdin && in != nil {
		r.Stdin = last
	} else {
		close(last.ended)
	}
	defer context.AfterFunc(x.conn.life, func() {
		last.wait()
		cancel()
	})()
	if t.stdout && out != nil {
		r.Stdout = out
	}
	if t.stderr && errOut != nil {
		r.Stderr = errOut
	}
	if t.tty && resize != nil {
		r.Resize = pass(ctx, resize, func(s remotecommand.TerminalSize) monitor.Size { return monitor.Size{Width: s.Width, Height: s.Height} })
	}
	return x.outcome(x.s.o.Pods.Attach(ctx, t.id, r))
}

// lastInput is a client's input. What a client sends before it goes is passed on.
type lastInput struct {
	from  io.Reader
	once  sync.Once
	ended chan struct{}
}

func (l *lastInput) Read(b []byte) (int, error) {
	n, err := l.from.Read(b)
	if err != nil {
		l.once.Do(func() { close(l.ended) })
	}
	return n, err
}

// wait returns when the input has been read to its end, or a container that does not
// read it has had a moment for it.
func (l *lastInput) wait() {
	select {
	case <-l.ended:
	case <-time.After(lingerTime):
	}
}

// outcome says why a session ended that its client did not end.
func (x *session) outcome(err error) error {
	if err != nil && x.s.ctx.Err() != nil {
		return errs.Unavailable("the container runtime ends or restarts: try again")
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		x.s.o.Log.Info("a stream failed", "verb", x.t.verb, "id", x.t.id, "err", err)
	}
	return err
}

// pass hands sizes on in another type until ctx or the sizes end.
func pass[T any](ctx context.Context, from <-chan remotecommand.TerminalSize, as func(remotecommand.TerminalSize) T) <-chan T {
	to := make(chan T)
	go func() {
		defer close(to)
		for {
			select {
			case s, ok := <-from:
				if !ok {
					return
				}
				select {
				case to <- as(s):
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// exitCode is a command's end with a code other than 0, in the form in which the library
// looks for it (ExitError of k8s.io/utils/exec).
type exitCode int

func (c exitCode) Error() string   { return strconv.Itoa(int(c)) }
func (c exitCode) String() string  { return c.Error() }
func (c exitCode) Exited() bool    { return true }
func (c exitCode) ExitStatus() int { return int(c) }
