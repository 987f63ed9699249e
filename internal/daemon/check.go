package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/check"
	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon/roots"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/storage"
	"golang.org/x/sys/unix"
)

// CheckOptions are those of `crio check`.
type CheckOptions struct {
	storage.CheckOptions
	// Force lets a repair remove damaged containers.
	Force bool
	// Warnings are those that loading the configuration gave.
	Warnings []string
}

// Checks lists what `crio check` looks at. It may run beside the daemon. The store is
// open until end is called.
func Checks(c *config.Config, o CheckOptions, log *slog.Logger) (looks []check.Look, end func() error, err error) {
	driver, err := cgroupDriver(c)
	if err != nil {
		return nil, nil, err
	}
	looks = []check.Look{check.Config(o.Warnings), check.Clock, check.Kernel(c.Crio.StorageDriver), check.Cgroups(driver),
		check.Can("runtimes", "every runtime handler can be used", "install it, or correct its runtime_path", func(context.Context) error {
			_, err := newHandlers(c, filepath.Join(c.Crio.RunDir, "bin"), driver, log)
			return err
		}),
		check.Can("network", "pods can be attached", "write a CNI configuration into "+c.Network.NetworkDir, func(ctx context.Context) error { return networkStatus(ctx, c, log) }),
		check.Disk(map[string]string{c.Crio.Root: "root", c.Crio.RunRoot: "runroot", c.Crio.StateDir: "state_dir", c.Crio.RunDir: "run_dir", c.Crio.LogDir: "log_dir"}),
		check.Quarantine(filepath.Join(c.Crio.StateDir, "quarantine"))}
	if c.Image.ImagesDir != "" {
		looks = append(looks, check.Media(c.Image.ImagesDir))
	}
	s, err := storage.Open(storageOptions(c, log))
	if err != nil {
		// What is wrong with the store is a finding like others.
		looks = append(looks, check.Can("storage", "", "", func(context.Context) error { return err }))
		return looks, func() error { return nil }, nil
	}
	images := image.New(image.Options{Store: s, BigFilesDir: c.Image.BigFilesTemporaryDir, Rules: imageRules(c), Log: log})
	looks = append(looks,
		check.Can("images", "registries.conf, signature policy and credentials can be read", "", func(context.Context) error {
			_, err := images.Prepare(imageRules(c))
			return err
		}),
		check.Storage(s, o.CheckOptions, o.Force), check.Artifacts(roots.Artifacts(c, nil, log), o.Quick))
	if !Running(c) {
		looks = append(looks, leftovers(c, s)...)
	}
	return looks, func() error { images.Close(); return s.Close() }, nil
}

func networkStatus(ctx context.Context, c *config.Config, log *slog.Logger) error {
	n, err := cni.New(networkOptions(c, log))
	if err != nil {
		return err
	}
	return errors.Join(n.Status(ctx), n.Close())
}

// leftovers are looked for while no daemon runs: it has things in flight.
func leftovers(c *config.Config, s *storage.Store) []check.Look {
	record := func(kinds ...string) func(string) bool {
		return func(id string) bool {
			for _, k := range kinds {
				if _, err := os.Stat(filepath.Join(c.Crio.StateDir, k, id)); err == nil {
					return true
				}
			}
			return false
		}
	}
	return []check.Look{
		check.Leftovers("the writable layer", s.Leases, record("containers", "pods")),
		check.Leftovers("the folder "+filepath.Join(c.Crio.RunDir, "pods"), check.Dirs(filepath.Join(c.Crio.RunDir, "pods")), record("pods")),
		check.Leftovers("the bundle in "+filepath.Join(c.Crio.RunDir, "containers"), check.Dirs(filepath.Join(c.Crio.RunDir, "containers")), record("containers")),
		check.Leftovers("what is owed to the network by", check.Dirs(filepath.Join(c.Crio.StateDir, "owed")), func(string) bool { return false }),
	}
}

// Running tells whether a daemon holds the state of this configuration.
func Running(c *config.Config) bool {
	f, err := os.Open(filepath.Join(c.Crio.StateDir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// Wipe removes all pods and containers of ours and the images that they used; others'
// are left alone. No daemon may run.
func Wipe(ctx context.Context, c *config.Config, log *slog.Logger) (pods, images int, err error) {
	if Running(c) {
		return 0, 0, errs.Precondition("cannot wipe: the daemon runs; stop it first")
	}
	lock, err := takeLock(c)
	if err != nil {
		return 0, 0, err
	}
	defer lock.Close()
	p, err := build(c, log)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.pods.Recover(ctx); err != nil {
		return 0, 0, err
	}
	used := map[string]bool{}
	for _, ctr := range p.pods.Containers() {
		used[ctr.Request.Image.ID] = true
	}
	for _, v := range p.pods.Pods() {
		if e := p.pods.Remove(ctx, v.ID); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove pod %s: %w", v.ID, e))
			continue
		}
		pods++
	}
	for id := range used {
		switch e := p.images.Remove(ctx, id); {
		case e == nil:
			images++
		case !errs.Is(e, errs.KindPrecondition): // else others' containers use it
			err = errors.Join(err, e)
		}
	}
	return pods, images, err
}
