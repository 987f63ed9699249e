package hostlocal

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// store is a network's folder of leases: a file per address, named by it, with the
// owner's container id and interface on two lines (ended as upstream ends them);
// last_reserved_ip.N has the address that range set N gave last; lock is held while
// anybody looks or changes. It implements the allocator's backend.Store.
type store struct {
	dir  string
	lock *os.File
}

const lastPrefix = "last_reserved_ip."

// open makes the folder. The network's name was checked by the host of the plugin.
func open(dir, network string) (*store, error) {
	if network == "" || network != filepath.Base(network) {
		return nil, errs.Invalid("%q cannot be the name of a network", network)
	}
	s := &store{dir: folder(dir, network)}
	err := os.MkdirAll(s.dir, 0o755)
	if err == nil {
		s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDONLY|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the leases of network %s: %w", network, err)
	}
	return s, nil
}

// Close releases the lock, too.
func (s *store) Close() error { return s.lock.Close() }

// Lock waits for the folder; other processes use the same lock (flock(2)).
func (s *store) Lock() error { return s.flock(unix.LOCK_EX) }

// Unlock is the reverse of Lock.
func (s *store) Unlock() error { return s.flock(unix.LOCK_UN) }

func (s *store) flock(how int) error {
	for {
		if err := unix.Flock(int(s.lock.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// Reserve writes a lease; false if somebody has the address.
func (s *store) Reserve(id, ifName string, ip net.IP, rangeID string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, ip.String()), os.O_RDWR|os.O_EXCL|os.O_CREATE, 0o600)
	if os.IsExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(strings.TrimSpace(id) + "\r\n" + ifName)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, lastPrefix+rangeID), []byte(ip.String()), 0o600)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err == nil, err
}

// LastReservedIP is where the allocator goes on.
func (s *store) LastReservedIP(rangeID string) (net.IP, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, lastPrefix+rangeID))
	if err != nil {
		return nil, err
	}
	return net.ParseIP(string(data)), nil
}

// ReleaseByID releases what a pod has. The allocator calls it with the lock held,
// the plugin without.
func (s *store) ReleaseByID(id, ifName string) error {
	return s.each(func(ip net.IP, o owner) error {
		if !o.is(id, ifName) {
			return nil
		}
		return s.remove(ip)
	})
}

func (s *store) remove(ip net.IP) error {
	if err := os.Remove(filepath.Join(s.dir, ip.String())); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// release releases every lease whose owner is gone, under the lock.
func (s *store) release(gone func(owner) bool) error {
	if err := s.Lock(); err != nil {
		return err
	}
	defer func() { _ = s.Unlock() }()
	return s.each(func(ip net.IP, o owner) error {
		if !gone(o) {
			return nil
		}
		return s.remove(ip)
	})
}

// GetByID returns the addresses that a pod has.
func (s *store) GetByID(id, ifName string) (ips []net.IP) {
	_ = s.each(func(ip net.IP, o owner) error {
		if o.is(id, ifName) {
			ips = append(ips, ip)
		}
		return nil
	})
	return ips
}

// owner is whose a lease is. Old releases of the plugin wrote no interface.
type owner struct{ id, ifName string }

func (o owner) is(id, ifName string) bool {
	return o.id == id && (o.ifName == ifName || o.ifName == "")
}

// each calls f for every lease. A file that goes meanwhile is no lease.
func (s *store) each(f func(net.IP, owner) error) error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		ip := net.ParseIP(name)
		if ip == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			continue
		}
		id, ifName, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
		if err := f(ip, owner{strings.TrimSpace(id), strings.TrimSpace(ifName)}); err != nil {
			return err
		}
	}
	return nil
}
