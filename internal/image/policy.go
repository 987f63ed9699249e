package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/storage"
)

// policyOf is the signature policy for the pods of a namespace: its own if it has one
// in the folder of policies, else the one for all.
func (r *Rules) policyOf(namespace string) (*signature.Policy, error) {
	if r.PolicyDir == "" || namespace == "" {
		return policy(r.sys(nil))
	}
	if err := checkNamespace(namespace); err != nil {
		return nil, err
	}
	p, err := signature.NewPolicyFromFile(filepath.Join(r.PolicyDir, namespace+".json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return policy(r.sys(nil))
	case err != nil:
		return nil, errs.Precondition("cannot read the signature policy of namespace %s (signature_policy_dir): %w", namespace, err)
	}
	return p, nil
}

// checkNamespace keeps a name from leading to another folder.
func checkNamespace(namespace string) error {
	if strings.ContainsAny(namespace, "/\x00") || !filepath.IsLocal(namespace) {
		return errs.Invalid("the namespace %q cannot be meant: it is no file name", namespace)
	}
	return nil
}

// policies lists the namespaces that have a policy of their own.
func (r *Rules) policies() (list []string, err error) {
	if r.PolicyDir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.PolicyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Precondition("cannot read the folder of signature policies (signature_policy_dir): %w", err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && name != "" && !e.IsDir() {
			list = append(list, name)
		}
	}
	return list, nil
}

// Allow checks that the policy for a namespace accepts an image of the store, which may
// have been pulled under another one's. wanted is what the user called it; empty if
// that is not known. Where no namespace has a policy of its own, what was pulled runs.
func (s *Service) Allow(ctx context.Context, id, wanted, namespace string) error {
	r := s.rules.Load()
	if own, err := r.policies(); err != nil || len(own) == 0 {
		return err
	}
	p, err := r.policyOf(namespace)
	if err != nil {
		return err
	}
	img, err := s.store.Image(id)
	if err != nil {
		return errs.NotFound("image", id)
	}
	for _, n := range s.names(img, wanted) {
		e := s.judge(ctx, p, img, n)
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
func (s *Service) names(img *storage.Image, wanted string) (list []reference.Named) {
	for _, name := range img.Names {
		if n, err := reference.ParseNormalizedNamed(name); err == nil {
			list = append(list, n)
		}
	}
	if meant, err := s.parse(wanted); err == nil {
		var own []reference.Named
		for _, m := range meant {
			d, digested := m.(reference.Digested)
			if slices.ContainsFunc(list, func(n reference.Named) bool {
				return n.String() == m.String() || digested && n.Name() == m.Name() && slices.Contains(img.Digests, d.Digest())
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
	needs, err := requirements(p, n)
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
	src, err := ref.NewImageSource(ctx, s.sys(nil))
	if err != nil {
		return err
	}
	defer src.Close()
	// The store's transport has no scopes in the policy: what is needed applies to all.
	c, err := signature.NewPolicyContext(&signature.Policy{Default: needs})
	if err != nil {
		return err
	}
	defer func() { _ = c.Destroy() }()
	_, err = c.IsRunningImageAllowed(ctx, image.UnparsedInstance(src, nil))
	return err
}

// requirements are what a policy demands of the images of a name, as
// containers-policy.json(5) chooses it.
func requirements(p *signature.Policy, n reference.Named) (signature.PolicyRequirements, error) {
	scopes := p.Transports[docker.Transport.Name()]
	if n == nil || scopes == nil {
		return p.Default, nil
	}
	ref, err := docker.NewReference(n)
	if err != nil {
		return nil, fmt.Errorf("cannot look up %s in the signature policy: %w", n, err)
	}
	for _, scope := range slices.Concat([]string{ref.PolicyConfigurationIdentity()}, ref.PolicyConfigurationNamespaces(), []string{""}) {
		if needs, ok := scopes[scope]; ok {
			return needs, nil
		}
	}
	return p.Default, nil
}
