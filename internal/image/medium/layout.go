package medium

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/types"
)

// The library reads layouts in folders, and unpacks archives of them into a folder
// first. So this is a source of our own, over whatever has the files of a layout.

// maxJSON bounds what is read as a manifest or an index, in bytes; the image library
// has the same bound.
const maxJSON = 4 << 20

// blobs are the files of a layout, by their names in it.
type blobs interface {
	open(name string) (io.ReadCloser, int64, error)
}

// folder is a layout in a folder.
type folder string

func (d folder) open(name string) (io.ReadCloser, int64, error) {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// packed is a layout in a tar file.
type packed struct {
	f     *os.File
	files map[string]place
}

type place struct{ at, size int64 }

// index finds the files of an archive; their contents are passed over.
func index(f *os.File) (*packed, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	p := &packed{f, map[string]place{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return p, nil
		} else if err != nil {
			return nil, damaged(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		// The reader reads whole blocks and nothing ahead: here begins the content.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		p.files[strings.TrimPrefix(path.Clean("/"+h.Name), "/")] = place{at, h.Size}
	}
}

func (p *packed) open(name string) (io.ReadCloser, int64, error) {
	w, ok := p.files[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(p.f, w.at, w.size)), w.size, nil
}

// readJSON reads one of a layout's small files.
func readJSON(b blobs, name string) ([]byte, error) {
	r, size, err := b.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > maxJSON {
		return nil, errs.Invalid("%s has %d bytes, which is too much for an index or manifest", name, size)
	}
	return io.ReadAll(io.LimitReader(r, maxJSON))
}

// blobName is where a layout has a blob.
func blobName(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", errs.Invalid("it names a digest that is none: %q", d)
	}
	return path.Join("blobs", d.Algorithm().String(), d.Encoded()), nil
}

// Annotations by which an index names its images: the first is a full name, the second
// one or just a tag, depending on the program.
var nameAnnotations = []string{"io.containerd.image.name", v1.AnnotationRefName}

// named is the name that a descriptor bears, if it is a whole one.
func named(d *v1.Descriptor) reference.Named {
	for _, a := range nameAnnotations {
		text := d.Annotations[a]
		if !strings.ContainsAny(text, "/:") { // a tag of something
			continue
		}
		if n, err := reference.ParseNormalizedNamed(text); err == nil {
			return reference.TagNameOnly(n)
		}
	}
	return nil
}

// layout lists the images of a layout.
func (m *Medium) layout(path string, b blobs, dir bool) error {
	data, err := readJSON(b, v1.ImageIndexFile)
	if err != nil {
		return err
	}
	var idx v1.Index
	if err := json.Unmarshal(data, &idx); err != nil {
		return errs.Invalid("its index.json is no index: %w", err)
	}
	var base types.ImageReference // who it is, for policies
	if dir {
		base, err = layout.NewReference(path, "")
	} else {
		base, err = ociarchive.NewReference(path, "")
	}
	if err != nil {
		return err
	}
	at := map[digest.Digest]int{} // an image with several names has several lines
	for i := range idx.Manifests {
		d := &idx.Manifests[i]
		n, there := at[d.Digest]
		if !there {
			n = len(m.Images)
			at[d.Digest] = n
			m.Images = append(m.Images, Image{ImageReference: ref{base, b, *d}})
		}
		if name := named(d); name != nil {
			m.Images[n].Names = append(m.Images[n].Names, name)
		}
	}
	return m.named("annotate it in index.json with " + v1.AnnotationRefName + " = REGISTRY/NAME:TAG, as `skopeo copy IMAGE oci:FOLDER:REGISTRY/NAME:TAG` does")
}

// ref is an image of a layout.
type ref struct {
	types.ImageReference
	blobs blobs
	desc  v1.Descriptor
}

// NewImageSource implements types.ImageReference.
func (r ref) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return &source{r}, nil
}

// source implements types.ImageSource.
type source struct{ ref ref }

func (s *source) Reference() types.ImageReference { return s.ref }
func (s *source) Close() error                    { return nil }
func (s *source) HasThreadSafeGetBlob() bool      { return true }

// GetManifest reads the image's manifest, or one that its index names.
func (s *source) GetManifest(_ context.Context, instance *digest.Digest) ([]byte, string, error) {
	d, mediaType := s.ref.desc.Digest, s.ref.desc.MediaType
	if instance != nil {
		d, mediaType = *instance, ""
	}
	name, err := blobName(d)
	if err != nil {
		return nil, "", err
	}
	data, err := readJSON(s.ref.blobs, name)
	if err != nil {
		return nil, "", s.lacks(d, err)
	}
	if v := d.Verifier(); !writeAll(v, data) || !v.Verified() {
		return nil, "", damaged(fmt.Errorf("its manifest does not have the digest %s", d))
	}
	if mediaType == "" {
		mediaType = manifest.GuessMIMEType(data)
	}
	return data, mediaType, nil
}

func writeAll(w io.Writer, data []byte) bool {
	_, err := io.Copy(w, bytes.NewReader(data))
	return err == nil
}

// lacks explains a blob that cannot be opened. An index may name images for machines
// whose blobs were not copied along.
func (s *source) lacks(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.Errorf(errs.KindUnavailable, "it lacks %s: it is not complete, or made for other machines than this one: %w", d, err)
	}
	return err
}

// GetBlob opens a blob.
func (s *source) GetBlob(_ context.Context, b types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	name, err := blobName(b.Digest)
	if err != nil {
		return nil, 0, err
	}
	r, size, err := s.ref.blobs.open(name)
	if err != nil {
		return nil, 0, s.lacks(b.Digest, err)
	}
	return r, size, nil
}

// GetSignatures has none: layouts have no place for them.
func (s *source) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) { return nil, nil }

// LayerInfosForCopy has nothing to add to the manifest.
func (s *source) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}
