// Package image pulls images, finds and lists them, and removes them.
//
// Registries, manifests, signatures and credentials are the business of the
// libraries under go.podman.io/image; which of their files count (registries.conf,
// policy.json, auth.json, certs.d) is said in the options. What this package adds:
// one normal form of references, one pull at a time for all who ask for the same
// image, errors with kinds, and nothing left of a pull that failed.
//
// It is the only importer of that library. It knows no pod.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/errs"
	own "github.com/monocrio/monocrio/internal/storage"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// Options are the files and rules of the image service. Empty paths mean the
// system's default places.
type Options struct {
	Store *own.Store
	// Artifacts is where artifacts are; nil: they are not known.
	Artifacts   *artifact.Store
	BigFilesDir string
	Rules       Rules
	// Outside, if not nil, does pulls in cgroups of their own.
	Outside Outside
	// Media, if not nil, are images that come by files.
	Media Media
	// OnPull, if set, hears of each pull that has ended; it must not block.
	OnPull func(p Progress, err error)
	Log    *slog.Logger
}

// Service is the image service.
type Service struct {
	opts    Options
	rules   atomic.Pointer[Rules]
	store   storage.Store
	durable storage.Store // the same, for what must be on the disk: pulls

	temp   string       // folder of temporary files
	stale  []string     // what an earlier daemon left
	active sync.RWMutex // held for reading by pulls, for writing to collect layers
	full   atomic.Bool  // a pull met a full disk

	busy sync.WaitGroup // pulls and what they clean up
	ctx  context.Context
	end  context.CancelCauseFunc

	mu      sync.Mutex
	pulls   map[string]*Pull   // in flight, by key
	ended   []Progress         // the last ones, oldest first
	configs map[string]*detail // by image id; contents never change under one id
}

// detail is what is read from an image's own files.
type detail struct {
	config      v1.Image
	size        int64
	annotations map[string]string
}

// Image is one image of the store.
type Image struct {
	ID                    string // of the configuration, hexadecimal
	RepoTags, RepoDigests []string
	Size                  uint64 // bytes of its layers, unpacked
	Platform              string // OS/ARCHITECTURE[/VARIANT]
	Config                v1.ImageConfig
	Created               time.Time
	Pinned                bool
	Annotations           map[string]string // of its manifest
	Artifact              bool              // nothing can run in it
}

// Usage is what files take on one file system.
type Usage = own.Usage

// New makes the service over an open store.
func New(o Options) *Service {
	s := &Service{opts: o, store: o.Store.Raw(), durable: o.Store.Durable(), pulls: map[string]*Pull{}, configs: map[string]*detail{}}
	s.rules.Store(&o.Rules)
	s.ctx, s.end = context.WithCancelCause(context.Background())
	s.temp = s.tempDir()
	entries, _ := os.ReadDir(s.temp)
	for _, e := range entries {
		s.stale = append(s.stale, filepath.Join(s.temp, e.Name()))
	}
	s.stale = append(s.stale, o.Rules.staleLogins()...)
	return s
}

// Close ends the pulls in flight, lets none begin any more, and waits until their temporary files are gone; at
// most for closeTime, as a layer that is being unpacked cannot be stopped.
func (s *Service) Close() {
	s.mu.Lock()
	s.end(errs.Unavailable("the daemon ends; pull again"))
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.busy.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeTime):
		s.opts.Log.Warn("a pull does not end in time")
	}
}

const closeTime = 5 * time.Second

// Find looks an image up by name, by name and digest, by id or by the beginning of
// an id. The kind of the error is NotFound if there is none, or if it is damaged: a
// pull repairs it. It never pulls.
func (s *Service) Find(ctx context.Context, ref string) (Image, error) {
	img, err := s.lookup(ref)
	if errs.Is(err, errs.KindNotFound) {
		a, err := s.findArtifact(ref)
		if err != nil {
			return Image{}, err
		}
		return s.asImage(a), nil
	}
	if err != nil {
		return Image{}, err
	}
	i, err := s.describe(ctx, img)
	if err != nil && ctx.Err() == nil {
		s.opts.Log.Warn("an image of the store is damaged", "image", img.ID, "err", err)
		return Image{}, errs.Errorf(errs.KindNotFound, "image %q is damaged, pull it again: %w", ref, err)
	}
	return i, err
}

func (s *Service) lookup(ref string) (*storage.Image, error) {
	if ref == "" {
		return nil, errs.Invalid("the image reference is empty")
	}
	id, isID := isID(ref)
	if isID && len(id) == 64 { // nothing else can be called so
		if img, err := s.store.Image(id); err == nil && img.ID == id {
			return img, nil
		}
		return nil, errs.NotFound("image", ref)
	}
	img, err := s.byName(ref)
	if isID && errs.Is(err, errs.KindNotFound) {
		if img, err := s.store.Image(id); err == nil && strings.HasPrefix(img.ID, id) {
			return img, nil
		}
	}
	return img, err
}

func (s *Service) byName(ref string) (*storage.Image, error) {
	names, err := s.parse(ref)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		r, err := istorage.Transport.NewStoreReference(s.store, n, "")
		if err != nil {
			return nil, errs.Invalid("cannot look up image %q: %w", ref, err)
		}
		_, img, err := istorage.ResolveReference(r)
		switch {
		case err == nil:
			return img, nil
		case !errors.Is(err, istorage.ErrNoSuchImage) && !errors.Is(err, storage.ErrImageUnknown):
			return nil, fmt.Errorf("cannot look up image %q: %w", ref, err)
		}
	}
	return nil, errs.NotFound("image", ref)
}

// List returns all images of the store that can be read; a damaged one is logged
// and passed over.
func (s *Service) List(ctx context.Context) ([]Image, error) {
	all, err := s.store.Images()
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	s.forget(all)
	list := make([]Image, 0, len(all))
	for i := range all {
		img, err := s.describe(ctx, &all[i])
		if err != nil {
			s.opts.Log.Warn("an image of the store cannot be read", "image", all[i].ID, "err", err)
			continue
		}
		list = append(list, img)
	}
	return append(list, s.artifacts()...), nil
}

// forget drops what is known of images that are gone.
func (s *Service) forget(all []storage.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.configs) <= len(all) {
		return
	}
	there := make(map[string]bool, len(all))
	for i := range all {
		there[all[i].ID] = true
	}
	maps.DeleteFunc(s.configs, func(id string, _ *detail) bool { return !there[id] })
}

func (s *Service) describe(ctx context.Context, img *storage.Image) (Image, error) {
	d, err := s.detail(ctx, img)
	if err != nil {
		return Image{}, err
	}
	i := Image{ID: img.ID, Size: uint64(d.size), Platform: platform(d.config.Platform), Config: d.config.Config, Created: img.Created, Annotations: d.annotations,
		Pinned: img.ReadOnly} // it takes no place, and cannot go
	i.RepoTags, i.RepoDigests = repoDigests(img.Names, img.Digests)
	if len(img.Names) == 0 && len(img.NamesHistory) > 0 { // its tag moved on: say what it was
		_, i.RepoDigests = repoDigests(img.NamesHistory[:1], img.Digests)
	}
	s.pin(&i)
	return i, nil
}

func (s *Service) pin(i *Image) {
	i.Pinned = i.Pinned || s.opts.Media != nil && s.opts.Media.Keeps(i.ID)
	for _, n := range append(i.RepoTags, i.RepoDigests...) {
		i.Pinned = i.Pinned || pinned(s.rules.Load().Pinned, n)
	}
}

// detail reads configuration and size, once per image.
func (s *Service) detail(ctx context.Context, img *storage.Image) (*detail, error) {
	s.mu.Lock()
	d := s.configs[img.ID]
	s.mu.Unlock()
	if d != nil {
		return d, nil
	}
	ref, err := istorage.Transport.ParseStoreReference(s.store, "@"+img.ID)
	if err != nil {
		return nil, err
	}
	i, err := ref.NewImage(ctx, s.sys(nil))
	if err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", img.ID, err)
	}
	defer i.Close()
	config, err := i.OCIConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of image %s: %w", img.ID, err)
	}
	d = &detail{config: *config, annotations: annotations(ctx, i)}
	if d.size, err = i.Size(); err != nil {
		return nil, fmt.Errorf("cannot tell the size of image %s: %w", img.ID, err)
	}
	s.mu.Lock()
	s.configs[img.ID] = d
	s.mu.Unlock()
	return d, nil
}

func platform(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// annotations are those of an OCI manifest; others have none.
func annotations(ctx context.Context, i types.Image) map[string]string {
	var m struct{ Annotations map[string]string }
	if data, _, err := i.Manifest(ctx); err == nil {
		_ = json.Unmarshal(data, &m) // what is no such manifest has none
	}
	return m.Annotations
}

// Remove deletes an image with all its names; absence is success. The kind of the
// error is Precondition while containers stand on it.
func (s *Service) Remove(_ context.Context, ref string) error {
	img, err := s.lookup(ref)
	if errs.Is(err, errs.KindNotFound) {
		a, err := s.findArtifact(ref)
		if errs.Is(err, errs.KindNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		return s.opts.Artifacts.Remove(a.ID)
	} else if err != nil {
		return err
	}
	if img.ReadOnly {
		return errs.Precondition("cannot remove image %s: it is in a read-only store (additional_image_stores)", ref)
	}
	if users, err := s.opts.Store.Users(img.ID); err != nil {
		return err
	} else if len(users) > 0 {
		return errs.Precondition("cannot remove image %s: %d containers use it, %s among them; remove them first", ref, len(users), users[0])
	}
	switch _, err := s.store.DeleteImage(img.ID, true); {
	case errors.Is(err, storage.ErrImageUsedByContainer), errors.Is(err, storage.ErrLayerUsedByContainer):
		return errs.Precondition("cannot remove image %s: %w; remove it first", ref, err)
	case errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage): // another call was quicker
	case err != nil:
		return fmt.Errorf("cannot remove image %s: %w", ref, err)
	}
	s.mu.Lock()
	delete(s.configs, img.ID)
	s.mu.Unlock()
	return nil
}

// pinned tells whether a name matches one of the patterns: exact, name*, or *word*
// (the last without regard to case).
func pinned(patterns []string, name string) bool {
	for _, p := range patterns {
		switch {
		case p == name, p == bare(name):
			return true
		case len(p) > 2 && strings.HasPrefix(p, "*") && strings.HasSuffix(p, "*"):
			if strings.Contains(strings.ToLower(name), strings.ToLower(strings.Trim(p, "*"))) {
				return true
			}
		case strings.HasSuffix(p, "*") && strings.HasPrefix(name, strings.TrimSuffix(p, "*")):
			return true
		default:
			if ok, err := path.Match(p, name); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// giveBack returns the memory of a pull to the system: compression and transfers
// leave tens of megabytes that an idle daemon should not hold.
func giveBack() { debug.FreeOSMemory() }
