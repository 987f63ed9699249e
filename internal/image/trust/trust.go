// Package trust applies signature policies, containers-policy.json(5): that of all pods,
// and those of namespaces.
package trust

import (
	"context"
	"encoding/json"
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
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/configfile"
)

// Policies are where policies are.
type Policies struct {
	File string // for all; "": the system's
	Dir  string // those of namespaces, NAMESPACE.json; "": none
}

// Of is the policy for the pods of a namespace: its own if it has one, else the one for
// all.
func (r *Policies) Of(namespace string) (*signature.Policy, error) {
	if r.Dir == "" || namespace == "" {
		return r.common()
	}
	if err := CheckNamespace(namespace); err != nil {
		return nil, err
	}
	p, err := signature.NewPolicyFromFile(filepath.Join(r.Dir, namespace+".json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.common()
	case err != nil:
		return nil, errs.Precondition("cannot read the signature policy of namespace %s (signature_policy_dir): %w", namespace, err)
	}
	return p, nil
}

// CheckNamespace keeps a name from leading to another folder.
func CheckNamespace(namespace string) error {
	if strings.ContainsAny(namespace, "/\x00") || !filepath.IsLocal(namespace) {
		return errs.Invalid("the namespace %q cannot be meant: it is no file name", namespace)
	}
	return nil
}

// Namespaces lists those that have a policy of their own.
func (r *Policies) Namespaces() (list []string, err error) {
	if r.Dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(r.Dir)
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

// common is policy.json, or "accept everything" where there is none.
func (r *Policies) common() (*signature.Policy, error) {
	p, err := signature.DefaultPolicy(&types.SystemContext{SignaturePolicyPath: r.File})
	if errors.Is(err, configfile.ErrConfigFileNotFound) && r.File == "" {
		p, err = &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}, nil
	}
	if err != nil {
		return nil, errs.Precondition("cannot read the signature policy: %w", err)
	}
	return p, nil
}

// Allowed holds what is in a place on the disk, which has no scope in policies, against
// requirements.
func Allowed(ctx context.Context, needs signature.PolicyRequirements, ref types.ImageReference, sys *types.SystemContext) error {
	src, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return err
	}
	defer src.Close()
	c, err := signature.NewPolicyContext(&signature.Policy{Default: needs})
	if err != nil {
		return err
	}
	defer func() { _ = c.Destroy() }()
	_, err = c.IsRunningImageAllowed(ctx, image.UnparsedInstance(src, nil))
	return err
}

// Requirements are what a policy demands of the images of a name, as
// containers-policy.json(5) chooses it.
func Requirements(p *signature.Policy, n reference.Named) (signature.PolicyRequirements, error) {
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

// Meant rewrites what is required of a signature's identity for an image that has lost
// its name on the way: where it must be that of the image, it must be n.
func Meant(needs signature.PolicyRequirements, n reference.Named) (signature.PolicyRequirements, error) {
	data, err := json.Marshal(needs)
	if err != nil {
		return nil, err
	}
	var list []map[string]any
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	for _, need := range list {
		if need["type"] != "signedBy" && need["type"] != "sigstoreSigned" {
			continue
		}
		identity, _ := need["signedIdentity"].(map[string]any)
		need["signedIdentity"] = meantIdentity(identity, n)
	}
	data, err = json.Marshal(map[string]any{"default": list})
	if err != nil {
		return nil, err
	}
	p, err := signature.NewPolicyFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("cannot apply the signature policy to %s: %w", n, err)
	}
	return p.Default, nil
}

// meantIdentity is a signedIdentity of containers-policy.json(5), said of n.
func meantIdentity(identity map[string]any, n reference.Named) map[string]any {
	repository := map[string]any{"type": "exactRepository", "dockerRepository": n.Name()}
	exact := map[string]any{"type": "exactReference", "dockerReference": n.String()}
	_, digested := n.(reference.Digested)
	switch identity["type"] {
	case "exactReference", "exactRepository":
		return identity
	case "matchRepository":
		return repository
	case "matchExact":
		return exact
	case "remapIdentity":
		prefix, _ := identity["prefix"].(string)
		signed, _ := identity["signedPrefix"].(string)
		if rest, ok := strings.CutPrefix(n.String(), prefix); ok && (rest == "" || strings.ContainsRune("/:@", rune(rest[0]))) {
			if to, err := reference.ParseNormalizedNamed(signed + rest); err == nil {
				return meantIdentity(nil, to)
			}
		}
	}
	if digested {
		return repository
	}
	return exact
}
