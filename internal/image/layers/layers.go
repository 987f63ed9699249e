// Package layers puts the layers of an image into the store.
//
// The image library's copy decompresses each layer twice: once to check it and once to
// unpack it, which is half of a pull's processor time. So the layers are fetched
// here first, checked while they are unpacked, and then found by the library, which
// does the rest: configuration, manifest, signatures, names. What is unusual in any
// way is left to it altogether.
package layers

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

// Report hears how far the layers are.
type Report interface {
	// Expect tells an image's layers; those of missing are to be fetched.
	Expect(all, missing []types.BlobInfo)
	// Moved tells of bytes, as the image library does.
	Moved(types.ProgressProperties)
	Unpacking(digest.Digest)
	Done(digest.Digest)
}

// Job is an image to fetch.
type Job struct {
	// Store is asked for layers, Durable gets those that are missing.
	Store, Durable storage.Store
	Source         types.ImageSource
	Image          *image.UnparsedImage // for this machine; nil: nothing is fetched
	Policy         *signature.PolicyContext
	System         *types.SystemContext
	Temp           string // folder for temporary files
	// Local sources are read in place; others several layers at a time into files.
	Local  bool
	Report Report
}

// fetcher fetches the layers of one image.
type fetcher struct {
	Job
	dir    string
	layers []*layer
}

// Fetch puts the layers of an image into the store, if the policy accepts it.
func (j Job) Fetch(ctx context.Context) error {
	if j.Store.PullOptions()["enable_partial_images"] == "true" {
		return nil // the library knows how to fetch parts of layers
	}
	list, err := plan(ctx, j.Image, j.Policy, j.System)
	if err != nil || len(list) == 0 {
		return err
	}
	f := &fetcher{Job: j, layers: j.missing(list)}
	j.Report.Expect(blobs(list), blobs(f.layers))
	if len(f.layers) == 0 {
		return nil
	}
	if j.Local {
		return f.inPlace(ctx)
	}
	if f.dir, err = os.MkdirTemp(j.Temp, "layers-"); err != nil {
		return err
	}
	defer os.RemoveAll(f.dir)
	return f.run(ctx)
}

func blobs(list []*layer) (out []types.BlobInfo) {
	for _, l := range list {
		out = append(out, l.blob)
	}
	return out
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
func (j *Job) missing(list []*layer) []*layer {
	var out []*layer
	for _, l := range list {
		if _, err := j.Store.Layer(l.id); err == nil {
			continue
		}
		if same, err := j.Store.LayersByUncompressedDigest(l.diffID); err == nil && len(same) > 0 {
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
		f.Report.Unpacking(l.blob.Digest)
		if err := f.unpackFile(ctx, l); err != nil {
			return err
		}
		f.Report.Done(l.blob.Digest)
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
	f.Report.Moved(types.ProgressProperties{Event: types.ProgressEventNewArtifact, Artifact: l.blob})
	in, _, err := f.Source.GetBlob(ctx, l.blob, none.NoCache)
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
		f.Report.Moved(types.ProgressProperties{Event: types.ProgressEventRead, Artifact: l.blob, Offset: uint64(size), OffsetUpdate: uint64(n)})
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	f.Report.Moved(types.ProgressProperties{Event: types.ProgressEventDone, Artifact: l.blob, Offset: uint64(size)})
	if err := f.same(l, sum, size); err != nil {
		return err
	}
	return out.Close()
}

// same compares what came of a layer with what was announced.
func (j *Job) same(l *layer, sum hash.Hash, size int64) error {
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.blob.Digest.String() || size != l.blob.Size {
		return j.unusable("layer %s came with %d bytes of digest %s, not %d", l.blob.Digest, size, got, l.blob.Size)
	}
	return nil
}

func (j *Job) unusable(format string, args ...any) error {
	if j.Local {
		return errs.Errorf(errs.KindUnavailable, "it is damaged; copy it again: "+format, args...)
	}
	return errs.Errorf(errs.KindUnavailable, "what the registry sends cannot be used; pull again, or push the image again: "+format, args...)
}

// inPlace unpacks one layer after the other as they are read.
func (f *fetcher) inPlace(ctx context.Context) error {
	for _, l := range f.layers {
		f.Report.Moved(types.ProgressProperties{Event: types.ProgressEventNewArtifact, Artifact: l.blob})
		in, _, err := f.Source.GetBlob(ctx, l.blob, none.NoCache)
		if err != nil {
			return err
		}
		counted := &counted{in: in, layer: l, sum: sha256.New(), job: &f.Job}
		err = f.unpack(ctx, l, counted, counted.check)
		in.Close()
		if err != nil {
			return err
		}
		f.Report.Done(l.blob.Digest)
	}
	return nil
}

// counted is a layer that is read in place.
type counted struct {
	in    io.Reader
	layer *layer
	sum   hash.Hash
	size  int64
	job   *Job
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.sum.Write(p[:n])
	c.size += int64(n)
	c.job.Report.Moved(types.ProgressProperties{Event: types.ProgressEventRead, Artifact: c.layer.blob, Offset: uint64(c.size), OffsetUpdate: uint64(n)})
	return n, err
}

// check reads to the end, of which the archive needs not all, and compares.
func (c *counted) check() error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	return c.job.same(c.layer, c.sum, c.size)
}

// unpackFile unpacks a fetched layer.
func (f *fetcher) unpackFile(ctx context.Context, l *layer) error {
	file, err := os.Open(l.file)
	if err != nil {
		return err
	}
	defer file.Close()
	return f.unpack(ctx, l, file, func() error { return nil }) // it was checked when it came
}

// unpack puts a layer into the store, where it becomes visible only if its
// content is what the configuration promises; sound is asked at its end.
func (f *fetcher) unpack(ctx context.Context, l *layer, from io.Reader, sound func() error) error {
	content, err := archive.DecompressStream(from)
	if err != nil {
		return f.unusable("layer %s: %w", l.blob.Digest, err)
	}
	defer content.Close()
	in := &checked{ctx: ctx, in: content, sum: sha256.New(), layer: l, job: &f.Job, sound: sound}
	_, _, err = f.Durable.PutLayer(l.id, l.parent, nil, "", false, &storage.LayerOptions{
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
	ctx   context.Context
	in    io.Reader
	sum   hash.Hash
	layer *layer
	job   *Job
	sound func() error
	err   error
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
		return n, nil
	case !errors.Is(err, io.EOF):
		c.err = c.job.unusable("layer %s cannot be decompressed: %w", c.layer.blob.Digest, err)
	case digest.NewDigest(digest.Canonical, c.sum) != c.layer.diffID:
		c.err = c.job.unusable("layer %s does not have the content of digest %s", c.layer.blob.Digest, c.layer.diffID)
	default:
		c.err = c.sound()
	}
	if c.err != nil {
		return n, c.err
	}
	return n, err
}
