// Package link makes and configures network interfaces for the plugins: the node's
// side by a netlink socket of this thread, the pod's side by one that was opened
// inside the pod's namespace.
//
// A thread enters a pod's namespace only for what sockets cannot do (sysctl) and
// comes back before Enter returns; callers run on a thread that they have locked.
// The package speaks netlink through vishvananda/netlink and knows no plugin and
// no container.
package link

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Host opens a netlink socket in the thread's namespace. Close it.
func Host() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot open netlink: %w", err)
	}
	return h, nil
}

// NetNS is a pod's network namespace with a netlink socket in it.
type NetNS struct {
	*netlink.Handle
	Path string
	f    *os.File
}

// Open opens a namespace by path.
func Open(path string) (*NetNS, error) {
	f, err := os.Open(path)
	if err != nil {
		if os.IsNotExist(err) {
			err = errs.With(errs.KindNotFound, err)
		}
		return nil, fmt.Errorf("cannot open network namespace: %w", err)
	}
	n := &NetNS{Path: path, f: f}
	err = n.Enter(func() (err error) {
		n.Handle, err = Host()
		return err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return n, nil
}

// Fd is the namespace's descriptor, for links that are made or moved there.
func (n *NetNS) Fd() int { return int(n.f.Fd()) }

// Close closes the socket and the descriptor.
func (n *NetNS) Close() {
	n.Handle.Close()
	n.f.Close()
}

// Enter runs f in the namespace, on the calling goroutine. If the thread cannot
// come back it stays locked to the goroutine, whose end then ends the thread.
func (n *NetNS) Enter(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot remember the network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("cannot enter network namespace %s: %w", n.Path, err)
	}
	back := false
	defer func() {
		if back {
			runtime.UnlockOSThread()
		}
	}()
	err = f()
	if e := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); e != nil {
		return errors.Join(err, fmt.Errorf("cannot leave network namespace %s: %w", n.Path, e))
	}
	back = true
	return err
}

// Sysctl writes a value below /proc/sys/net of the thread's namespace, for example
// Sysctl("1", "ipv4", "ip_forward"). A value that is there already is not written,
// so that a read-only /proc/sys with the right values does.
func Sysctl(value string, path ...string) error {
	file := "/proc/sys/net/" + strings.Join(path, "/")
	old, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("cannot set sysctl %s to %s: %w", file, value, err)
	}
	return nil
}

// TrySysctl is Sysctl for what is welcome but not needed, or for a protocol that
// the kernel may lack.
func TrySysctl(value string, path ...string) { _ = Sysctl(value, path...) }

// Missing tells whether an error of netlink says that there is no such link.
func Missing(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV)
}

// ByName finds a link; errs.KindNotFound if there is none.
func ByName(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if Missing(err) {
		return nil, errs.NotFound("network interface", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look up network interface %s: %w", name, err)
	}
	return l, nil
}

// Delete deletes a link of the thread's namespace by name; one that is not there is
// deleted. h is a socket there.
func Delete(h *netlink.Handle, name string) error {
	return remove(h, name, func() (*netlink.Handle, func(), error) {
		w, err := Host()
		if err != nil {
			return nil, nil, err
		}
		return w, w.Close, nil
	})
}

// Delete deletes a link of the pod by name; one that is not there is deleted.
func (n *NetNS) Delete(name string) error {
	return remove(n.Handle, name, func() (*netlink.Handle, func(), error) {
		w, err := Open(n.Path)
		if err != nil {
			return nil, nil, err
		}
		return w.Handle, w.Close, nil
	})
}

// DeletePod deletes a link in a pod's namespace; both may be gone.
func DeletePod(path, name string) error {
	n, err := Open(path)
	if err != nil {
		if errs.Is(err, errs.KindNotFound) {
			return nil
		}
		return err
	}
	defer n.Close()
	return n.Delete(name)
}

// remove deletes a link and returns when nobody can find it any more. The kernel
// takes a link away in about a millisecond and then, inside the same call, waits
// ten or twenty more until all processors have forgotten it; that wait is left to
// a goroutine with a socket of its own.
func remove(h *netlink.Handle, name string, open func() (*netlink.Handle, func(), error)) error {
	fail := func(err error) error {
		if err == nil || Missing(err) {
			return nil
		}
		return fmt.Errorf("cannot delete network interface %s: %w", name, err)
	}
	l, err := h.LinkByName(name)
	if err != nil {
		return fail(err)
	}
	w, closer, err := open()
	if err != nil {
		return fail(err)
	}
	done := make(chan error, 1)
	go func() {
		defer closer()
		done <- w.LinkDel(l)
	}()
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		select {
		case err := <-done:
			return fail(err)
		case <-time.After(pause):
		}
		if now, err := h.LinkByName(name); Missing(err) || err == nil && now.Attrs().Index != l.Attrs().Index {
			return nil
		}
	}
}

// RandomName returns an interface name that nobody has yet.
func RandomName(prefix string) string { return prefix + strings.ToLower(rand.Text()[:8]) }

// ParseMAC reads a hardware address of an Ethernet interface; "" is nil.
func ParseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return nil, errs.Invalid("%q is no hardware address (want six bytes like 02:00:00:00:00:01)", s)
	}
	return m, nil
}

// Veth describes a pair of interfaces: one on the node, its peer in a pod.
type Veth struct {
	Peer    string           // name in the pod
	PeerMAC net.HardwareAddr // nil: the kernel chooses
	MTU     int              // 0: the kernel's 1500
	Master  int              // index of the bridge that the node's end joins; 0 for none
}

// Add makes the pair, with its peer in the pod from the beginning, and returns the
// node's end.
func (v Veth) Add(h *netlink.Handle, pod *NetNS) (*netlink.Veth, error) {
	for try := 0; ; try++ {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = RandomName("veth"), v.MTU
		l := &netlink.Veth{LinkAttrs: attrs, PeerName: v.Peer, PeerHardwareAddr: v.PeerMAC,
			PeerNamespace: netlink.NsFd(pod.Fd()), PeerTxQLen: -1, PeerMTU: uint32(v.MTU)}
		err := h.LinkAdd(l)
		if errors.Is(err, unix.EEXIST) {
			if _, there := pod.LinkByName(v.Peer); there == nil {
				return nil, errs.Errorf(errs.KindAlreadyExists, "cannot make interface %s: the pod has one of that name already", v.Peer)
			}
			if try < 3 {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("cannot make interface %s in the pod: %w", v.Peer, err)
		}
		if v.Master != 0 {
			if err := h.LinkSetMasterByIndex(l, v.Master); err != nil {
				return nil, errors.Join(fmt.Errorf("cannot add %s to its bridge: %w", attrs.Name, err), h.LinkDel(l))
			}
		}
		return l, nil
	}
}

// WaitUp waits until a link carries traffic.
func WaitUp(h *netlink.Handle, name string) (netlink.Link, error) {
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		l, err := ByName(h, name)
		if err != nil {
			return nil, err
		}
		if s := l.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return l, nil
		} else if time.Now().After(end) {
			return nil, fmt.Errorf("network interface %s does not come up: its state is %s", name, s)
		}
	}
}
