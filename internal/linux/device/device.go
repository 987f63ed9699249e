// Package device looks up device nodes of this machine. It knows no container.
package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"golang.org/x/sys/unix"
)

// Device is one device node.
type Device struct {
	Path         string
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// Find looks up a device, or all devices below a folder; symbolic links are
// followed. The kind of the error is Invalid: the path came from a request.
func Find(path string) ([]Device, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, errs.Invalid("cannot find device %s: %w", path, err)
	}
	d, ok, err := stat(real)
	if err != nil {
		return nil, errs.Invalid("cannot find device %s: %w", path, err)
	}
	if ok {
		d.Path = path
		return []Device{d}, nil
	}
	if fi, err := os.Stat(real); err != nil || !fi.IsDir() {
		return nil, errs.Invalid("%s is no device and no folder of devices", path)
	}
	list, err := walk(real)
	for i := range list {
		list[i].Path = filepath.Join(path, strings.TrimPrefix(list[i].Path, real))
	}
	return list, err
}

// Host lists all devices below /dev that a privileged container gets: those that
// belong to a mount of their own there (terminals, shared memory, queues) are left
// out, and so is the console.
func Host() ([]Device, error) { return walk("/dev") }

func walk(dir string) (list []Device, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list devices: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			switch path {
			case "/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev":
				continue
			}
			below, err := walk(path)
			if err != nil {
				return nil, err
			}
			list = append(list, below...)
		case path == "/dev/console":
		default:
			if d, ok, err := stat(path); err == nil && ok {
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// stat describes a node; false if it is no device.
func stat(path string) (d Device, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return d, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return d, false, nil
	}
	d.Path, d.Mode, d.UID, d.GID = path, st.Mode&0o7777, st.Uid, st.Gid
	d.Major, d.Minor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	return d, true, nil
}

// BlockName is the name of a block device in /dev, "sda"; empty if the kernel has no
// such device (sysfs(5)).
func BlockName(major, minor uint32) string {
	to, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(filepath.Base(to), "!", "/")
}
