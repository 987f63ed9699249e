// Package split lets gRPC and HTTP/1 share one listener. A client of HTTP/2, which
// gRPC is, speaks first and begins with a fixed preface; whoever begins otherwise
// speaks HTTP/1. The first bytes are looked at and left where they are, so each
// server gets the connection as it came, and what follows costs nothing.
//
// A client that does not say what it is holds nobody up: each is looked at by a
// goroutine of its own, and given up after Patience.
package split

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// preface is how every client of HTTP/2 begins (RFC 9113, 3.4). Its first line is no
// request of HTTP/1.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Splitter hands the connections of one listener to two servers.
type Splitter struct {
	// Patience is how long a client may take to say what it is.
	Patience time.Duration
	Log      *slog.Logger

	l     net.Listener
	two   *half
	one   *half
	ended chan struct{}
	once  sync.Once

	mu      sync.Mutex
	looking map[net.Conn]bool // nil: closed
	wg      sync.WaitGroup
}

// New splits a listener of unix or TCP sockets.
func New(l net.Listener, patience time.Duration, log *slog.Logger) *Splitter {
	s := &Splitter{Patience: patience, Log: log, l: l, ended: make(chan struct{}), looking: map[net.Conn]bool{}}
	s.two, s.one = &half{s: s, conns: make(chan net.Conn), closed: make(chan struct{})}, &half{s: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	return s
}

// GRPC is the listener of those that speak HTTP/2. Closing it, or that of HTTP, ends
// nothing but itself.
func (s *Splitter) GRPC() net.Listener { return s.two }

// HTTP is the listener of all others.
func (s *Splitter) HTTP() net.Listener { return s.one }

// Serve accepts connections until Close.
func (s *Splitter) Serve() error {
	defer s.wg.Wait()
	defer s.Close()
	wait := time.Duration(0)
	for {
		c, err := s.l.Accept()
		if err == nil {
			wait = 0
			if s.add(c) {
				s.wg.Go(func() { s.look(c) })
			}
			continue
		}
		select {
		case <-s.ended:
			return nil
		default:
		}
		if !passes(err) {
			return err
		}
		wait = min(max(2*wait, 5*time.Millisecond), time.Second)
		s.Log.Warn("cannot accept a connection; it is tried again", "err", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-s.ended:
			return nil
		}
	}
}

// passes tells of an error of accept whether it is one of the moment.
func passes(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR, unix.EAGAIN, unix.EPROTO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close ends Serve and closes the connections of those that have not said what they
// are; handed out ones go on.
func (s *Splitter) Close() error {
	var err error
	s.once.Do(func() {
		close(s.ended)
		err = s.l.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.looking {
			c.Close()
		}
		s.looking = nil
	})
	return err
}

// add and remove keep account of who is being looked at.
func (s *Splitter) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looking == nil {
		c.Close()
		return false
	}
	s.looking[c] = true
	return true
}

func (s *Splitter) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.looking, c)
}

// look finds out what a client speaks and hands it over.
func (s *Splitter) look(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(s.Patience))
	http2, err := sniff(c)
	s.remove(c) // before it is handed over: Close does not close it any more
	if err != nil {
		s.Log.Debug("a client of the CRI socket went without a word", "err", err)
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	to := s.one
	if http2 {
		to = s.two
	}
	select {
	case to.conns <- c:
	case <-to.closed:
		c.Close()
	case <-s.ended:
		c.Close()
	}
}

// sniff tells whether a connection begins with the preface. It reads nothing away.
func sniff(c net.Conn) (http2 bool, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false, errors.New("it is no socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false, err
	}
	var failed error
	buf := make([]byte, len(preface))
	err = raw.Read(func(fd uintptr) (done bool) {
		n, _, e := unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(e, unix.EAGAIN), errors.Is(e, unix.EINTR):
			return false
		case e != nil:
			failed = e
			return true
		case n == 0:
			failed = errors.New("it was closed")
			return true
		}
		http2 = n == len(preface) && string(buf) == preface
		return http2 || !bytes.HasPrefix([]byte(preface), buf[:n]) // else more must come
	})
	return http2, errors.Join(err, failed)
}

// half is one of the two listeners.
type half struct {
	s      *Splitter
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (h *half) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
	case <-h.s.ended:
	}
	return nil, net.ErrClosed
}

// Addr implements net.Listener.
func (h *half) Addr() net.Addr { return h.s.l.Addr() }

// Close implements net.Listener.
func (h *half) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}
