package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ShowBelow mounts the folder src, for reading, at the folder name of dir, which it
// makes. What is in dir is not trusted: a link there is refused, not followed. A mount
// that is there is kept.
func ShowBelow(dir, name, src string) error {
	at := filepath.Join(dir, name)
	if IsMountPoint(at) {
		return nil
	}
	fail := func(err error) error { return fmt.Errorf("cannot show %s at %s: %w", src, at, err) }
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(base)
	if err := unix.Mkdirat(base, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fail(err)
	}
	to, err := unix.Openat(base, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(to)
	if _, err := os.Stat(src); err != nil {
		return fail(err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, src, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fail(err)
	}
	if err := unix.MoveMount(tree, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fail(err)
	}
	return nil
}
