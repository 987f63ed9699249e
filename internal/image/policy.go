package image

import (
	"context"
	"errors"
	"slices"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image/trust"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/storage"
)

// Allow checks that the policy for a namespace accepts an image of the store, which may
// have been pulled under another one's. wanted is what the user called it; empty if
// that is not known. Where no namespace has a policy of its own, what was pulled runs.
func (s *Service) Allow(ctx context.Context, id, wanted, namespace string) error {
	r := s.rules.Load()
	if own, err := r.policies().Namespaces(); err != nil || len(own) == 0 {
		return err
	}
	p, err := r.policies().Of(namespace)
	if err != nil {
		return err
	}
	var (
		names   []string
		digests []digest.Digest
		judge   func(n reference.Named) error
	)
	if img, err := s.store.Image(id); err == nil {
		names, digests = img.Names, img.Digests
		judge = func(n reference.Named) error { return s.judge(ctx, p, img, n) }
	} else if a, err := s.findArtifact(id); err == nil {
		names, digests = a.Names, []digest.Digest{digest.NewDigestFromEncoded(digest.SHA256, id)}
		judge = func(n reference.Named) error { return s.judgeArtifact(ctx, p, a, n) }
	} else {
		return errs.NotFound("image", id)
	}
	for _, n := range s.names(names, digests, wanted) {
		e := judge(n)
		if e == nil {
			return nil
		}
		err = errors.Join(err, e)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errs.Errorf(errs.KindDenied, "%.0wthe signature policy of namespace %q refuses image %s: %w", errs.SignatureValidationFailed, namespace, id, err)
}

// names are the names under which an image is to be judged: the one that the user
// wants, if the image bears it, else all of them; a nil one if it has none.
func (s *Service) names(all []string, digests []digest.Digest, wanted string) (list []reference.Named) {
	for _, name := range all {
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			list = append(list, n)
		}
	}
	if meant, err := s.parse(wanted); err == nil {
		var own []reference.Named
		for _, m := range meant {
			d, digested := m.(reference.Digested)
			if slices.ContainsFunc(list, func(n reference.Named) bool {
				return n.String() == m.String() || digested && n.Name() == m.Name() && slices.Contains(digests, d.Digest())
			}) {
				own = append(own, m)
			}
		}
		if len(own) > 0 {
			return own
		}
	}
	if len(list) == 0 {
		return []reference.Named{nil}
	}
	return list
}

// judge holds an image of the store against a policy as if it came from the registry
// of a name.
func (s *Service) judge(ctx context.Context, p *signature.Policy, img *storage.Image, n reference.Named) error {
	needs, err := trust.Requirements(p, n)
	if err != nil {
		return err
	}
	// Signatures are of this machine's manifest, not of the index that a name may mean.
	if _, ok := n.(reference.Digested); ok {
		if n, err = reference.WithDigest(reference.TrimNamed(n), img.BigDataDigests[storage.ImageDigestBigDataKey]); err != nil {
			return err
		}
	}
	ref, err := istorage.Transport.NewStoreReference(s.store, n, img.ID)
	if err != nil {
		return err
	}
	return trust.Allowed(ctx, needs, ref, s.sys(nil))
}
