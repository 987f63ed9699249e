package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/fsx"
	"golang.org/x/sys/unix"
)

// kinds are the namespaces that are pinned in a folder.
var kinds = [...]string{"net", "ipc", "uts", "user"}

// NamespacePath is where a namespace is found by others, DIR/netns/NAME: the place of
// `ip netns`, which CNI plugins that run in containers mount.
func NamespacePath(dir, name, kind string) string { return filepath.Join(dir, kind+"ns", name) }

// ExposeNamespaces mounts those that are pinned in the folder at once more where others look for
// it. A mount that is there is replaced.
func ExposeNamespaces(at, dir, name string) error {
	for _, k := range kinds {
		from, to := filepath.Join(at, k), NamespacePath(dir, name, k)
		if !IsNamespace(from) {
			continue
		}
		if err := errors.Join(Unmount(to), os.MkdirAll(filepath.Dir(to), 0o755)); err != nil {
			return fmt.Errorf("cannot show the %s namespace at %s: %w", k, to, err)
		}
		f, err := os.OpenFile(to, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o444)
		if err == nil {
			f.Close()
			err = unix.Mount(from, to, "", unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("cannot show the %s namespace at %s: %w", k, to, err)
		}
	}
	return nil
}

// HideNamespaces undoes ExposeNamespaces; absence is success.
func HideNamespaces(dir, name string) (err error) {
	for _, k := range kinds {
		to := NamespacePath(dir, name, k)
		if e := Unmount(to); e != nil {
			err = errors.Join(err, e)
			continue
		}
		err = errors.Join(err, fsx.RemoveIfThere(to))
	}
	return err
}
