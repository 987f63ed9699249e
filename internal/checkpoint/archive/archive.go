// Package archive is the file in which a container is kept: the images of its
// processes, what it changed in its root file system, and what it was made of. The
// form is the one that CRI-O writes and checkpointctl reads.
//
// An archive is somebody else's data. Nothing is taken from it but processes and
// files: no path leaves the folder it is unpacked in, no device is made, nothing is
// larger than the archive itself. The package knows no pod and no runtime.
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
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Names in an archive.
const (
	ImagesDir  = "checkpoint" // criu's images
	configFile = "config.dump"
	specFile   = "spec.dump"
	diffFile   = "rootfs-diff.tar"
	goneFile   = "deleted.files"
	logFile    = "dump.log"
)

// Annotation marks an image that is a checkpoint; its value is the container's name.
const Annotation = "io.kubernetes.cri-o.annotations.checkpoint.name"

// Config is what is kept of the container (config.dump).
type Config struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	ImageID        string    `json:"rootfsImage,omitempty"`
	ImageRef       string    `json:"rootfsImageRef,omitempty"`
	ImageName      string    `json:"rootfsImageName,omitempty"`
	Runtime        string    `json:"runtime,omitempty"`
	Created        time.Time `json:"createdTime"`
	CheckpointedAt time.Time `json:"checkpointedTime"`
	RestoredAt     time.Time `json:"restoredTime"`
	Restored       bool      `json:"restored"`
}

// Info is what can be known of an archive without unpacking it.
type Info struct {
	Config Config
	Spec   specs.Spec
}

// Work is a folder in which an archive is put together, beside its destination.
type Work struct{ dir, dest string }

// Begin makes the folder. The destination must not exist.
func Begin(dest string) (*Work, error) {
	if !filepath.IsAbs(dest) || strings.ContainsRune(dest, 0) {
		return nil, errs.Invalid("location %q is not an absolute path", dest)
	}
	if _, err := os.Lstat(dest); err == nil {
		return nil, errs.Errorf(errs.KindAlreadyExists, "%s exists", dest)
	}
	dir, err := os.MkdirTemp(filepath.Dir(dest), ".checkpoint-")
	if err != nil {
		return nil, errs.With(errs.KindInvalid, err)
	}
	w := &Work{dir, dest}
	return w, os.Mkdir(w.Images(), 0o700)
}

// Images is where criu's images go.
func (w *Work) Images() string { return filepath.Join(w.dir, ImagesDir) }

// Dir is where criu's log goes.
func (w *Work) Dir() string { return w.dir }

// Remove deletes the folder; absence is success.
func (w *Work) Remove() error { return os.RemoveAll(w.dir) }

// Finish writes the archive and puts it in its place. diff is the layer of the
// container as a tar in which files named .wh.X stand for deleted ones.
func (w *Work) Finish(info *Info, diff io.Reader) error {
	if err := w.splitDiff(diff, info.Spec.Mounts); err != nil {
		return fmt.Errorf("cannot keep the files of the container: %w", err)
	}
	for name, v := range map[string]any{configFile: info.Config, specFile: info.Spec} {
		data, err := json.MarshalIndent(v, "", " ")
		if err == nil {
			err = os.WriteFile(filepath.Join(w.dir, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	tmp := filepath.Join(w.dir, "archive")
	if err := w.pack(tmp); err != nil {
		return fmt.Errorf("cannot write the archive: %w", err)
	}
	return os.Rename(tmp, w.dest)
}

// splitDiff keeps changed and deleted files apart, and leaves out what the runtime
// made for mounts.
func (w *Work) splitDiff(diff io.Reader, mounts []specs.Mount) error {
	f, err := os.OpenFile(filepath.Join(w.dir, diffFile), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	in, out := tar.NewReader(diff), tar.NewWriter(f)
	gone := []string{}
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)
		if slices.ContainsFunc(mounts, func(m specs.Mount) bool { return m.Destination == name }) || name == "/" {
			continue
		}
		if base, dead := strings.CutPrefix(path.Base(name), ".wh."); dead {
			if !strings.HasPrefix(base, ".wh.") {
				gone = append(gone, path.Join(path.Dir(name), base))
			}
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	data, err := json.Marshal(gone)
	if err != nil {
		return err
	}
	return errors.Join(out.Close(), f.Sync(), os.WriteFile(filepath.Join(w.dir, goneFile), data, 0o600))
}

// pack puts everything into one file.
func (w *Work) pack(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	out := tar.NewWriter(f)
	names := []string{configFile, specFile, diffFile, goneFile, logFile, "stats-dump"}
	images, err := os.ReadDir(w.Images())
	if err != nil {
		return err
	}
	for _, e := range images {
		names = append(names, path.Join(ImagesDir, e.Name()))
	}
	for _, name := range names {
		if err := add(out, w.dir, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(out.Close(), f.Sync())
}

func add(out *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: fi.Size(), ModTime: fi.ModTime(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = io.Copy(out, f)
	return err
}
