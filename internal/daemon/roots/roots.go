// Package roots gives containers their root file systems and what is mounted of images
// and artifacts, which two stores keep.
package roots

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/storage"
)

// Roots implements pod.Rootfs. Artifacts are leased as images are, by their store.
type Roots struct {
	*storage.Store
	Artifacts *artifact.Store
}

// Artifacts makes the store of artifacts; bring finds one, or pulls it.
func Artifacts(c *config.Config, bring func(ctx context.Context, ref string) (id string, err error), log *slog.Logger) *artifact.Store {
	o := artifact.Options{Root: artifact.In(c.Crio.Root), RunDir: filepath.Join(c.Crio.RunDir, "artifacts"), Bring: bring, Log: log}
	for _, dir := range c.Runtime.ArtifactStores {
		o.Shared = append(o.Shared, artifact.In(dir))
	}
	return artifact.New(o)
}

// Lease implements pod.Rootfs.
func (r Roots) Lease(ctx context.Context, l pod.Lease) error {
	err := r.Store.Lease(ctx, storage.Lease(l))
	if errs.Is(err, errs.KindNotFound) {
		if e := r.Artifacts.Lease(ctx, l.ID, l.Image); !errs.Is(e, errs.KindNotFound) {
			return e
		}
	}
	return err
}

// Mount implements pod.Rootfs.
func (r Roots) Mount(ctx context.Context, id string) (string, error) {
	if r.Artifacts.Leased(id) {
		return r.Artifacts.Mount(ctx, id)
	}
	return r.Store.Mount(ctx, id)
}

// Release implements pod.Rootfs.
func (r Roots) Release(ctx context.Context, id string) error {
	return errors.Join(r.Artifacts.Release(ctx, id), r.Store.Release(ctx, id))
}

// Leases implements pod.Rootfs.
func (r Roots) Leases(ctx context.Context) ([]string, error) {
	list, err := r.Artifacts.Leases(ctx)
	more, e := r.Store.Leases(ctx)
	return append(list, more...), errors.Join(err, e)
}

var _ pod.Rootfs = Roots{}
