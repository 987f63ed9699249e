package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files mounts a folder at dir, which must exist, in which there are the given files, by
// relative path, and nothing else. Nobody can write them, there or in the folder.
// Unmount(dir) undoes all of it.
func Files(dir string, files map[string]string) (err error) {
	if err := unix.Mount("files", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("cannot mount a tmpfs at %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Unmount(dir))
		}
	}()
	// What is bound here shall appear nowhere else.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for name, src := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL, 0o444)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount(src, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot bind %s: %w", src, err)
		}
		if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("cannot make %s read-only: %w", name, err)
		}
	}
	return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}
