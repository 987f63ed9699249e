package libct

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"
)

// Sealing is how libcontainer will protect this executable from the containers it
// starts (CVE-2019-5736): it never shows them the file itself.
type Sealing int

// The ways.
const (
	// SealedAlready: we run from a sealed copy in memory; nothing is left to do.
	SealedAlready Sealing = iota
	// SealedByOverlay: a read-only overlay mount per start, for free.
	SealedByOverlay
	// SealedByCopy: the whole executable is copied to memory for each container
	// and each exec. Call Reexec.
	SealedByCopy
)

// String names the way.
func (s Sealing) String() string {
	return [...]string{"sealed already", "overlay", "copy for each start"}[s]
}

// SelfSealed tells which way libcontainer will go. tmp is a folder, such as the
// runtime's root. An executable that was deleted or replaced since we were
// started is always copied. It costs one overlay mount, or one copy.
func SelfSealed(tmp string) (Sealing, error) {
	if exeseal.IsSelfExeCloned() {
		return SealedAlready, nil
	}
	path, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return 0, fmt.Errorf("cannot find this executable: %w", err)
	}
	if strings.HasSuffix(path, " (deleted)") {
		return SealedByCopy, nil
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return 0, fmt.Errorf("cannot probe the sealing of %s: %w", path, err)
	}
	f, err := exeseal.CloneSelfExe(tmp)
	if err != nil {
		return 0, fmt.Errorf("cannot probe the sealing of %s: %w", path, err)
	}
	defer f.Close()
	// An O_PATH descriptor of the overlay refuses F_GET_SEALS, a copy has seals or
	// is no overlay.
	var st unix.Statfs_t
	err = unix.Fstatfs(int(f.Fd()), &st)
	if err == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC && !exeseal.IsCloned(f) {
		return SealedByOverlay, nil
	}
	return SealedByCopy, nil
}

// Reexec replaces this process by the same program run from a sealed copy in
// memory, one copy instead of one for each start. Process id, children and
// descriptors without close-on-exec survive. It returns only on failure.
func Reexec(args, env []string) error {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("cannot seal this executable: %w", err)
	}
	defer f.Close()
	if exeseal.IsCloned(f) {
		return errors.New("cannot seal this executable: it is sealed already")
	}
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot seal this executable: %w", err)
	}
	sealed, err := exeseal.CloneBinary(f, fi.Size(), "self", os.TempDir())
	if err != nil {
		return fmt.Errorf("cannot seal this executable: %w", err)
	}
	defer sealed.Close()
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", sealed.Fd()), args, env)
	return fmt.Errorf("cannot run the sealed copy of this executable: %w", err)
}
