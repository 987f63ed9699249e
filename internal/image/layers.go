package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
)

// The library's copy decompresses each layer twice: once to check it and once to
// unpack it, which is half of a pull's processor time. So the layers are fetched
// here first, checked while they are unpacked, and then found by the library, which
// does the rest: configuration, manifest, signatures, names. What is unusual in any
// way is left to it altogether.

// maxTransfers is how many layers of one image are fetched at the same time.
const maxTransfers = 6

// layer is one layer to fetch.
type layer struct {
	blob       types.BlobInfo
	diffID     digest.Digest // of its content, decompressed
	id, parent string        // in the store
	file       string
	fetched    chan struct{} // closed when file is complete or the fetch has failed
}

// fetcher fetches the layers of one image.
type fetcher struct {
	store  storage.Store
	src    types.ImageSource
	dir    string
	pull   *Pull
	layers []*layer
}

// fetchLayers puts the layers of an image into the store, if the policy accepts it.
func (s *Service) fetchLayers(ctx context.Context, p *Pull, from source, policy *signature.PolicyContext, sys *types.SystemContext) error {
	if s.store.PullOptions()["enable_partial_images"] == "true" {
		return nil // the library knows how to fetch parts of layers
	}
	list, err := plan(ctx, from.image, policy, sys)
	if err != nil || len(list) == 0 {
		return err
	}
	f := &fetcher{store: s.durable, src: from.src, pull: p, layers: s.missing(list)}
	p.expect(list, f.layers)
	if len(f.layers) == 0 {
		return nil
	}
	if f.dir, err = os.MkdirTemp(s.temp, "layers-"); err != nil {
		return err
	}
	defer os.RemoveAll(f.dir)
	return f.run(ctx)
}

// plan lists the layers of an image that the policy accepts; none if it is unusual
// or cannot be read, which the library shall judge.
func plan(ctx context.Context, unparsed *image.UnparsedImage, policy *signature.PolicyContext, sys *types.SystemContext) ([]*layer, error) {
	if unparsed == nil {
		return nil, ctx.Err()
	}
	if ok, err := policy.IsRunningImageAllowed(ctx, unparsed); !ok {
		return nil, err
	}
	img, err := image.FromUnparsedImage(ctx, sys, unparsed)
	if err != nil {
		return nil, ctx.Err()
	}
	config, err := img.OCIConfig(ctx)
	if err != nil || config.OS != "linux" {
		return nil, ctx.Err()
	}
	infos, ids := img.LayerInfos(), config.RootFS.DiffIDs
	if len(infos) != len(ids) {
		return nil, nil
	}
	list, parent := make([]*layer, len(ids)), ""
	for i, id := range ids {
		if !usual(infos[i]) || id.Validate() != nil || id.Algorithm() != digest.Canonical {
			return nil, nil
		}
		list[i] = &layer{blob: infos[i], diffID: id, id: chainID(parent, id), parent: parent, fetched: make(chan struct{})}
		parent = list[i].id
	}
	return list, nil
}

func usual(b types.BlobInfo) bool {
	switch b.MediaType {
	case v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd,
		manifest.DockerV2SchemaLayerMediaTypeUncompressed, manifest.DockerV2Schema2LayerMediaType:
		return b.Digest.Validate() == nil && b.Digest.Algorithm() == digest.Canonical && b.Size >= 0 && len(b.URLs) == 0
	}
	return false
}

// chainID is the name of a layer in the store, the same that other programs with
// the library give it.
func chainID(parent string, id digest.Digest) string {
	if parent == "" {
		return id.Encoded()
	}
	return digest.Canonical.FromString(parent + "+" + id.Encoded()).Encoded()
}

// missing leaves out the layers that are there, and all from the first on whose
// content is there under another parent: the library copies that.
func (s *Service) missing(list []*layer) []*layer {
	var out []*layer
	for _, l := range list {
		if _, err := s.store.Layer(l.id); err == nil {
			continue
		}
		if same, err := s.store.LayersByUncompressedDigest(l.diffID); err == nil && len(same) > 0 {
			break
		}
		out = append(out, l)
	}
	return out
}

// run fetches several layers at a time and unpacks them one after the other.
func (f *fetcher) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil)
	slots := make(chan struct{}, maxTransfers)
	all.Go(func() {
		for i, l := range f.layers {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				defer close(l.fetched)
				l.file = filepath.Join(f.dir, strconv.Itoa(i))
				if err := f.fetch(ctx, l); err != nil {
					cancel(err)
				}
			})
		}
	})
	for _, l := range f.layers {
		<-l.fetched
		if err := context.Cause(ctx); err != nil {
			return err
		}
		f.pull.reach(l.blob.Digest, Unpacking)
		if err := f.unpack(ctx, l); err != nil {
			return err
		}
		f.pull.reach(l.blob.Digest, Done)
		if err := os.Remove(l.file); err != nil {
			return err
		}
	}
	return nil
}

// fetch writes a layer into a file as it comes, checking its digest.
func (f *fetcher) fetch(ctx context.Context, l *layer) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.pull.events <- types.ProgressProperties{Event: types.ProgressEventNewArtifact, Artifact: l.blob}
	in, _, err := f.src.GetBlob(ctx, l.blob, none.NoCache)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(l.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	sum, buf, size := sha256.New(), make([]byte, 256<<10), int64(0)
	for {
		n, err := in.Read(buf)
		sum.Write(buf[:n])
		if _, e := out.Write(buf[:n]); e != nil {
			return e
		}
		size += int64(n)
		f.pull.events <- types.ProgressProperties{Event: types.ProgressEventRead, Artifact: l.blob, Offset: uint64(size), OffsetUpdate: uint64(n)}
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	f.pull.events <- types.ProgressProperties{Event: types.ProgressEventDone, Artifact: l.blob, Offset: uint64(size)}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.blob.Digest.String() || size != l.blob.Size {
		return unusable("layer %s came with %d bytes of digest %s, not %d", l.blob.Digest, size, got, l.blob.Size)
	}
	return out.Close()
}

func unusable(format string, args ...any) error {
	return errs.Errorf(errs.KindUnavailable, "what the registry sends cannot be used; pull again, or push the image again: "+format, args...)
}

// unpack puts a fetched layer into the store, where it becomes visible only if its
// content is what the configuration promises.
func (f *fetcher) unpack(ctx context.Context, l *layer) error {
	file, err := os.Open(l.file)
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := archive.DecompressStream(file)
	if err != nil {
		return unusable("layer %s: %w", l.blob.Digest, err)
	}
	defer content.Close()
	in := &checked{ctx: ctx, in: content, sum: sha256.New(), want: l.diffID, blob: l.blob.Digest}
	_, _, err = f.store.PutLayer(l.id, l.parent, nil, "", false, &storage.LayerOptions{
		OriginalDigest: l.blob.Digest, OriginalSize: &l.blob.Size, UncompressedDigest: l.diffID,
	}, in)
	switch {
	case errors.Is(err, storage.ErrDuplicateID): // another pull was faster
		return nil
	case err != nil && in.err != nil:
		return in.err
	case err != nil:
		return fmt.Errorf("cannot unpack layer %s: %w", l.blob.Digest, err)
	}
	return nil
}

// checked is a stream that ends with an error instead of io.EOF if its digest is
// not what it should be.
type checked struct {
	ctx        context.Context
	in         io.Reader
	sum        hash.Hash
	want, blob digest.Digest
	err        error
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err == nil && c.ctx.Err() != nil {
		c.err = context.Cause(c.ctx)
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.in.Read(p)
	c.sum.Write(p[:n])
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
		c.err = unusable("layer %s cannot be decompressed: %w", c.blob, err)
		return n, c.err
	case digest.NewDigest(digest.Canonical, c.sum) != c.want:
		c.err = unusable("layer %s does not have the content of digest %s", c.blob, c.want)
		return n, c.err
	}
	return n, err
}
