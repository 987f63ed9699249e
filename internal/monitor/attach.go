package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// Size is that of a terminal, in characters.
type Size struct{ Height, Width uint16 }

// AttachStreams are the caller's ends; any may be nil.
type AttachStreams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool // the container has a terminal: all output is Stdout
	Resize         <-chan Size
}

// Attach connects streams to a running container until its output ends, which is
// when the container ends, or until ctx does. The end of Stdin is passed on; what
// it means for the container was decided when the monitor was started. Without Stdin
// the call's end means nothing to the container's input.
//
// at is the bundle or the socket itself. A monitor that is gone is an error of kind
// NotFound. The goroutine that reads Stdin outlives the call until that read
// returns: the caller closes Stdin.
func Attach(ctx context.Context, at string, s AttachStreams) error {
	bundle := at
	if filepath.Base(at) == contract.AttachFile {
		bundle = filepath.Dir(at)
	}
	conn, err := dial(bundle, s.Stdin == nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if s.Resize != nil {
		go passSizes(inner, bundle, s.Resize)
	}
	if s.Stdin != nil {
		go passInput(conn, s.Stdin)
	}
	err = passOutput(conn, s)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// dial connects to the attach socket of a bundle. The bundle is reached through a
// descriptor, because a socket's path may not be longer than 107 bytes. A client that
// only listens says so by a name, which the kernel chooses (unix(7), autobind).
func dial(bundle string, mute bool) (*os.File, error) {
	dir, err := unix.Open(bundle, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, errs.NotFound("bundle", bundle)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open bundle %s: %w", bundle, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	if mute {
		if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("cannot name a socket: %w", err)
		}
	}
	path := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + contract.AttachFile
	for { // blocking: a full queue of connections is waited for
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			return nil, errs.NotFound("monitor of bundle", bundle)
		}
		return nil, fmt.Errorf("cannot attach to bundle %s: %w", bundle, err)
	}
	return os.NewFile(uintptr(fd), "attach"), nil
}

// passSizes hands on the size of the terminal; when sizes come faster than they
// can be set, some are set twice and the last one wins.
func passSizes(ctx context.Context, bundle string, sizes <-chan Size) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			// A size that cannot be set is no reason to end the session.
			_ = Resize(ctx, bundle, size.Height, size.Width)
		}
	}
}

// passInput sends packets and, at the end, half-closes the connection.
func passInput(conn *os.File, stdin io.Reader) {
	buf := make([]byte, contract.MaxInput)
	for {
		n, err := stdin.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// passOutput receives packets until the monitor closes the connection.
func passOutput(conn *os.File, s AttachStreams) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot use attach socket: %w", err)
	}
	buf := make([]byte, contract.MaxOutput+1)
	for {
		var n int
		var got error
		err := raw.Read(func(fd uintptr) bool {
			for {
				n, got = unix.Read(int(fd), buf)
				if !errors.Is(got, unix.EINTR) {
					return !errors.Is(got, unix.EAGAIN)
				}
			}
		})
		if err == nil {
			err = got
		}
		if errors.Is(err, syscall.ECONNRESET) || err == nil && n <= 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read from attach socket: %w", err)
		}
		out := s.Stdout
		if buf[0] == contract.Stderr && !s.TTY {
			out = s.Stderr
		}
		if out == nil || n == 1 {
			continue
		}
		if _, err := out.Write(buf[1:n]); err != nil {
			return fmt.Errorf("cannot pass on output: %w", err)
		}
	}
}
