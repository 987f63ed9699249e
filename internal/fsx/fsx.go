// Package fsx writes files so that a reader, or the next start after a crash, sees
// the old content or the new one and nothing between.
package fsx

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Durability says what a write survives.
type Durability bool

const (
	// Process: the content survives the end of this process. It reaches the disk
	// when the kernel writes it back.
	Process Durability = false
	// Power: the content is on the disk when the call returns.
	Power Durability = true
)

// WriteFile replaces the file at path by data: written aside, then renamed. The
// temporary file's name starts with a dot and ends in ".tmp"; it is removed if the
// write fails (a full disk leaves the old content).
func WriteFile(path string, data []byte, perm fs.FileMode, d Durability) error {
	dir, base := filepath.Split(path)
	tmp := filepath.Join(dir, "."+base+".tmp")
	if err := writeNew(tmp, data, perm, d); err != nil {
		return errors.Join(err, RemoveIfThere(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, RemoveIfThere(tmp))
	}
	if d == Power {
		return SyncDir(dir)
	}
	return nil
}

func writeNew(path string, data []byte, perm fs.FileMode, d Durability) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && d == Power {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// RemoveIfThere removes a file or empty folder; absence is success.
func RemoveIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
