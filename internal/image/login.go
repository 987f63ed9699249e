package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/image/trust"
	"go.podman.io/image/v5/docker/reference"
)

// A credential provider of the kubelet leaves credentials for one pull of one pod's
// namespace in a file NAMESPACE-SHA256.json, where the sum is that of the image's name
// without tag and digest. Whoever pulls takes the file first, so that nobody else uses
// it, and deletes it when the pull has ended.

// inUse is the folder of files that are taken.
const inUse = "in-use"

// logins are the files that were taken, by the name of the image.
type logins map[string]string

// takeLogins takes the files for names, if there are any.
func (r *Rules) takeLogins(namespace string, names []reference.Named) (taken logins, err error) {
	if r.AuthDir == "" || namespace == "" {
		return nil, nil
	}
	if err := trust.CheckNamespace(namespace); err != nil {
		return nil, err
	}
	taken = logins{}
	defer func() {
		if err != nil {
			err = errors.Join(err, taken.drop())
			taken = nil
		}
	}()
	for _, n := range names {
		sum := sha256.Sum256([]byte(n.Name()))
		base := namespace + "-" + hex.EncodeToString(sum[:])
		from := filepath.Join(r.AuthDir, base+".json")
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		to := filepath.Join(r.AuthDir, inUse, base+"-"+ident.New()+".json")
		err := os.MkdirAll(filepath.Dir(to), 0o700)
		if err == nil {
			err = os.Rename(from, to)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // another pull was faster
			continue
		case err != nil:
			return taken, fmt.Errorf("cannot take the credentials for %s (namespaced_auth_dir): %w", n.Name(), err)
		}
		taken[n.Name()] = to
		if err := checkAuthFile(to, "namespaced_auth_dir"); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// drop deletes the files.
func (l logins) drop() (err error) {
	for _, path := range l {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("cannot delete credentials that were used: %w", e))
		}
	}
	return err
}

// staleLogins lists the files that a daemon has taken which was killed.
func (r *Rules) staleLogins() (list []string) {
	if r.AuthDir == "" {
		return nil
	}
	list, _ = filepath.Glob(filepath.Join(r.AuthDir, inUse, "*.json"))
	return list
}

// perNamespace tells whether pods of different namespaces may have different rights to
// an image: then no pull is shared between them.
func (r *Rules) perNamespace() bool {
	for _, dir := range []string{r.PolicyDir, r.AuthDir} {
		if _, err := os.Stat(dir); dir != "" && err == nil {
			return true
		}
	}
	return false
}
