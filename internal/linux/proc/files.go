package proc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Files counts the open files of a process and the sockets among them. If the
// process is gone the kind is NotFound. A process with many files takes long: each is
// a system call.
func Files(pid int) (files, sockets int, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/fd"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, noProcess(pid, err)
	}
	defer unix.Close(fd)
	var buf [4096]byte
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf[:])
		if err != nil {
			return 0, 0, noProcess(pid, err)
		}
		if n == 0 {
			return files, sockets, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		files += len(names)
		for _, name := range names {
			var link [8]byte // the rest is of no interest
			if m, err := unix.Readlinkat(fd, name, link[:]); err == nil && strings.HasPrefix(string(link[:m]), "socket:") {
				sockets++
			}
		}
		if n < len(buf)/2 { // there was room for more: that was all
			return files, sockets, nil
		}
	}
}

// MaxFiles is how many files a process may have open, its soft limit. If the process
// is gone the kind is NotFound.
func MaxFiles(pid int) (uint64, error) {
	var lim unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &lim); err != nil {
		return 0, noProcess(pid, err)
	}
	return lim.Cur, nil
}

func noProcess(pid int, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return errs.NotFound("process", strconv.Itoa(pid))
	}
	return fmt.Errorf("cannot look at process %d: %w", pid, err)
}
