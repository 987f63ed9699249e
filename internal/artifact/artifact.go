// Package artifact keeps OCI artifacts: what registries have that is no image, such as
// models, policies and profiles. Their files can be mounted into containers.
//
// The store is an OCI image layout (blobs, index.json), as the image specification
// describes it: each manifest that the index lists is an artifact, and the annotation
// org.opencontainers.image.ref.name is its full name. Others may write it too, under the
// lock index.lock. Further layouts may be given that are only read.
//
// Nothing is listed before it is on the disk as a whole. It knows no registry and no pod.
package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options say where artifacts are.
type Options struct {
	Root   string   // the layout; it is made when the first artifact comes
	Shared []string // layouts that are only read; they need not exist
	RunDir string   // where they are mounted
	// Bring finds an artifact by a reference as people write it, or pulls it, and
	// returns its id.
	Bring func(ctx context.Context, ref string) (id string, err error)
	Log   *slog.Logger
}

// Store is the layouts together.
type Store struct {
	opts  Options
	stale []string   // what an earlier daemon was fetching
	mu    sync.Mutex // held to change the layout, or leases
	told  sync.Map   // damage of which the log knows
}

// Artifact is one artifact of a store.
type Artifact struct {
	ID       string   // digest of its manifest, hexadecimal
	Names    []string // full references, tagged or with a digest
	Manifest v1.Manifest
	Raw      []byte // the manifest as it came
	Size     int64  // of all blobs and the manifest
	dir      string // the layout in which it is
}

// File is a blob as containers see it.
type File struct {
	Name string // a relative path
	Path string // of the blob
}

// In is where artifacts are in a root of images.
func In(root string) string { return filepath.Join(root, "artifacts") }

// New makes the store; it reads nothing but what an earlier daemon left.
func New(o Options) *Store {
	s := &Store{opts: o}
	s.stale, _ = filepath.Glob(filepath.Join(o.Root, stagePrefix+"*"))
	return s
}

// List returns all artifacts that can be read. A damaged one is logged and passed over,
// as is a layout: images must stay usable. One that is in several layouts is that of the
// first.
func (s *Store) List() (list []Artifact) {
	seen := map[string]bool{}
	for _, dir := range append([]string{s.opts.Root}, s.opts.Shared...) {
		found, err := s.read(dir)
		s.tell("a store of artifacts is not used", dir, err)
		for _, a := range found {
			if !seen[a.ID] {
				seen[a.ID] = true
				list = append(list, a)
			}
		}
	}
	return list
}

// tell warns of damage, once until it is mended.
func (s *Store) tell(what, object string, err error) {
	if err == nil {
		s.told.Delete(what + object)
	} else if _, told := s.told.LoadOrStore(what+object, true); !told {
		s.opts.Log.Warn(what, "object", object, "err", err)
	}
}

// Find looks an artifact up by its id, or the beginning of one, if only one is meant.
func (s *Store) Find(id string) (*Artifact, error) {
	list := s.List()
	var found *Artifact
	for i := range list {
		switch {
		case !strings.HasPrefix(list[i].ID, id) || id == "":
		case found != nil:
			return nil, errs.Invalid("several artifacts have an id that begins with %s", id)
		default:
			found = &list[i]
		}
	}
	if found == nil {
		return nil, errs.NotFound("artifact", id)
	}
	return found, nil
}

// FindName looks an artifact up by its full name. A name with a digest also finds what
// bears another name in the same repository.
func (s *Store) FindName(name string) (*Artifact, error) {
	list := s.List()
	for i := range list {
		if list[i].Is(name) {
			return &list[i], nil
		}
	}
	return nil, errs.NotFound("artifact", name)
}

// Is tells whether a full name means the artifact.
func (a *Artifact) Is(name string) bool {
	repo, digest, digested := strings.Cut(name, "@")
	return slices.Contains(a.Names, name) || digested && digest == "sha256:"+a.ID &&
		slices.ContainsFunc(a.Names, func(n string) bool { return repository(n) == repo })
}

// repository is a name without tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// indexOf reads the index of a layout; an absent one is empty.
func indexOf(dir string) (index v1.Index, err error) {
	data, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil {
		err = fmt.Errorf("cannot read the artifacts in %s: %w", dir, err)
	}
	return index, err
}

func (s *Store) read(dir string) (list []Artifact, err error) {
	index, err := indexOf(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries(index) {
		a, err := load(dir, e.digest)
		s.tell("an artifact cannot be read; pull it again", filepath.Join(dir, string(e.digest)), err)
		if err == nil {
			a.Names = e.names
			list = append(list, *a)
		}
	}
	return list, nil
}

// entry is a manifest in an index, which may stand there once for each of its names.
type entry struct {
	digest digest.Digest
	names  []string
}

func entries(index v1.Index) (list []entry) {
	at := map[digest.Digest]int{}
	for _, d := range index.Manifests {
		i, known := at[d.Digest]
		if !known {
			i = len(list)
			at[d.Digest], list = i, append(list, entry{digest: d.Digest})
		}
		if name := d.Annotations[v1.AnnotationRefName]; name != "" && !slices.Contains(list[i].names, name) {
			list[i].names = append(list[i].names, name)
		}
	}
	return list
}

// load reads the manifest of an artifact.
func load(dir string, d digest.Digest) (*Artifact, error) {
	if err := usable(d); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(blob(dir, d))
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(data) != d {
		return nil, errs.Precondition("its manifest is damaged")
	}
	a := &Artifact{ID: d.Encoded(), dir: dir, Raw: data, Size: int64(len(data))}
	if err := json.Unmarshal(data, &a.Manifest); err != nil {
		return nil, err
	}
	for _, b := range a.blobs() {
		if err := usable(b.Digest); err != nil {
			return nil, err
		}
		fi, err := os.Stat(blob(dir, b.Digest))
		if err != nil {
			return nil, err
		}
		if fi.Size() != b.Size {
			return nil, errs.Precondition("its blob %s has %d bytes, not %d", b.Digest, fi.Size(), b.Size)
		}
		a.Size += b.Size
	}
	return a, nil
}

// blobs are what the manifest names.
func (a *Artifact) blobs() []v1.Descriptor {
	return append([]v1.Descriptor{a.Manifest.Config}, a.Manifest.Layers...)
}

func usable(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return errs.Invalid("its digest %q is not of sha256", d)
	}
	return nil
}

// blob is where a layout has a blob.
func blob(dir string, d digest.Digest) string {
	return filepath.Join(dir, v1.ImageBlobsDir, "sha256", d.Encoded())
}

// Blob is where the blob of a digest is, if the layout that is written has it: what is
// to be fetched needs not be fetched twice.
func (s *Store) Blob(d string) (path string, there bool) {
	if usable(digest.Digest(d)) != nil {
		return "", false
	}
	path = blob(s.opts.Root, digest.Digest(d))
	_, err := os.Stat(path)
	return path, err == nil
}

// Names that manifests give to their blobs: that of the image specification, which
// command-line clients set, and those of the CNCF's model specification.
var titles = [...]string{v1.AnnotationTitle, "org.cncf.model.filepath", "org.cnai.model.filepath"}

// Files lists the files of an artifact: its layers.
func (a *Artifact) Files() (list []File, err error) {
	seen := map[string]bool{}
	for _, l := range a.Manifest.Layers {
		name := ""
		for _, t := range titles {
			name = cmp.Or(name, l.Annotations[t])
		}
		name = filepath.Clean(cmp.Or(name, "sha256-"+l.Digest.Encoded()))
		switch {
		case !filepath.IsLocal(name) || name == "." || strings.ContainsRune(name, 0):
			return nil, errs.Invalid("artifact %s has a file %q, which would lie outside", a.ID, name)
		case seen[name]:
			return nil, errs.Invalid("artifact %s has two files %q", a.ID, name)
		}
		seen[name] = true
		list = append(list, File{Name: name, Path: blob(a.dir, l.Digest)})
	}
	return list, nil
}

// maxProfile bounds what Profile reads.
const maxProfile = 4 << 20

// Profile is the content of an artifact that is one small file: its first layer or, if
// it has none, its configuration. What is not there is pulled.
func (s *Store) Profile(ctx context.Context, ref string) ([]byte, error) {
	id, err := s.opts.Bring(ctx, ref)
	if err != nil {
		return nil, err
	}
	a, err := s.Find(id)
	if err != nil {
		return nil, err
	}
	d := a.blobs()[min(1, len(a.Manifest.Layers))]
	if d.Size > maxProfile {
		return nil, errs.Invalid("artifact %s is no profile: its file has %d bytes, %d are the most", ref, d.Size, maxProfile)
	}
	data, err := os.ReadFile(blob(a.dir, d.Digest))
	if err == nil && digest.FromBytes(data) != d.Digest {
		err = errs.Precondition("its blob %s is damaged; remove it and pull it again", d.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read artifact %s: %w", ref, err)
	}
	return data, nil
}
