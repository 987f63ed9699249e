// Package medium reads images from folders and files: image layouts of the OCI, and
// archives of such layouts or of docker's form, as skopeo, podman save, docker save and
// ctr images export write them.
//
// Layouts and archives are read in place: the file is its own index. Only a compressed
// archive is decompressed first, into a temporary file.
package medium

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/types"
)

// Found is a folder or file that is to be read.
type Found struct {
	Path string
	// Stamp is another one when the content is another one: of a layout a digest, of
	// an archive its size and time.
	Stamp   string
	Changed time.Time
}

// Medium is an open folder or file.
type Medium struct {
	Images []Image
	close  []func() error
}

// Image is an image of a medium. It can be read until the medium is closed.
type Image struct {
	types.ImageReference
	Names []reference.Named
}

// FullNames are the names as they are written in full.
func (i *Image) FullNames() (list []string) {
	for _, n := range i.Names {
		list = append(list, n.String())
	}
	return list
}

// Without is the image without the names for which f is true.
func (i Image) Without(f func(name string) bool) Image {
	i.Names = slices.DeleteFunc(slices.Clone(i.Names), func(n reference.Named) bool { return f(n.String()) })
	return i
}

// endings of archives' names. Others, and all that begins with a dot, are not looked
// at: lists, checksums, and what is still being copied.
var endings = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz", ".tbz2"}

// IsArchive tells whether a file's name is that of an archive.
func IsArchive(name string) bool {
	for _, e := range endings {
		if strings.HasSuffix(strings.ToLower(name), e) {
			return !strings.HasPrefix(filepath.Base(name), ".")
		}
	}
	return false
}

// Find lists the media in a folder and in those below it, in lexical order; the folder
// may be a layout itself. What cannot be read is told by its error, and the rest goes on.
// Symbolic links to archives are followed.
func Find(dir string) (list []Found, err error) {
	walk := func(path string, d fs.DirEntry, e error) error {
		switch {
		case e != nil && path == dir:
			return e
		case e != nil:
			err = errors.Join(err, e)
			return nil
		case path != dir && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			index, e := os.ReadFile(filepath.Join(path, v1.ImageIndexFile))
			if errors.Is(e, fs.ErrNotExist) {
				return nil
			} else if e != nil {
				err = errors.Join(err, e)
				return nil
			}
			sum := sha256.Sum256(index)
			f := Found{Path: path, Stamp: hex.EncodeToString(sum[:])}
			if fi, e := os.Stat(filepath.Join(path, v1.ImageIndexFile)); e == nil {
				f.Changed = fi.ModTime()
			}
			list = append(list, f)
			return fs.SkipDir
		case IsArchive(path):
			fi, e := os.Stat(path)
			if e != nil || !fi.Mode().IsRegular() {
				err = errors.Join(err, e)
				return nil
			}
			list = append(list, Found{path, fmt.Sprint(fi.Size(), " ", fi.ModTime().UnixNano()), fi.ModTime()})
		}
		return nil
	}
	e := filepath.WalkDir(dir, walk)
	return list, errors.Join(err, e)
}

// Compressed tells whether reading an archive takes as long as decompressing it.
func Compressed(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	decompress, _, err := compression.DetectCompression(f)
	return err == nil && decompress != nil
}

// Open opens a medium. temp is where a compressed archive is decompressed; the library's
// context sys has it as well. The kind of the error is Invalid for what is no medium.
func Open(ctx context.Context, path, temp string, sys *types.SystemContext) (m *Medium, err error) {
	m = &Medium{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot read %s: %w", path, errors.Join(err, m.Close()))
			m = nil
		}
	}()
	fi, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	if fi.IsDir() {
		err = m.layout(path, folder(path), true)
		return m, err
	}
	f, err := m.plain(ctx, path, temp)
	if err != nil {
		return m, err
	}
	files, err := index(f)
	if err != nil {
		return m, err
	}
	_, layout := files.files[v1.ImageIndexFile]
	if _, docker := files.files["manifest.json"]; docker && !layout {
		return m, m.docker(f.Name(), sys)
	} else if !layout {
		return m, errs.Invalid("it is no archive of images: it has neither index.json nor manifest.json")
	}
	return m, m.layout(path, files, false)
}

// Close lets go of the files.
func (m *Medium) Close() (err error) {
	for i := len(m.close) - 1; i >= 0; i-- {
		err = errors.Join(err, m.close[i]())
	}
	m.close = nil
	return err
}

// plain opens an archive, decompressed.
func (m *Medium) plain(ctx context.Context, path, temp string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	m.close = append(m.close, f.Close)
	decompress, in, err := compression.DetectCompression(f)
	if err != nil || decompress == nil {
		return f, err
	}
	content, err := decompress(in)
	if err != nil {
		return nil, damaged(err)
	}
	defer content.Close()
	out, err := os.CreateTemp(temp, "medium-*.tar")
	if err != nil {
		return nil, err
	}
	m.close = append(m.close, out.Close, func() error { return os.Remove(out.Name()) })
	if _, err := io.Copy(out, &until{ctx, content}); err != nil {
		var file *fs.PathError // of out; what comes from in is the archive's fault
		if errors.As(err, &file) || ctx.Err() != nil {
			return nil, err
		}
		return nil, damaged(err)
	}
	return out, nil
}

func damaged(err error) error {
	return errs.Errorf(errs.KindUnavailable, "it is damaged or not complete; copy it again: %w", err)
}

// until is a stream that ends with a context.
type until struct {
	ctx context.Context
	io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.Reader.Read(p)
}

// docker lists the images of an archive in docker's form.
func (m *Medium) docker(path string, sys *types.SystemContext) error {
	r, err := archive.NewReader(sys, path)
	if err != nil {
		return damaged(err)
	}
	m.close = append(m.close, r.Close)
	list, err := r.List()
	if err != nil {
		return errs.Invalid("%w", err)
	}
	for _, refs := range list {
		i := Image{}
		for _, ref := range refs {
			i.ImageReference = ref
			if n := ref.DockerReference(); n != nil {
				i.Names = append(i.Names, n)
			}
		}
		m.Images = append(m.Images, i)
	}
	return m.named("save it by its name: docker save NAME:TAG")
}

// named leaves out the images that nobody could ask for. It is an error if that are all.
func (m *Medium) named(how string) error {
	var list []Image
	for _, i := range m.Images {
		if len(i.Names) > 0 {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return errs.Invalid("no image in it has a name: %s", how)
	}
	m.Images = list
	return nil
}
