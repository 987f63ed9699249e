package stream

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// listener wraps each connection.
type listener struct {
	net.Listener
	s *Server
}

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, s: l.s}
	c.life, c.end = context.WithCancel(l.s.ctx)
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.conns[c] = struct{}{}
	return c, nil
}

// conn is a client's connection, below TLS. It does three things that the layers above
// leave out: it tells when the client is gone, also to a session that neither reads nor
// writes at that moment; it gives up writing to a client that has not taken anything for
// the idle timeout, which would hold the library's locks otherwise; and at its end it
// waits for the client to take the last words.
type conn struct {
	net.Conn
	s         *Server
	life      context.Context // ends when the client is gone, or with the server
	end       context.CancelFunc
	streaming atomic.Bool // a session has it
	closed    atomic.Bool
	renewed   atomic.Int64 // when the deadline of writes was set last, Unix nanoseconds
	once      sync.Once
}

// connKey finds the conn in a request's context.
type connKey struct{}

// inner is the conn below TLS.
func inner(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	ours, _ := c.(*conn)
	return ours
}

// Read notes the end of the client.
func (c *conn) Read(b []byte) (int, error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(b)
	if err != nil && !timedOut(err) {
		c.end()
	}
	return n, err
}

// maxWrite is how much the client must take within one idle timeout.
const maxWrite = 16 << 10

// Write gives the client the idle timeout to take each part.
func (c *conn) Write(b []byte) (done int, err error) {
	idle := c.s.o.IdleTimeout
	for len(b) > 0 && err == nil {
		// A deadline costs: it is renewed when an eighth of it has passed.
		if now := time.Now(); idle > 0 && now.UnixNano()-c.renewed.Load() > int64(idle/8) {
			c.renewed.Store(now.UnixNano())
			_ = c.Conn.SetWriteDeadline(now.Add(idle))
		}
		var n int
		n, err = c.Conn.Write(b[:min(len(b), maxWrite)])
		done, b = done+n, b[n:]
	}
	if err != nil {
		c.end()
	}
	return done, err
}

// SetDeadline and SetWriteDeadline come from above and must not outlast ours.
func (c *conn) SetDeadline(t time.Time) error {
	c.renewed.Store(0)
	return c.Conn.SetDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.renewed.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// lingerTime is how long a client may take to read what was written to it last.
const lingerTime = time.Second

// Close ends the connection. If input were still unread, the kernel would report a
// reset, and the client might lose what was sent: the exit code, usually. So a session's
// connection is closed for writing first and drained for a moment.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		c.closed.Store(true)
		c.end()
		if tcp, ok := c.Conn.(*net.TCPConn); ok && c.streaming.Load() && tcp.CloseWrite() == nil {
			_ = tcp.SetReadDeadline(time.Now().Add(lingerTime))
			go func() {
				_, _ = io.Copy(io.Discard, tcp)
				_ = c.drop()
			}()
			return
		}
		err = c.drop()
	})
	return err
}

func (c *conn) drop() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// lookTime is how often a connection is looked at that nobody may be reading from.
const lookTime = 2 * time.Second

// watch notices that the client is gone although its last input stands unread, because
// the process does not take it: the reader above is held up and does not see the end.
func (c *conn) watch() {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	tick := time.NewTicker(lookTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-c.life.Done():
			return
		}
		gone := false
		err := raw.Control(func(fd uintptr) {
			// No client closes one way only. (If even the kernel has no room for its last
			// input, the end is behind that; keep-alive probes find it minutes later.)
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			gone = err == nil && (info.State == unix.BPF_TCP_CLOSE_WAIT || info.State == unix.BPF_TCP_CLOSE)
		})
		if gone || err != nil {
			c.end()
			return
		}
	}
}

// closeWith closes the connection when a pod stops.
func (c *conn) closeWith(stopped <-chan struct{}) {
	select {
	case <-stopped:
		c.Close()
	case <-c.life.Done():
	}
}
