package archive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"golang.org/x/sys/unix"
)

// maxDump bounds the two files that are read into memory, in bytes.
const maxDump = 10 << 20

// each calls f for the regular files of an archive that belong to it; names are
// clean. Others are passed over.
func each(archive string, f func(name string, size int64, r io.Reader) error) error {
	file, err := os.Open(archive)
	if err != nil {
		return errs.Invalid("cannot open the checkpoint: %w", err)
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return eachIn(archive, f)
	}
	if !fi.Mode().IsRegular() {
		return errs.Invalid("the checkpoint %s is no regular file", archive)
	}
	in, left := tar.NewReader(file), fi.Size()
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errs.Invalid("the checkpoint %s is no tar archive, or broken: %w", archive, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if left -= h.Size; left < 0 { // a sparse file claims more than there is
			return errs.Invalid("the checkpoint %s holds more than its own size", archive)
		}
		if name := path.Clean(h.Name); ours(name) {
			if err := f(name, h.Size, in); err != nil {
				return err
			}
		}
	}
}

// eachIn is each for the files of an unpacked archive, as an image holds them.
func eachIn(dir string, f func(name string, size int64, r io.Reader) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{configFile, specFile, diffFile, goneFile}
	if images, err := fs.ReadDir(root.FS(), ImagesDir); err == nil {
		for _, e := range images {
			names = append(names, path.Join(ImagesDir, e.Name()))
		}
	}
	for _, name := range names {
		fi, err := root.Lstat(name)
		if err != nil || !fi.Mode().IsRegular() {
			continue
		}
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		err = f(name, fi.Size(), file)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// ours tells whether a name is one of an archive's.
func ours(name string) bool {
	switch name {
	case configFile, specFile, diffFile, goneFile:
		return true
	}
	dir, base := path.Split(name)
	return dir == ImagesDir+"/" && base != "" && base != ".." && base != "." && !strings.ContainsAny(base, "\x00/")
}

// Look reads what an archive says about itself.
func Look(archive string) (*Info, error) {
	info, found := &Info{}, 0
	err := each(archive, func(name string, size int64, r io.Reader) error {
		var v any
		switch name {
		case configFile:
			v = &info.Config
		case specFile:
			v = &info.Spec
		default:
			return nil
		}
		if size > maxDump {
			return errs.Invalid("the checkpoint %s: %s has %d bytes; %d are the most", archive, name, size, maxDump)
		}
		if err := json.NewDecoder(r).Decode(v); err != nil {
			return errs.Invalid("the checkpoint %s: %s: %w", archive, name, err)
		}
		found++
		return nil
	})
	if err == nil && found < 2 {
		err = errs.Invalid("%s is no checkpoint of a container: %s or %s is missing", archive, configFile, specFile)
	}
	return info, err
}

// Unpack copies what a restore needs into a folder, which is made.
func Unpack(archive, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, ImagesDir), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return each(archive, func(name string, _ int64, r io.Reader) error {
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("cannot unpack %s: %w", name, err)
		}
		_, err = io.Copy(f, r)
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", name, err)
		}
		return nil
	})
}

// Apply makes the changes of an unpacked archive in a mounted root file system, and
// forgets them.
func Apply(dir, rootfs string) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := os.ReadFile(filepath.Join(dir, goneFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var gone []string
	if len(data) > 0 {
		if err := json.Unmarshal(data, &gone); err != nil {
			return errs.Invalid("the checkpoint's %s: %w", goneFile, err)
		}
	}
	for _, name := range gone {
		if name = local(name); name == "" {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return errs.Invalid("the checkpoint deletes %q, which cannot be: %w", name, err)
		}
	}
	f, err := os.Open(filepath.Join(dir, diffFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := applyDiff(root, tar.NewReader(f)); err != nil {
		return err
	}
	return os.Remove(f.Name())
}

// local makes a name relative to the root file system.
func local(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func applyDiff(root *os.Root, in *tar.Reader) error {
	type dirTime struct {
		name string
		at   time.Time
	}
	var dirs []dirTime
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errs.Invalid("the checkpoint's %s is no tar archive, or broken: %w", diffFile, err)
		}
		name := local(h.Name)
		if name == "" {
			continue
		}
		if err := applyOne(root, name, h, in); err != nil {
			return errs.Invalid("the checkpoint's file %q cannot be made: %w", h.Name, err)
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, dirTime{name, h.ModTime})
		} else if h.Typeflag == tar.TypeReg {
			_ = root.Chtimes(name, h.ModTime, h.ModTime) // a time that cannot be set is no loss
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- { // their contents have changed them meanwhile
		_ = root.Chtimes(dirs[i].name, dirs[i].at, dirs[i].at)
	}
	return nil
}

// applyOne makes one entry anew, with its owner and mode.
func applyOne(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	mode := h.FileInfo().Mode()
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if old, err := root.Lstat(name); err == nil && (!old.IsDir() || h.Typeflag != tar.TypeDir) {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		// The owner first: a change of it takes capabilities away.
		err = errors.Join(err, f.Chown(h.Uid, h.Gid), f.Chmod(mode))
		for k, v := range h.PAXRecords {
			if key, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && err == nil {
				err = unix.Fsetxattr(int(f.Fd()), key, []byte(v), 0)
			}
		}
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	case tar.TypeLink:
		return root.Link(local(h.Linkname), name)
	case tar.TypeFifo:
		return nil // criu makes those that are open; others nobody reads
	default:
		return fmt.Errorf("type %q is neither file, folder nor link", h.Typeflag)
	}
	return errors.Join(root.Lchown(name, h.Uid, h.Gid), root.Chmod(name, mode))
}
