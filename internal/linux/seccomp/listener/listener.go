// Package listener reads what a seccomp filter with SECCOMP_RET_USER_NOTIF tells its
// listener, and answers: seccomp_unotify(2). It knows no container.
package listener

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	seccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// Call is a call that waits for an answer. Its arguments are left out: what they point
// to may change while one looks at it.
type Call struct {
	id uint64
	// PID is the thread that calls, in our PID namespace; 0 if it is in none of ours.
	PID int
	// Name is that of the system call; "#NUMBER" if it has none that is known.
	Name string
}

// Listener is the file descriptor that the kernel gave to whoever loaded the filter.
type Listener struct{ f *os.File }

// Open takes over a descriptor. It fails if that is no listener's.
func Open(fd int) (*Listener, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	var id uint64 // of no call: a listener knows that, another file does not know the question
	if errno := control(fd, notifIDValid, unsafe.Pointer(&id)); errno != unix.ENOENT {
		return nil, errors.Join(fmt.Errorf("cannot use a descriptor as seccomp listener: %w", errno), unix.Close(fd))
	}
	return &Listener{os.NewFile(uintptr(fd), "seccomp listener")}, nil
}

// Close lets go: calls that wait, and all later ones, fail with ENOSYS.
func (l *Listener) Close() error { return l.f.Close() }

// Serve hands each call to f, one at a time, until no process has the filter any more
// or the listener is closed.
func (l *Listener) Serve(f func(Call)) error {
	conn, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		for {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			switch n, err := unix.Poll(p, 0); {
			case errors.Is(err, unix.EINTR):
			case err != nil:
				failed = err
				return true
			case n == 0:
				return false
			case p[0].Revents&unix.POLLIN != 0:
				c, err := receive(int(fd))
				if err == nil {
					f(c)
				} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINTR) { // its caller was killed meanwhile
					failed = err
					return true
				}
			default: // POLLHUP
				return true
			}
		}
	})
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return errors.Join(err, failed)
}

// Refuse answers a call with an error. A caller that is gone needs none.
func (l *Listener) Refuse(c Call, errno unix.Errno) error {
	return l.with(func(fd int) error {
		r := response{id: c.id, error: -int32(errno)}
		if e := control(fd, notifSend, unsafe.Pointer(&r)); e != 0 && e != unix.ENOENT {
			return fmt.Errorf("cannot answer %s of thread %d: %w", c.Name, c.PID, e)
		}
		return nil
	})
}

// Waits tells whether the caller still waits: then PID is its own, and not that of a
// later process.
func (l *Listener) Waits(c Call) (yes bool) {
	_ = l.with(func(fd int) error {
		yes = control(fd, notifIDValid, unsafe.Pointer(&c.id)) == 0
		return nil
	})
	return yes
}

func (l *Listener) with(f func(fd int) error) (err error) {
	conn, err := l.f.SyscallConn()
	if err != nil {
		return err
	}
	if e := conn.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// The kernel's structures, linux/seccomp.h.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		number     int32
		arch       uint32
		_          uint64 // instruction pointer
		_          [6]uint64
	}
	response struct {
		id    uint64
		_     int64
		error int32
		_     uint32
	}
)

// ioctl(2) numbers: type '!', with the structures' sizes.
const (
	notifRecv    = 3<<30 | 80<<16 | '!'<<8
	notifSend    = 3<<30 | 24<<16 | '!'<<8 | 1
	notifIDValid = 1<<30 | 8<<16 | '!'<<8 | 2
)

func receive(fd int) (Call, error) {
	var n notification // must be zero
	if e := control(fd, notifRecv, unsafe.Pointer(&n)); e != 0 {
		return Call{}, e
	}
	name := seccomp.NameOf(n.arch, uint32(n.number))
	if name == "" {
		name = fmt.Sprint("#", n.number)
	}
	return Call{id: n.id, PID: int(n.pid), Name: name}, nil
}

func control(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return e
}
