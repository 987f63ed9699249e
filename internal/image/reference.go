package image

import (
	"fmt"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
)

// transport is the only one that a reference may name.
const transport = "docker://"

// parse reads a reference as people write it and returns the full names that it can
// stand for, best first: several only if it names no registry and several are to be
// searched (registries.conf). References are normalised here and nowhere else: a
// name without tag and digest gets "latest"; with both, the digest decides.
func (s *Service) parse(ref string) ([]reference.Named, error) {
	name := strings.TrimPrefix(ref, transport)
	if name == "" {
		return nil, errs.Invalid("the image reference is empty")
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, errs.Invalid("cannot read image reference %q: %w; write [REGISTRY/]NAME[:TAG][@DIGEST] in lower case", ref, err)
	}
	if !short(name) {
		n, err := one(named)
		return []reference.Named{n}, err
	}
	if alias, _, err := sysregistriesv2.ResolveShortNameAlias(s.sys(nil), bare(name)); err != nil {
		return nil, errs.Invalid("cannot read the short-name aliases of registries.conf: %w", err)
	} else if alias != nil {
		return s.substitute(ref, alias.String()+name[len(bare(name)):])
	}
	registries, err := sysregistriesv2.UnqualifiedSearchRegistries(s.sys(nil))
	if err != nil {
		return nil, errs.Invalid("cannot read registries.conf: %w", err)
	}
	if len(registries) == 0 {
		return s.substitute(ref, "docker.io/"+name)
	}
	var list []reference.Named
	for _, r := range registries {
		n, err := s.substitute(ref, r+"/"+name)
		if err != nil {
			return nil, err
		}
		list = append(list, n...)
	}
	return list, nil
}

// toPull is parse for a pull, which takes from a registry that was not meant no image.
func (s *Service) toPull(ref string) ([]reference.Named, error) {
	names, err := s.parse(ref)
	if err == nil && len(names) > 1 && s.rules.Load().ShortNames == "enforcing" {
		var registries []string
		for _, n := range names {
			registries = append(registries, reference.Domain(n))
		}
		return nil, errs.Invalid("cannot tell which image %q means: registries.conf searches %s (short_name_mode is enforcing); write the registry, or an alias into registries.conf", ref, strings.Join(registries, " and "))
	}
	return names, err
}

func (s *Service) substitute(ref, full string) ([]reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return nil, errs.Invalid("image reference %q stands for %q, which cannot be read: %w", ref, full, err)
	}
	n, err := one(named)
	return []reference.Named{n}, err
}

// short tells whether a name has no registry: its first part is no host name.
func short(name string) bool {
	first, _, found := strings.Cut(name, "/")
	return !found || !strings.ContainsAny(first, ".:") && first != "localhost"
}

// bare is a name without tag and digest.
func bare(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

// one makes a name that is either tagged or digested.
func one(n reference.Named) (reference.Named, error) {
	if d, ok := n.(reference.Digested); ok {
		return reference.WithDigest(reference.TrimNamed(n), d.Digest())
	}
	return reference.TagNameOnly(n), nil
}

// isID tells whether a string is an image id or, from 3 digits on, the beginning
// of one, with or without "sha256:".
func isID(s string) (string, bool) {
	hex := strings.TrimPrefix(s, "sha256:")
	if len(hex) < 3 || len(hex) > 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", false
	}
	return hex, true
}

// repoDigests joins the repositories of an image's names with its digests.
func repoDigests(names []string, digests []digest.Digest) (tags, withDigest []string) {
	seen := map[string]bool{}
	add := func(list *[]string, s string) {
		if !seen[s] {
			seen[s] = true
			*list = append(*list, s)
		}
	}
	for _, name := range names {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // another program's name
		}
		if d, ok := named.(reference.Digested); ok {
			add(&withDigest, fmt.Sprintf("%s@%s", named.Name(), d.Digest()))
			continue
		}
		add(&tags, named.String())
		for _, d := range digests {
			add(&withDigest, fmt.Sprintf("%s@%s", named.Name(), d))
		}
	}
	return tags, withDigest
}
