package artifact

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Files of the folder in which an artifact is fetched; blobs are named by their digests
// in hexadecimal.
const (
	stagePrefix = ".pull-"
	Manifest    = "manifest.json"
	Signature   = "signature-" // and a number
	signatures  = "signatures"
)

// Stage makes the folder in which an artifact is fetched, on the store's disk. Whoever
// asked removes it.
func (s *Store) Stage() (dir string, err error) {
	if err := os.MkdirAll(filepath.Join(s.opts.Root, v1.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return "", fmt.Errorf("cannot make the store of artifacts: %w", err)
	}
	return os.MkdirTemp(s.opts.Root, stagePrefix)
}

// Add makes an artifact that was fetched into dir part of the store under a full name,
// which no other one keeps. Its blobs must be on the disk.
func (s *Store) Add(name, dir string) (id string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("cannot keep artifact %s: %w", name, err) }
	data, err := os.ReadFile(filepath.Join(dir, Manifest))
	if err != nil {
		return fail(err)
	}
	d := digest.FromBytes(data)
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fail(err)
	}
	unlock, err := s.lock()
	if err != nil {
		return fail(err)
	}
	defer unlock()
	a := Artifact{Manifest: m}
	for _, b := range a.blobs() {
		if err := s.adopt(dir, b); err != nil {
			return fail(err)
		}
	}
	if err := s.adoptSignatures(dir, d.Encoded()); err != nil {
		return fail(err)
	}
	// The blobs' names are on the disk when this returns, as it syncs their folder.
	if err := fsx.WriteFile(blob(s.opts.Root, d), data, 0o644, fsx.Power); err != nil {
		return fail(err)
	}
	index, err := indexOf(s.opts.Root)
	if err != nil {
		return fail(err)
	}
	index.Manifests = append(without(index.Manifests, name, d), v1.Descriptor{MediaType: v1.MediaTypeImageManifest, ArtifactType: m.ArtifactType,
		Digest: d, Size: int64(len(data)), Annotations: map[string]string{v1.AnnotationRefName: name}})
	if err := s.write(index); err != nil {
		return fail(err)
	}
	return d.Encoded(), nil
}

// adopt moves a blob to where it belongs.
func (s *Store) adopt(dir string, b v1.Descriptor) error {
	if err := usable(b.Digest); err != nil {
		return err
	}
	from, to := filepath.Join(dir, b.Digest.Encoded()), blob(s.opts.Root, b.Digest)
	err := os.Rename(from, to)
	if errors.Is(err, fs.ErrNotExist) { // two descriptors may name one blob
		_, err = os.Stat(to)
	}
	return err
}

// adoptSignatures replaces the signatures of a manifest.
func (s *Store) adoptSignatures(dir, id string) error {
	to := filepath.Join(s.opts.Root, signatures, id)
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(dir, Signature+"*"))
	if err != nil || len(list) == 0 {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, from := range list {
		data, err := os.ReadFile(from)
		if err == nil {
			err = fsx.WriteFile(filepath.Join(to, filepath.Base(from)), data, 0o644, fsx.Power)
		}
		if err != nil {
			return err
		}
	}
	return fsx.SyncDir(filepath.Dir(to))
}

// Signatures are those that came with an artifact, in the form in which Add found them.
func (a *Artifact) Signatures() (list [][]byte, err error) {
	files, err := filepath.Glob(filepath.Join(a.dir, signatures, a.ID, Signature+"*"))
	sort.Slice(files, func(i, j int) bool {
		return len(files[i]) < len(files[j]) || len(files[i]) == len(files[j]) && files[i] < files[j]
	})
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		list = append(list, data)
	}
	return list, err
}

// without takes a name from all manifests, as d is to have it. One that is left without
// a name keeps its repository and its digest, so that it can be found and removed.
func without(list []v1.Descriptor, name string, d digest.Digest) (out []v1.Descriptor) {
	for _, m := range list {
		if m.Annotations[v1.AnnotationRefName] != name {
			out = append(out, m)
			continue
		}
		other := slices.ContainsFunc(list, func(o v1.Descriptor) bool {
			return o.Digest == m.Digest && o.Annotations[v1.AnnotationRefName] != name
		})
		if m.Digest != d && !other {
			m.Annotations = map[string]string{v1.AnnotationRefName: repository(name) + "@" + m.Digest.String()}
			out = append(out, m)
		}
	}
	return out
}

// Untag takes a name from the artifact that bears it, if there is one.
func (s *Store) Untag(name string) error {
	if index, err := indexOf(s.opts.Root); err != nil || !named(index, name) {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	index, err := indexOf(s.opts.Root)
	if err != nil || !named(index, name) {
		return err
	}
	index.Manifests = without(index.Manifests, name, "")
	return s.write(index)
}

func named(index v1.Index, name string) bool {
	return slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == name })
}

// Remove deletes an artifact with all its names; absence is success. The kind of the
// error is Precondition while containers have it mounted, and for one that is only in a
// layout of others.
func (s *Store) Remove(id string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	index, err := indexOf(s.opts.Root)
	if err != nil {
		return err
	}
	before := len(index.Manifests)
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == digest.Digest("sha256:"+id) })
	if len(index.Manifests) == before {
		if a, err := s.Find(id); err == nil {
			return errs.Precondition("cannot remove artifact %s: it is in %s, which is only read", id, a.dir)
		}
		return nil
	}
	if users := s.users(id); len(users) > 0 {
		return errs.Precondition("cannot remove artifact %s: %d volumes of containers use it, %s among them; remove the containers first", id, len(users), users[0])
	}
	if err := s.write(index); err != nil {
		return fmt.Errorf("cannot remove artifact %s: %w", id, err)
	}
	return s.sweep()
}

// write replaces the index.
func (s *Store) write(index v1.Index) error {
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, v1.MediaTypeImageIndex
	if index.Manifests == nil {
		index.Manifests = []v1.Descriptor{}
	}
	layout, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	file := filepath.Join(s.opts.Root, v1.ImageLayoutFile)
	if _, err := os.Stat(file); err != nil {
		err := fsx.WriteFile(file, layout, 0o644, fsx.Power)
		for _, dir := range []string{filepath.Join(s.opts.Root, v1.ImageBlobsDir), filepath.Dir(s.opts.Root)} { // which are new too
			if err == nil {
				err = fsx.SyncDir(dir)
			}
		}
		if err != nil {
			return err
		}
	}
	return fsx.WriteFile(filepath.Join(s.opts.Root, v1.ImageIndexFile), data, 0o644, fsx.Power)
}

// Collect deletes what was fetched by an earlier daemon that was killed, and what belongs
// to no artifact. Only a daemon that owns its state may call it.
func (s *Store) Collect() error {
	if _, err := os.Stat(s.opts.Root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, dir := range s.stale {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	s.stale = nil
	return errors.Join(err, s.sweep())
}

// sweep deletes blobs and signatures that no artifact has. The caller holds the lock:
// under it blobs and index change together.
func (s *Store) sweep() error {
	index, err := indexOf(s.opts.Root)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, d := range index.Manifests {
		if err := s.mark(d.Digest, used); err != nil { // nobody knows what belongs to it
			return fmt.Errorf("cannot tell which blobs of artifacts are used: %w", err)
		}
	}
	for _, dir := range []string{filepath.Join(v1.ImageBlobsDir, "sha256"), signatures} {
		entries, _ := os.ReadDir(filepath.Join(s.opts.Root, dir))
		for _, e := range entries {
			// What begins with a dot may be of others; what WriteFile was writing when we
			// were killed is ours, as nobody writes now.
			ours := !strings.HasPrefix(e.Name(), ".") || strings.HasSuffix(e.Name(), ".tmp")
			if !used[e.Name()] && ours {
				err = errors.Join(err, os.RemoveAll(filepath.Join(s.opts.Root, dir, e.Name())))
			}
		}
	}
	return err
}

// mark notes the blobs of a manifest, or of an index of manifests that others made.
func (s *Store) mark(d digest.Digest, used map[string]bool) error {
	if usable(d) != nil || used[d.Encoded()] {
		return nil
	}
	data, err := os.ReadFile(blob(s.opts.Root, d))
	if errors.Is(err, fs.ErrNotExist) { // nothing can be found by it any more
		return nil
	}
	var m struct {
		Config            v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d, err)
	}
	used[d.Encoded()] = true
	for _, b := range append(m.Layers, m.Config) {
		if usable(b.Digest) == nil {
			used[b.Digest.Encoded()] = true
		}
	}
	for _, child := range m.Manifests {
		if err := s.mark(child.Digest, used); err != nil {
			return err
		}
	}
	return nil
}

// lock keeps others from changing the layout: those of this process, and other ones.
func (s *Store) lock() (unlock func(), err error) {
	s.mu.Lock()
	if err := os.MkdirAll(s.opts.Root, 0o755); err != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("cannot make the store of artifacts: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.opts.Root, "index.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		for {
			err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if err != nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("cannot lock the store of artifacts: %w", errors.Join(err, f.Close()))
	}
	return func() { f.Close(); s.mu.Unlock() }, nil
}

// Usage is what the artifacts of the store take on its disk.
func (s *Store) Usage() (bytes, inodes uint64) {
	_ = filepath.WalkDir(s.opts.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what vanishes meanwhile takes nothing
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			bytes, inodes = bytes+uint64(st.Blocks)*512, inodes+1
		}
		return nil
	})
	return bytes, inodes
}
