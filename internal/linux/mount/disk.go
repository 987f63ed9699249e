package mount

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is the file system that a path is on.
type Disk struct {
	// Source is what was mounted, "/dev/sda1"; for a file system without a device
	// the name that was given at the mount.
	Source                    string
	Bytes, Inodes, FreeInodes uint64 // the whole size, and how many files
}

// DiskAt looks at the file system of a path.
func DiskAt(path string) (Disk, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Disk{}, fmt.Errorf("cannot look at the file system of %s: %w", path, err)
	}
	if err := unix.Stat(path, &st); err != nil {
		return Disk{}, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	d := Disk{Bytes: fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, FreeInodes: fs.Ffree}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return d, err
	}
	defer f.Close()
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for s := bufio.NewScanner(f); s.Scan(); { // ID PARENT MAJOR:MINOR ... - TYPE SOURCE OPTIONS
		before, after, _ := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) > 2 && left[2] == device && len(right) > 1 {
			d.Source = right[1]
			return d, nil
		}
	}
	return d, nil
}
