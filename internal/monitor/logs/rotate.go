package logs

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// backup moves the file to PATH.1, that one to PATH.2 and so on; the oldest goes.
// Whoever follows the file by its name never misses it for long, and by its
// descriptor reads on to its end.
func (l *file) backup() error {
	if l.backups <= 0 {
		return nil
	}
	name := func(n int) string {
		if n == 0 {
			return l.path
		}
		return l.path + "." + bare.Itoa(int64(n))
	}
	for n := l.backups; n > 0; n-- {
		if err := syscall.Rename(name(n-1), name(n)); err != nil && err != syscall.ENOENT {
			return bare.Cannot("keep log file "+name(n-1)+" as "+name(n), err)
		}
	}
	return nil
}

// allow checks that the file lies in one of the folders, links resolved, and makes
// its path one that no link can lead astray.
func (l *file) allow(folders []string) error {
	if len(folders) == 0 {
		return nil
	}
	cut := bare.LastIndexByte(l.path, '/')
	parent, base := ".", l.path
	if cut >= 0 {
		parent, base = l.path[:cut+1], l.path[cut+1:]
	}
	real, err := resolve(parent)
	if err != nil {
		return bare.Cannot("find the folder of log file "+l.path, err)
	}
	for _, f := range folders {
		root, err := resolve(f)
		if err == nil && below(real, root) {
			l.path, l.flags = real+"/"+base, syscall.O_NOFOLLOW
			return nil
		}
	}
	return bare.Fault("cannot log to " + l.path + ": it lies in none of the folders that --log-allowlist-dir names")
}

func below(path, root string) bool {
	return root == "/" || path == root || len(path) > len(root) && path[:len(root)+1] == root+"/"
}

// resolve returns the real path of a folder.
func resolve(folder string) (string, error) {
	const oPath = 0x200000
	fd, err := syscall.Open(folder, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer syscall.Close(fd)
	buf := make([]byte, 4096)
	n, err := syscall.Readlink("/proc/self/fd/"+bare.Itoa(int64(fd)), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
