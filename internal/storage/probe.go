package storage

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/linux/mount"
)

// isProbe tells by its name a folder in which the overlay driver tries what the kernel can,
// whenever a store is opened. A process that is killed meanwhile leaves it, and the
// library's check takes it for a layer.
func isProbe(name string) bool {
	kind := strings.TrimRight(name, "0123456789")
	return kind != name && slices.Contains([]string{"compat", "opaque-bug-check", "metacopy-check", "volatile-check"}, kind)
}

// SweepProbes removes what is left of probes and is older than age, so that nobody can
// be at it any more.
func (s *Store) SweepProbes(age time.Duration) (err error) {
	home := filepath.Join(s.opts.Root, s.Driver())
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		fi, e2 := e.Info()
		if !isProbe(e.Name()) || e2 != nil || time.Since(fi.ModTime()) < age {
			continue
		}
		dir := filepath.Join(home, e.Name())
		if e := mount.Unmount(filepath.Join(dir, "merged")); e != nil {
			err = errors.Join(err, e)
			continue
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
