package image

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image/medium"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
)

// Media are the images that come by files on this machine (package preload).
type Media interface {
	// Await returns when what may have one of the names, as it is written in full, has
	// been imported. unread: also what has not been read yet.
	Await(ctx context.Context, names []string, unread bool) error
	// Keeps tells whether an image came so and must not be collected.
	Keeps(id string) bool
}

// await lets imports of what is wanted end first. Offline there is nobody to ask then.
func (s *Service) await(ctx context.Context, ref string, names []reference.Named) (id string, offline bool, err error) {
	offline = s.rules.Load().Offline
	if s.opts.Media != nil {
		var full []string
		for _, n := range names {
			full = append(full, n.String())
		}
		if err := s.opts.Media.Await(ctx, full, offline); err != nil {
			return "", offline, fmt.Errorf("image %s is still to be imported: %w", ref, err)
		}
	}
	if !offline {
		return "", false, nil
	}
	i, err := s.Find(ctx, ref)
	if errs.Is(err, errs.KindNotFound) {
		return "", true, errs.Errorf(errs.KindNotFound, "cannot pull %s: this node is offline ([crio.image] offline = true), and neither the image store nor images_dir has %s", ref, names[0])
	}
	return i.ID, true, err
}

// Medium opens a folder or file with images; the caller closes it.
func (s *Service) Medium(ctx context.Context, path string) (*medium.Medium, error) {
	if err := s.makeTempDir(); err != nil {
		return nil, err
	}
	m, err := medium.Open(ctx, path, s.temp, s.sys(nil))
	return m, fileError(err)
}

// Import puts an image of a medium into the store, if it is not there, and gives it its
// names. path is where it is, for policies and people. The kind of the error is
// Unimplemented for an image for other machines than this one.
func (s *Service) Import(ctx context.Context, path string, i medium.Image) (id string, copied bool, err error) {
	names := i.FullNames()
	fail := func(err error) (string, bool, error) {
		return "", false, fmt.Errorf("cannot import %s from %s: %w", i.Names[0], path, fileError(err))
	}
	id, isArtifact, err := s.identify(ctx, i)
	if err != nil {
		return fail(err)
	}
	// A name that is not there yet is for the policy to judge, as in a pull.
	if there, err := s.bears(ctx, id, names, isArtifact); there || err != nil {
		return id, false, err
	}
	job := Job{Rules: *s.rules.Load()}
	p, _ := s.join(i.Names[0].String(), fmt.Sprintf("%q %q", path, names), func(p *Pull) (string, error) {
		p.mu.Lock()
		p.local, p.hosts = true, []string{path}
		p.mu.Unlock()
		err := s.makeTempDir()
		for n := 0; n < len(i.Names) && err == nil; n++ {
			if n == 0 || isArtifact {
				id, err = s.copyLocal(p, i, i.Names[n], &job)
			}
		}
		if err == nil && !isArtifact {
			err = s.store.AddNames(id, names[1:])
		}
		return id, err
	})
	<-p.done
	if p.err != nil {
		return fail(p.err)
	}
	s.opts.Log.Info("imported", "image", i.Names[0].String(), "id", p.id, "from", path, "dur", time.Since(p.Started))
	return p.id, true, nil
}

// copyLocal is a pull from a file.
func (s *Service) copyLocal(p *Pull, i medium.Image, n reference.Named, j *Job) (string, error) {
	policy, err := j.policyContext()
	if err != nil {
		return "", err
	}
	defer func() { _ = policy.Destroy() }()
	return s.transfer(p, 0, func(ctx context.Context) (string, error) {
		return s.copyFrom(ctx, p, source{opened: opened{ImageReference: i.ImageReference}, name: n, job: j, local: true}, policy, s.sys(nil))
	})
}

// identify tells the id that an image of a medium has in the store.
func (s *Service) identify(ctx context.Context, i medium.Image) (id string, artifact bool, err error) {
	sys := s.sys(nil)
	src, err := i.NewImageSource(ctx, sys)
	if err != nil {
		return "", false, err
	}
	defer src.Close()
	u, err := unparsed(ctx, src, sys)
	if err != nil {
		return "", false, err
	}
	data, mediaType, err := u.Manifest(ctx)
	if err != nil {
		return "", false, err
	}
	if isArtifact(data, mediaType) {
		return digest.FromBytes(data).Encoded(), true, nil
	}
	img, err := image.FromUnparsedImage(ctx, sys, u)
	if err != nil {
		return "", false, err
	}
	config, err := img.OCIConfig(ctx)
	if err != nil {
		return "", false, err
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH {
		return "", false, errs.Unimplemented("it is for %s, and this machine is linux/%s", platform(config.Platform), runtime.GOARCH)
	}
	return img.ConfigInfo().Digest.Encoded(), false, nil
}

// bears tells whether an image is there, sound, and has all the names.
func (s *Service) bears(ctx context.Context, id string, names []string, artifact bool) (bool, error) {
	if artifact {
		a, err := s.findArtifact(id)
		return err == nil && !slices.ContainsFunc(names, func(n string) bool { return !a.Is(n) }), nil
	}
	img, err := s.store.Image(id)
	if err != nil || img.ID != id || slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(img.Names, n) }) {
		return false, nil
	}
	if _, err := s.describe(ctx, img); err != nil {
		return false, ctx.Err()
	}
	return true, nil
}

// fileError gives an error about a medium its kind and its remedy.
func fileError(err error) error {
	known, _ := knownError(err)
	return known
}
