package loop

import (
	"syscall"
	"unsafe"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// console is the socket on which the runtime sends the container's terminal.
type console struct {
	fd   int // listening; -1: none, or the terminal has arrived
	path string
	dir  string // made for the socket; empty if it lies in the bundle
	// What was asked for last, height and width first.
	size  [4]uint16
	sized bool
}

// sunPath is the room for a path in a socket address, with its end.
const sunPath = 108

func (c *console) listen(m *monitor) error {
	c.path = m.o.Bundle + "/console." + bare.Itoa(int64(syscall.Getpid()))
	if m.o.Bundle == "" || len(c.path) >= sunPath {
		c.dir = "/tmp/conmon-term." + bare.Itoa(int64(syscall.Getpid()))
		sec, nsec := bare.Now()
		c.dir += "." + bare.Itoa(sec) + bare.Itoa(nsec)
		if err := syscall.Mkdir(c.dir, 0o700); err != nil {
			c.dir = ""
			return bare.Cannot("make a folder for the console socket", err)
		}
		c.path = c.dir + "/console"
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return bare.Cannot("make console socket", err)
	}
	c.fd = fd
	syscall.Unlink(c.path)
	old := syscall.Umask(0o077)
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: c.path})
	syscall.Umask(old)
	if err == nil {
		err = syscall.Listen(fd, 1)
	}
	if err != nil {
		return bare.Cannot("listen on console socket "+c.path, err)
	}
	m.watch(fd, syscall.EPOLLIN, evConsole)
	return nil
}

// takeConsole receives the terminal.
func (m *monitor) takeConsole() {
	if m.console.fd < 0 {
		return
	}
	conn, _, err := syscall.Accept4(m.console.fd, syscall.SOCK_CLOEXEC)
	if err == syscall.EAGAIN || err == syscall.EINTR {
		return
	}
	tty := -1
	if err == nil {
		tty, err = receiveFD(conn)
		syscall.Close(conn)
	}
	m.console.close(m)
	if err != nil {
		m.warn(bare.Cannot("receive the terminal", err).Error())
		return
	}
	syscall.SetNonblock(tty, true)
	setNewlines(tty)
	m.stdout.fd = tty
	m.ctl.read(m.control)
	m.setSize()
	m.watch(tty, ttyEvents, evStdout)
	// A second descriptor, so that output and input are watched apart.
	if fd, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(tty), syscall.F_DUPFD_CLOEXEC, 3); e == 0 {
		m.stdin.fd = int(fd)
	}
}

// ttyEvents is edge-triggered: a terminal that no process has open reports a
// hang-up for as long as that lasts.
const ttyEvents = syscall.EPOLLIN | 1<<31

func (c *console) close(m *monitor) {
	if c.fd < 0 {
		return
	}
	m.drop(c.fd)
	c.fd = -1
	syscall.Unlink(c.path)
	if c.dir != "" {
		syscall.Rmdir(c.dir)
	}
}

// receiveFD reads one message that carries a descriptor (unix(7), SCM_RIGHTS).
func receiveFD(conn int) (int, error) {
	// A runtime that connects and says nothing must not stop us.
	syscall.SetsockoptTimeval(conn, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 10})
	name, oob := make([]byte, 4096), make([]byte, 64)
	for {
		_, n, _, _, err := syscall.Recvmsg(conn, name, oob, syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return -1, err
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) == 0 {
			return -1, bare.Fault("the runtime sent no descriptor")
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			return -1, bare.Fault("the runtime did not send one descriptor")
		}
		return fds[0], nil
	}
}

// setNewlines makes the terminal end lines with CR LF, whatever the runtime left.
func setNewlines(tty int) {
	var t syscall.Termios
	if bare.Ioctl(tty, syscall.TCGETS, unsafe.Pointer(&t)) == nil {
		t.Oflag |= syscall.ONLCR
		_ = bare.Ioctl(tty, syscall.TCSETS, unsafe.Pointer(&t))
	}
}
