// Package secrets copies files of the node into folders from which containers see them:
// those that mounts.conf names, as containers-mounts.conf(5) says. Containers get copies,
// so that what they write stays theirs.
//
// It knows files, and no container.
package secrets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// Entry is a line of mounts.conf: a file or folder, and where containers see it.
type Entry struct{ Source, Dest string }

// Copied is an entry whose copy is there.
type Copied struct{ Path, Dest string }

// Bounds of what is copied for one container: an entry that names / must not fill the
// disk.
const (
	maxBytes = 16 << 20
	maxFiles = 4096
)

// Read returns the entries of the first file that exists.
func Read(files ...string) (list []Entry, err error) {
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		defer f.Close()
		s := bufio.NewScanner(f)
		for n := 1; s.Scan(); n++ {
			line := strings.TrimSpace(s.Text())
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			src, dst, two := strings.Cut(line, ":")
			if !two {
				dst = src
			}
			if !filepath.IsAbs(src) || !filepath.IsAbs(dst) || filepath.Clean(dst) == "/" {
				return nil, errs.Invalid("%s:%d: %q: write /SOURCE:/DESTINATION, two absolute paths", path, n, line)
			}
			list = append(list, Entry{filepath.Clean(src), filepath.Clean(dst)})
		}
		return list, s.Err()
	}
	return nil, nil
}

// Copy copies the entries into numbered folders of dir, for a user and group. Sources
// that are not there are left out. Symbolic links are followed: what they lead to is on
// the node.
func Copy(list []Entry, dir string, uid, gid int) (out []Copied, err error) {
	c := &copier{uid: uid, gid: gid}
	for n, e := range list {
		to := filepath.Join(dir, strconv.Itoa(n))
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
		err := c.copy(e.Source, to)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("cannot copy %s for containers: %w", e.Source, err)
		}
		out = append(out, Copied{Path: to, Dest: e.Dest})
	}
	return out, nil
}

type copier struct {
	uid, gid     int
	bytes, files int64
}

func (c *copier) copy(from, to string) error {
	fi, err := os.Stat(from)
	if err != nil {
		return err
	}
	if c.files++; c.files > maxFiles {
		return errs.Precondition("there are more than %d files", maxFiles)
	}
	switch {
	case fi.IsDir():
		err = c.folder(from, to)
	case fi.Mode().IsRegular():
		err = c.file(from, to)
	default:
		return nil // devices, sockets: nothing to be copied
	}
	if err == nil {
		err = os.Chmod(to, fi.Mode().Perm())
	}
	if err == nil {
		err = os.Lchown(to, c.uid, c.gid)
	}
	return err
}

func (c *copier) folder(from, to string) error {
	entries, err := os.ReadDir(from)
	if err == nil {
		err = os.MkdirAll(to, 0o700)
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// A link that leads nowhere is no file; one that leads up is bounded by maxFiles.
		err := c.copy(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (c *copier) file(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(dst, io.LimitReader(src, maxBytes-c.bytes+1))
	if c.bytes += n; c.bytes > maxBytes {
		err = errs.Precondition("there are more than %d bytes", maxBytes)
	}
	return errors.Join(err, dst.Close())
}
