// Package netstat reads what network interfaces have carried, in any network
// namespace.
//
// The numbers come from /proc/thread-self/net/dev, opened by a thread that has entered
// the namespace. The open file stays bound to the namespace, so that the thread goes
// there once and every reading is one system call; whoever holds it must close it when
// the namespace is to end. A netlink dump of the links says the same, but it waits for
// the kernel's lock over all network configuration (rtnl_lock), which the setting up of
// a pod may hold for long, and takes several times as long.
//
// The process's first thread must not come here: it cannot end, so Go would park it in
// a namespace that it failed to leave.
package netstat

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Interface is what one network interface has carried since it was made.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Visitor is a thread that goes from one namespace to the next. It belongs to one
// goroutine, which must end soon after Leave.
type Visitor struct {
	home int // the namespace that the thread came from
	here bool
	away bool
}

// Open takes hold of the interfaces of the network namespace at a path. From the first
// call to Leave the goroutine is bound to its thread. The kind is NotFound if there is no
// namespace at the path.
func (v *Visitor) Open(path string) (*Namespace, error) {
	if err := v.start(); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, errs.NotFound("network namespace", path)
	} else if err != nil {
		return nil, fmt.Errorf("cannot open network namespace %s: %w", path, err)
	}
	v.away = true
	err = unix.Setns(fd, unix.CLONE_NEWNET)
	unix.Close(fd)
	if err == unix.EINVAL { // a plain file: the pin was taken away
		return nil, errs.NotFound("network namespace", path)
	} else if err != nil {
		return nil, fmt.Errorf("cannot enter network namespace %s: %w", path, err)
	}
	fd, err = unix.Open("/proc/thread-self/net/dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the interfaces of network namespace %s: %w", path, err)
	}
	return &Namespace{fd: fd, users: 1}, nil
}

func (v *Visitor) start() (err error) {
	if v.here {
		return nil
	}
	runtime.LockOSThread()
	if v.home, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot open the own network namespace: %w", err)
	}
	v.here = true
	return nil
}

// Namespace is a hold on a network namespace, which lives until Close. Its methods may be
// called from any goroutine; a reading that hangs keeps nobody.
type Namespace struct {
	mu    sync.Mutex
	fd    int
	users int // readings, and one until Close
}

// errClosed is the answer to a reading after Close.
var errClosed = errors.New("the network namespace was let go")

// Read lists the interfaces, loopback too, in the kernel's order.
func (n *Namespace) Read() ([]Interface, error) {
	n.mu.Lock()
	if n.users == 0 {
		n.mu.Unlock()
		return nil, errClosed
	}
	n.users++
	n.mu.Unlock()
	defer n.leave()
	data, err := n.text()
	if err != nil {
		return nil, fmt.Errorf("cannot read the interfaces of a network namespace: %w", err)
	}
	return parse(data)
}

// halfPage: the lines come in pieces of up to a page, each as full as its lines allow. A
// piece that is not half full is the last one.
const halfPage = 2048

// text reads to the end.
func (n *Namespace) text() ([]byte, error) {
	buf := make([]byte, halfPage)
	for size := 0; ; {
		m, err := unix.Pread(n.fd, buf[size:], int64(size))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		}
		if size += m; m < halfPage && size < len(buf) {
			return buf[:size], nil
		}
		if size == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// Close lets go of the namespace, at the latest when readings in progress have ended. It
// is to be called once.
func (n *Namespace) Close() { n.leave() }

func (n *Namespace) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.users--; n.users == 0 {
		unix.Close(n.fd)
	}
}

// Leave brings the thread home and gives it back. One that does not get home is
// kept, and ends with its goroutine.
func (v *Visitor) Leave() {
	if !v.here {
		return
	}
	home := true
	if v.away {
		home = unix.Setns(v.home, unix.CLONE_NEWNET) == nil
	}
	unix.Close(v.home)
	if home {
		runtime.UnlockOSThread()
	}
	*v = Visitor{}
}

// parse reads /proc/net/dev: two lines of headings, then "NAME: " and sixteen numbers
// (proc_pid_net(5)).
func parse(data []byte) (list []Interface, err error) {
	for line := range bytes.Lines(data) {
		colon := bytes.LastIndexByte(line, ':') // a name may hold one: an alias
		if colon < 0 {
			continue
		}
		f := bytes.Fields(line[colon+1:])
		if len(f) < 16 {
			return nil, errors.New("/proc/net/dev has an unknown form")
		}
		n := func(i int) uint64 {
			v, bad := strconv.ParseUint(string(f[i]), 10, 64)
			if bad != nil && err == nil {
				err = fmt.Errorf("/proc/net/dev has an unknown form: %w", bad)
			}
			return v
		}
		list = append(list, Interface{Name: string(bytes.TrimSpace(line[:colon])),
			RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11)})
	}
	return list, err
}
