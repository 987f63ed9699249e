package oci

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTerminal makes a pair of a new pseudoterminal (pts(4)), raw: the terminal of the
// process is another one behind it, and the runtime makes ours raw only when it is
// ready, too late for what is typed first.
func OpenTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		err = fmt.Errorf("cannot unlock a terminal: %w", err)
		return nil, nil, err
	}
	if err = makeRaw(fd); err != nil {
		return nil, nil, err
	}
	// By descriptor, not by name: our /dev/pts need not be the master's.
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		err = fmt.Errorf("cannot open a terminal's other end: %w", errno)
		return nil, nil, err
	}
	return master, os.NewFile(peer, "pts"), nil
}

// makeRaw is cfmakeraw of termios(3).
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("cannot read the modes of a terminal: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("cannot make a terminal raw: %w", err)
	}
	return nil
}

// SendConsole hands a terminal's master to the other end of a console socket, as
// ReceiveConsole takes it.
func SendConsole(path string, master *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("cannot reach console socket %s: %w", path, err)
	}
	defer conn.Close()
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = conn.WriteMsgUnix([]byte(master.Name()), unix.UnixRights(int(fd)), nil)
	})
	if err == nil {
		err = sent
	}
	if err != nil {
		return fmt.Errorf("cannot send the terminal to console socket %s: %w", path, err)
	}
	return nil
}
