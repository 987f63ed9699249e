package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/mount"
)

// A lease is an artifact's use by a volume of a container. It is a folder below RunDir,
// with the artifact's id in one file and its files mounted beside. So it does not
// outlive a boot, and neither does the container.

const (
	leasedFile = "artifact"
	filesDir   = "files"
)

// Lease keeps an artifact for a volume. One that is there is kept.
func (s *Store) Lease(_ context.Context, lease, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.Find(id); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.leaseDir(lease), filesDir), 0o711); err != nil {
		return fmt.Errorf("cannot make a folder for artifact %s: %w", id, err)
	}
	return fsx.WriteFile(filepath.Join(s.leaseDir(lease), leasedFile), []byte(id), 0o600, fsx.Process)
}

func (s *Store) leaseDir(lease string) string { return filepath.Join(s.opts.RunDir, lease) }

// Leased tells whether there is a lease.
func (s *Store) Leased(lease string) bool {
	_, err := os.Stat(filepath.Join(s.leaseDir(lease), leasedFile))
	return err == nil
}

// Mount mounts the files of a lease's artifact, unless they are, and returns their
// folder.
func (s *Store) Mount(_ context.Context, lease string) (string, error) {
	dir := filepath.Join(s.leaseDir(lease), filesDir)
	if mount.IsMountPoint(dir) {
		return dir, nil
	}
	id, err := os.ReadFile(filepath.Join(s.leaseDir(lease), leasedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "", errs.NotFound("lease of an artifact", lease)
	} else if err != nil {
		return "", err
	}
	a, err := s.Find(string(id))
	if err != nil {
		return "", err
	}
	files, err := a.Files()
	if err != nil {
		return "", err
	}
	named := map[string]string{}
	for _, f := range files {
		named[f.Name] = f.Path
	}
	if err := mount.Files(dir, named); err != nil {
		return "", fmt.Errorf("cannot mount artifact %s: %w", a.ID, err)
	}
	return dir, nil
}

// Release undoes Mount and Lease; absence is success.
func (s *Store) Release(_ context.Context, lease string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.leaseDir(lease)
	err := mount.Unmount(filepath.Join(dir, filesDir))
	for _, name := range []string{filesDir, leasedFile, ""} {
		if err == nil {
			err = fsx.RemoveIfThere(filepath.Join(dir, name))
		}
	}
	return err
}

// Leases lists the leases.
func (s *Store) Leases(context.Context) (list []string, err error) {
	entries, err := os.ReadDir(s.opts.RunDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, err
}

// users lists the leases of an artifact.
func (s *Store) users(id string) (list []string) {
	all, _ := s.Leases(context.Background())
	for _, l := range all {
		if data, err := os.ReadFile(filepath.Join(s.leaseDir(l), leasedFile)); err == nil && string(data) == id {
			list = append(list, l)
		}
	}
	return list
}
