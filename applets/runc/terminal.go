package runc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/oci"
)

// terminal joins our own terminal to that of a container's process.
type terminal struct {
	path     string // the console socket of a container, until it was used
	listener *net.UnixListener
	ours     *os.File // or our end of a pair
	master   *os.File
	old      *unix.Termios // ours, before it was made raw
	finished chan struct{}
}

// pairedTerminal is for a process that gets its console socket as a descriptor. It
// has no name, so nothing stays behind when we are killed.
func pairedTerminal() (t *terminal, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a console socket: %w", err)
	}
	t = &terminal{ours: os.NewFile(uintptr(fds[0]), "console"), finished: make(chan struct{})}
	return t, os.NewFile(uintptr(fds[1]), "console"), nil
}

func newTerminal() (*terminal, error) {
	dir, err := os.MkdirTemp("", "runc-console-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a console socket: %w", err)
	}
	path := filepath.Join(dir, "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("cannot make a console socket: %w", err)
	}
	return &terminal{path: path, listener: l, finished: make(chan struct{})}, nil
}

// begin receives the master and starts copying; the process exists by now, so the
// master waits in the socket.
func (t *terminal) begin() error {
	if t.ours == nil {
		if err := t.accept(); err != nil {
			return fmt.Errorf("cannot receive the terminal: %w", err)
		}
	}
	var err error
	if t.master, err = oci.ReceiveConsole(t.ours); err != nil {
		return err
	}
	t.resize()
	t.raw()
	go func() { _, _ = io.Copy(t.master, os.Stdin) }()
	go func() {
		_, _ = io.Copy(os.Stdout, t.master)
		close(t.finished)
	}()
	return nil
}

// accept takes the one connection; the socket's name goes with it.
func (t *terminal) accept() error {
	if err := t.listener.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	conn, err := t.listener.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	t.unlink()
	t.ours, err = conn.File()
	return err
}

// raw hands every key to the container; without a terminal of our own there is
// nothing to do.
func (t *terminal) raw() {
	old, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return
	}
	t.old = old
	raw := *old
	// cfmakeraw of termios(3).
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	_ = unix.IoctlSetTermios(0, unix.TCSETS, &raw)
}

func (t *terminal) resize() {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err == nil && t.master != nil {
		_ = oci.SetSize(t.master, oci.Size{Width: ws.Col, Height: ws.Row})
	}
}

// drain waits for the last output after the process's end.
func (t *terminal) drain() {
	if t.master == nil {
		return
	}
	select {
	case <-t.finished:
	case <-time.After(oci.Drain):
	}
}

func (t *terminal) close() {
	if t.old != nil {
		_ = unix.IoctlSetTermios(0, unix.TCSETS, t.old)
	}
	if t.master != nil {
		t.master.Close()
	}
	if t.ours != nil {
		t.ours.Close()
	}
	t.unlink()
}

func (t *terminal) unlink() {
	if t.listener == nil {
		return
	}
	t.listener.Close()
	os.RemoveAll(filepath.Dir(t.path))
	t.listener = nil
}

// childOf reads si_pid, which the library's siginfo has no name for: the first
// word after the three of the header and, on 64 bits, its padding.
func childOf(info *unix.Siginfo) int {
	b := unsafe.Slice((*byte)(unsafe.Pointer(info)), unsafe.Sizeof(*info))
	return int(int32(binary.NativeEndian.Uint32(b[16:])))
}

// errNoTerminal is the answer to a detached process that wants a terminal.
var errNoTerminal = errors.New("a detached process with a terminal needs --console-socket")
