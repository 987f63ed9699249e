package loop

import (
	"syscall"
	"unsafe"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// Attached clients. A client costs a descriptor; what it has not read yet waits in
// the kernel, up to sendBuffer, and beyond that the client is dropped: no client
// ever holds the container.
const (
	maxClients = 128
	sendBuffer = 4 << 20
)

type client struct {
	fd      int
	ended   bool // it will send no more
	mute    bool // it never had anything to send, so its end is not that of the input
	deaf    bool // it is gone; what it had sent may still be there
	watched bool
}

type clients struct {
	listener int // -1: no attach socket
	all      []*client
	paused   bool // the container does not read its input
}

// listen makes the socket "attach" in the bundle. The bundle is reached through
// its descriptor, since the path may be longer than a socket's may be.
func (c *clients) listen(m *monitor, bundle string) error {
	dir, err := syscall.Open(bundle, sysOPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return bare.Cannot("open bundle "+bundle, err)
	}
	defer syscall.Close(dir)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return bare.Cannot("make attach socket", err)
	}
	path := "/proc/self/fd/" + bare.Itoa(int64(dir)) + "/" + contract.AttachFile
	syscall.Unlink(path)
	old := syscall.Umask(0o077) // mode 0700
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
	syscall.Umask(old)
	if err == nil {
		err = syscall.Listen(fd, 16)
	}
	if err != nil {
		syscall.Close(fd)
		return bare.Cannot("listen on "+bundle+"/"+contract.AttachFile, err)
	}
	c.listener = fd
	m.watch(fd, syscall.EPOLLIN, evListener)
	return nil
}

// acceptAll takes everybody who has connected.
func (c *clients) acceptAll(m *monitor) {
	for c.accept(m) {
	}
}

func (c *clients) accept(m *monitor) (more bool) {
	fd, from, err := syscall.Accept4(c.listener, syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC)
	if err != nil {
		return false
	}
	if len(c.all) >= maxClients {
		m.warn("a client is turned away: too many are attached")
		syscall.Close(fd)
		return true
	}
	if syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUFFORCE, sendBuffer) != nil {
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
	}
	cl := &client{fd: fd, mute: named(from)}
	c.all = append(c.all, cl)
	if !c.paused {
		cl.watch(m)
	}
	return true
}

// named tells whether a client's socket has a name, by which it says that it only
// listens (contract.AttachFile). Go reports one without a name as "@".
func named(from syscall.Sockaddr) bool {
	un, ok := from.(*syscall.SockaddrUnix)
	return ok && len(un.Name) > 1
}

// watch waits for input, or, once that has ended, for the client to go.
func (cl *client) watch(m *monitor) {
	events := uint32(syscall.EPOLLIN)
	if cl.ended {
		events = 0 // EPOLLHUP and EPOLLERR are always reported
	}
	if cl.watched {
		m.modify(cl.fd, events, evClient)
		return
	}
	cl.watched = true
	m.watch(cl.fd, events, evClient)
}

// pause stops reading from every client; resume goes on.
func (c *clients) pause(m *monitor) {
	c.paused = true
	for _, cl := range c.all {
		if cl.watched {
			m.unwatch(cl.fd)
			cl.watched = false
		}
	}
}

func (c *clients) resume(m *monitor) {
	c.paused = false
	for _, cl := range c.all {
		cl.watch(m)
	}
}

// event handles what epoll reports of a client.
func (c *clients) event(m *monitor, fd int, events uint32) {
	var cl *client
	for _, x := range c.all {
		if x.fd == fd {
			cl = x
		}
	}
	if cl == nil || c.paused {
		return
	}
	if cl.ended {
		if events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
			c.remove(m, cl)
		}
		return
	}
	n, err := bare.ReadNow(fd, m.in[:contract.MaxInput])
	if err == syscall.ECONNRESET {
		// It went without having read our output. The kernel says so once, and before it
		// hands out what had been sent.
		n, err = bare.ReadNow(fd, m.in[:contract.MaxInput])
	}
	switch {
	case err == syscall.EAGAIN:
	case n > 0:
		m.high = max(m.high, n)
		m.feed(m.in[:n])
	default:
		// An end of file, or a client that died: for the container it is the same.
		cl.end(m)
		if err != nil {
			c.remove(m, cl)
		} else {
			cl.watch(m)
		}
	}
}

// end is the end of what a client sends.
func (cl *client) end(m *monitor) {
	if !cl.ended && !cl.mute {
		m.endInput()
	}
	cl.ended = true
}

func (c *clients) remove(m *monitor, cl *client) {
	for i, x := range c.all {
		if x == cl {
			c.all = append(c.all[:i], c.all[i+1:]...)
			break
		}
	}
	if cl.watched {
		m.unwatch(cl.fd)
	}
	farewell(m, cl.fd)
}

// farewell closes a connection so that the client gets what has been sent: unread
// input would make the kernel report a reset instead.
func farewell(m *monitor, fd int) {
	syscall.Shutdown(fd, syscall.SHUT_RDWR)
	for {
		if n, err := bare.ReadNow(fd, m.in[:contract.MaxInput]); n <= 0 || err != nil {
			break
		}
	}
	syscall.Close(fd)
}

// send passes output to every client, in packets of one byte for the stream and at
// most contract.MaxOutput bytes.
func (c *clients) send(m *monitor, stream byte, data []byte) {
	if len(c.all) == 0 {
		return
	}
	m.packet[0] = stream
	for len(data) > 0 {
		part := data[:min(len(data), contract.MaxOutput)]
		data = data[len(part):]
		for i := len(c.all) - 1; i >= 0; i-- {
			cl := c.all[i]
			if cl.deaf {
				continue
			}
			switch m.sendPacket(cl.fd, part) {
			case nil:
			case syscall.EAGAIN:
				m.warn("an attached client is dropped: it does not read")
				c.drop(m, cl)
			default:
				cl.deaf = true // an event will tell, after its last input
			}
		}
	}
}

// drop removes a client in the middle of output, when m.in is in use.
func (c *clients) drop(m *monitor, cl *client) {
	for i, x := range c.all {
		if x == cl {
			c.all = append(c.all[:i], c.all[i+1:]...)
			break
		}
	}
	if cl.watched {
		m.unwatch(cl.fd)
	}
	syscall.Close(cl.fd)
	cl.end(m)
}

func (m *monitor) sendPacket(fd int, part []byte) error {
	m.iov[0].Base = &m.packet[0]
	m.iov[0].SetLen(1)
	m.iov[1].Base = &part[0]
	m.iov[1].SetLen(len(part))
	for {
		_, _, e := syscall.RawSyscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&m.iov)), 2)
		if e != syscall.EINTR {
			return bare.ErrnoOf(e)
		}
	}
}

// close ends all: the container is gone and its last output has been sent.
func (c *clients) close(m *monitor) {
	if c.listener < 0 {
		return
	}
	// Who connected in the last moment waits for an accept that will not come.
	syscall.Close(c.listener)
	c.listener = -1
	for _, cl := range c.all {
		farewell(m, cl.fd)
	}
	c.all = nil
}

const sysOPath = 0x200000 // O_PATH

// link makes SOCKETDIR/UUID a link to the bundle, so that the attach socket has a
// short path.
func link(socketDir, uuid, bundle string) error {
	if err := syscall.Mkdir(socketDir, 0o700); err != nil && err != syscall.EEXIST {
		return bare.Cannot("make folder "+socketDir, err)
	}
	path := socketDir + "/" + uuid
	syscall.Unlink(path)
	if err := syscall.Symlink(bundle, path); err != nil {
		return bare.Cannot("link "+path+" to the bundle", err)
	}
	return nil
}
