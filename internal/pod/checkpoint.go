package pod

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/checkpoint/archive"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/process"
)

// runs finds a container that runs, with its runtime.
func (m *Manager) runs(id, verb string) (*Container, oci.Runtime, error) {
	c, err := m.running(id, verb)
	if err != nil {
		return nil, nil, err
	}
	h, err := m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return nil, nil, err
	}
	return c, h.Runtime, nil
}

// Pause freezes a running container.
func (m *Manager) Pause(ctx context.Context, id string) error {
	c, r, err := m.runs(id, "pause")
	if err != nil {
		return err
	}
	return r.Pause(ctx, c.id)
}

// Resume thaws it; one that has ended meanwhile needs none, and one that an operator
// froze stays so.
func (m *Manager) Resume(ctx context.Context, id string) error {
	c, r, err := m.runs(id, "resume")
	if err != nil || c.view().Status.Paused {
		return nil
	}
	return r.Resume(ctx, c.id)
}

// Dump writes a container's processes down (oci.Runtime.Checkpoint).
func (m *Manager) Dump(ctx context.Context, id string, o oci.CheckpointOptions) error {
	c, r, err := m.runs(id, "checkpoint")
	if err != nil {
		return err
	}
	return r.Checkpoint(ctx, c.id, o)
}

// Diff is what a container has changed in its root file system (Rootfs.Diff).
func (m *Manager) Diff(ctx context.Context, id string) (io.ReadCloser, error) {
	return m.Rootfs.Diff(ctx, id)
}

// checkpointDir holds an unpacked checkpoint: memory images belong on the disk.
func (c *Container) checkpointDir() string {
	return filepath.Join(c.m.StateDir, "checkpoints", c.id)
}

// sourceID is the lease of the image that a checkpoint comes from.
func (c *Container) sourceID() string { return c.id + "-from" }

// checkpointUp unpacks a checkpoint and makes its changes in the root file system.
func (c *Container) checkpointUp(ctx context.Context) error {
	from := c.req.From
	if from == nil {
		return nil
	}
	file := from.File
	if from.Image != "" {
		path, err := c.lease(ctx, c.sourceID(), from.Image)
		if err != nil {
			return err
		}
		file = path
	}
	if err := archive.Unpack(file, c.checkpointDir()); err != nil {
		return err
	}
	rootfs, err := c.m.Rootfs.Mount(ctx, c.id)
	if err != nil {
		return err
	}
	if err := archive.Apply(c.checkpointDir(), rootfs); err != nil {
		return err
	}
	return c.dropSource(ctx)
}

func (c *Container) dropSource(ctx context.Context) error {
	if c.req.From.Image == "" {
		return nil
	}
	if err := c.m.Rootfs.Unmount(ctx, c.sourceID()); err != nil {
		return err
	}
	return c.m.Rootfs.Release(ctx, c.sourceID())
}

func (c *Container) checkpointDown(ctx context.Context) error {
	if c.req.From == nil {
		return nil
	}
	if err := c.dropSource(ctx); err != nil {
		return err
	}
	return os.RemoveAll(c.checkpointDir())
}

// run lets a created container go on: to its program, or to where its checkpoint was
// taken.
func (c *Container) run(ctx context.Context, h *process.Handler) error {
	if c.req.From == nil {
		return h.Runtime.Start(ctx, c.id)
	}
	if err := c.spawnMonitor(ctx); err != nil {
		return err
	}
	c.watch()
	if err := os.RemoveAll(c.checkpointDir()); err != nil {
		return fmt.Errorf("cannot delete the images of its processes: %w", err)
	}
	return nil
}
