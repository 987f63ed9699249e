// Package mount makes and undoes the few mounts that a pod needs. It knows no pod.
// Unmounting what is not mounted, or not there, is success.
package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Shm mounts a tmpfs for POSIX shared memory at dir, which it makes: size in bytes,
// mode 1777, owned by uid and gid. One that is mounted there is kept.
func Shm(dir, label string, size int64, uid, gid int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if fs, err := FsType(dir); err == nil && fs == unix.TMPFS_MAGIC && IsMountPoint(dir) {
		return nil
	}
	opts := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", size, uid, gid)
	if label != "" {
		opts += fmt.Sprintf(",context=%q", label)
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("cannot mount a tmpfs at %s: %w", dir, err)
	}
	return nil
}

// Unmount undoes the mounts at path, all of them if they are stacked. A mount that
// is still used goes away when its last user does.
func Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil
		}
		return fmt.Errorf("cannot unmount %s: %w", path, err)
	}
}

// FsType returns the magic number of the file system at path (statfs(2)).
func FsType(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Type), nil
}

// IsNamespace tells whether path is a pinned namespace: a file of nsfs.
func IsNamespace(path string) bool {
	t, err := FsType(path)
	return err == nil && t == unix.NSFS_MAGIC
}

// IsMountPoint tells whether something is mounted at path itself.
func IsMountPoint(path string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
