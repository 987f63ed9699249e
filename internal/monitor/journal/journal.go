// Package journal writes messages to the system's journal by its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram for each, or, where it is too
// large for one, a sealed memory file.
package journal

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// Socket is where the journal listens.
const Socket = "/run/systemd/journal/socket"

// Options say what stands in every message.
type Options struct {
	Socket    string // empty: Socket
	ID        string // longer than shortID
	Name, Tag string // may be empty
	Labels    []string
	// NoPartial leaves out the field that tells that a message is not a whole line.
	NoPartial bool
}

// shortID is the length of an id as people are shown it.
const shortID = 12

// patience is how long, in seconds, the container may be held by a journal that does
// not read. After that messages are lost, without further waiting, until it reads.
const patience = 5

// Journal is a connection.
type Journal struct {
	fd        int
	to        syscall.SockaddrUnix
	buf       []byte
	fixed     int // bytes at the beginning of buf that every message has
	noPartial bool
	waits     bool // the last message was taken, so it makes sense to wait
	lost      bool // it is reported once
	warn      func(string)
}

// Check returns what is wrong with the options.
func (o *Options) Check() error {
	if len(o.ID) <= shortID {
		return bare.Fault("cannot log to the journal: the container's id " + o.ID + " must be longer than 12 characters")
	}
	for _, l := range o.Labels {
		eq := bare.IndexByte(l, '=')
		if eq <= 0 {
			return bare.Fault("cannot use log label " + l + ": it is not of the form NAME=VALUE")
		}
		if bare.IndexByte(l[:eq], '\n') >= 0 {
			return bare.Fault("cannot use log label " + l + ": its name has two lines")
		}
	}
	return nil
}

// Open makes the socket. A journal that is not there is no error, as it is none for
// systemd's own library: it may come.
func Open(o *Options, warn func(string)) (*Journal, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	j := &Journal{fd: -1, noPartial: o.NoPartial, waits: true, warn: warn, to: syscall.SockaddrUnix{Name: o.Socket}}
	if o.Socket == "" {
		j.to.Name = Socket
	}
	head := o.fields()
	var err error
	// The rest is MESSAGE and two short fields.
	if j.buf, err = bare.Anonymous(len(head) + contract.MaxOutput + 128); err != nil {
		return nil, bare.Cannot("get memory", err)
	}
	j.fixed = copy(j.buf, head)
	if j.fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0); err != nil {
		return nil, bare.Cannot("make a socket for the journal", err)
	}
	syscall.SetsockoptTimeval(j.fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &syscall.Timeval{Sec: patience})
	return j, nil
}

// fields encodes what is the same in every message.
func (o *Options) fields() []byte {
	short := o.ID[:shortID]
	b := field(nil, "CONTAINER_ID", short)
	b = field(b, "CONTAINER_ID_FULL", o.ID)
	name := short
	if o.Name != "" {
		name = o.Name
		b = field(b, "CONTAINER_NAME", name)
	}
	if o.Tag != "" {
		name = o.Tag
		b = field(b, "CONTAINER_TAG", name)
	}
	b = field(b, "SYSLOG_IDENTIFIER", name)
	for _, l := range o.Labels {
		eq := bare.IndexByte(l, '=')
		b = field(b, l[:eq], l[eq+1:])
	}
	return b
}

// field appends NAME=VALUE, or, if the value has several lines, the form with a
// length.
func field(b []byte, name, value string) []byte {
	b = append(b, name...)
	if bare.IndexByte(value, '\n') < 0 {
		return append(append(append(b, '='), value...), '\n')
	}
	b = append(b, '\n')
	for n, i := uint64(len(value)), 0; i < 8; i++ {
		b = append(b, byte(n>>(8*i)))
	}
	return append(append(b, value...), '\n')
}

// Priority takes the mark "<N>" off a line's beginning, by which a program says how
// grave the line is (sd-daemon(3)); without one it returns 0.
func Priority(line []byte) (n byte, rest []byte) {
	if len(line) >= 3 && line[0] == '<' && line[1] >= '0' && line[1] <= '7' && line[2] == '>' {
		return line[1], line[3:]
	}
	return 0, line
}

// Send sends one message without a newline in its text, which has at most
// contract.MaxOutput bytes.
func (j *Journal) Send(priority byte, partial bool, text []byte) {
	b := append(j.buf[:j.fixed], "PRIORITY="...)
	b = append(b, priority, '\n')
	if partial && !j.noPartial {
		b = append(b, "CONTAINER_PARTIAL_MESSAGE=true\n"...)
	}
	b = append(append(append(b, "MESSAGE="...), text...), '\n')
	err := j.send(b)
	if err == syscall.EMSGSIZE || err == syscall.ENOBUFS {
		err = j.sendFile(b)
	}
	j.waits = err == nil
	if err != nil && !j.lost {
		j.warn(bare.Cannot("write to the journal at "+j.to.Name+": output is lost", err).Error())
	}
	j.lost = err != nil
}

func (j *Journal) send(b []byte) error {
	flags := syscall.MSG_NOSIGNAL
	if !j.waits {
		flags |= syscall.MSG_DONTWAIT
	}
	for {
		if err := syscall.Sendto(j.fd, b, flags, &j.to); err != syscall.EINTR {
			return err
		}
	}
}

// sendFile hands a message over in a memory file that nobody can change any more.
func (j *Journal) sendFile(b []byte) error {
	const (
		cloexecAllowSealing = 3
		addSeals            = 1033   // F_ADD_SEALS
		allSeals            = 0b1111 // seal, shrink, grow, write
	)
	name := [...]byte{'j', 0}
	r, _, e := syscall.RawSyscall(sysMemfdCreate(), uintptr(unsafe.Pointer(&name)), cloexecAllowSealing, 0)
	if e != 0 {
		return e
	}
	fd := int(r)
	defer syscall.Close(fd)
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err != nil && err != syscall.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	if _, _, e := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), addSeals, allSeals); e != 0 {
		return e
	}
	for {
		if err := syscall.Sendmsg(j.fd, nil, syscall.UnixRights(fd), &j.to, syscall.MSG_NOSIGNAL); err != syscall.EINTR {
			return err
		}
	}
}

// sysMemfdCreate is a number that package syscall lacks.
func sysMemfdCreate() uintptr {
	switch runtime.GOARCH {
	case "amd64":
		return 319
	case "386":
		return 356
	case "arm":
		return 385
	case "ppc64le", "ppc64":
		return 360
	case "s390x":
		return 350
	}
	return 279 // arm64, riscv64, loong64
}

// Close ends the connection.
func (j *Journal) Close() {
	if j.fd >= 0 {
		syscall.Close(j.fd)
		j.fd = -1
	}
}
