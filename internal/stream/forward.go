package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/namespace"
)

// connectTime bounds connecting to a port of a pod: a packet filter may swallow it.
const connectTime = 30 * time.Second

// PortForward is what the library calls for a pair of a WebSocket's channels.
func (x *session) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	return x.carry(port, stream)
}

// carry carries one connection to a port of the pod's localhost, until both sides have
// ended it, or the client, the pod or the server is gone.
func (x *session) carry(port int32, stream io.ReadWriteCloser) error {
	ctx := x.conn.life
	path, stopped, err := x.s.o.Pods.NetNS(x.t.id)
	if err != nil {
		return err
	}
	to, err := connect(ctx, path, port)
	if err != nil {
		return x.outcome(x.forwardError(port, err))
	}
	defer to.Close()
	up, down := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(up)
		sendUp(to, stream)
	}()
	go func() {
		defer close(down)
		sendDown(stream, to)
	}()
	var look <-chan time.Time // a reset that looked like an end
	for up != nil || down != nil {
		select {
		case <-up:
			up = nil
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			look = tick.C
		case <-look:
			if finished(stream) {
				return nil
			}
		case <-down:
			if _, half := stream.(resetter); !half { // a WebSocket's channel
				return nil
			}
			down = nil
		case <-ctx.Done():
			return nil
		case <-stopped:
			return nil
		}
	}
	return nil
}

// resetter is a stream of SPDY: it can be closed one way, and reset.
type resetter interface {
	io.WriteCloser
	Reset() error
}

// finished tells whether the client has reset the stream; what is written to it then
// would be sent, and thrown away by the client.
func finished(stream any) bool {
	f, ok := stream.(interface{ IsFinished() bool })
	return ok && f.IsFinished()
}

// sendUp copies from the client, and its end as the end of the connection's input.
func sendUp(to *net.TCPConn, stream io.Reader) {
	if _, err := io.Copy(to, stream); err != nil || finished(stream) {
		to.Close()
		return
	}
	_ = to.CloseWrite()
}

// sendDown copies to the client, and the end if the stream can carry it.
func sendDown(stream io.Writer, from *net.TCPConn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !finished(stream) {
			_, werr := stream.Write(buf[:n])
			err = errors.Join(err, werr)
		}
		if err == nil && !finished(stream) {
			continue
		}
		if half, ok := stream.(resetter); ok {
			_ = half.Close()
		}
		if !errors.Is(err, io.EOF) {
			from.Close()
		}
		return
	}
}

// connect dials the port in a network namespace, "" for our own. localhost means IPv4
// first, then IPv6. The connection is made on a thread that is in the namespace; from
// then on it can be used anywhere.
func connect(ctx context.Context, path string, port int32) (to *net.TCPConn, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	dial := func() error {
		var d net.Dialer
		c4, err4 := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err4 == nil {
			to = c4.(*net.TCPConn)
			return nil
		}
		c6, err6 := d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port))))
		if err6 == nil {
			to = c6.(*net.TCPConn)
			return nil
		}
		return errors.Join(err4, err6)
	}
	if path == "" {
		return to, dial()
	}
	err = namespace.Do(path, namespace.Net, dial)
	return to, err
}

// forwardError names the pod and the port.
func (x *session) forwardError(port int32, err error) error {
	name := x.t.id
	if v, verr := x.s.o.Pods.Pod(x.t.id); verr == nil {
		md := v.Request.Config.GetMetadata()
		name = md.GetNamespace() + "/" + md.GetName() + " (" + x.t.id + ")"
	}
	if errors.Is(err, unix.ECONNREFUSED) {
		return errs.Unavailable("cannot connect to port %d of pod %s: nothing listens there on 127.0.0.1 or ::1: connection refused", port, name)
	}
	return errs.Unavailable("cannot connect to port %d of pod %s: %w", port, name, err)
}
