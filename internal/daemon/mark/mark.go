// Package mark keeps the files that tell other programs, and the next start, which
// version runs and how the last run ended. Nothing is removed because of them.
package mark

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/version"
	"golang.org/x/sys/unix"
)

func versionFile(c *config.Config) string {
	return cmp.Or(c.Crio.VersionFile, filepath.Join(c.Crio.RunDir, "version"))
}

func cleanFile(c *config.Config) string {
	return cmp.Or(c.Crio.CleanShutdownFile, filepath.Join(c.Crio.StateDir, "clean.shutdown"))
}

// supported is the file that says that clean ends leave a mark: without it, its absence
// means nothing.
func supported(c *config.Config) string { return cleanFile(c) + ".supported" }

// Start writes the version, and tells whether the machine went down before the last
// run's data were on the disk. From now until End this one's are not.
func Start(c *config.Config) (crashed bool, err error) {
	_, err = os.Stat(versionFile(c)) // on a volatile file system
	rebooted := errors.Is(err, os.ErrNotExist)
	v := version.Version
	if version.Commit != "" {
		v += "+" + version.Commit
	}
	for _, path := range []string{versionFile(c), c.Crio.VersionPersist} {
		if path == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return false, fmt.Errorf("cannot make the folder of the version file: %w", err)
		}
		if err := fsx.WriteFile(path, []byte(strconv.Quote(v)), 0o644, fsx.Process); err != nil {
			return false, fmt.Errorf("cannot write the version file: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(cleanFile(c)), 0o755); err != nil {
		return false, err
	}
	_, err1 := os.Stat(cleanFile(c))
	_, err2 := os.Stat(supported(c))
	crashed = rebooted && errors.Is(err1, os.ErrNotExist) && err2 == nil
	err = errors.Join(fsx.RemoveIfThere(cleanFile(c)), fsx.WriteFile(supported(c), nil, 0o644, fsx.Process), syncDir(filepath.Dir(cleanFile(c))))
	return crashed, err
}

// End forces the store's file system to the disk, then says so.
func End(c *config.Config) error {
	for _, dir := range []string{c.Crio.Root, c.Crio.StateDir} {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = unix.Syncfs(int(f.Fd()))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("cannot force %s to the disk: %w", dir, err)
		}
	}
	if err := fsx.WriteFile(cleanFile(c), nil, 0o644, fsx.Process); err != nil {
		return err
	}
	return syncDir(filepath.Dir(cleanFile(c)))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
