package runc

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// imagePaths are the folders of criu's images and logs, as runc has them.
func imagePaths(c *cobra.Command, images, work *string) {
	c.Flags().StringVar(images, "image-path", "", "folder of the images (default ./checkpoint)")
	c.Flags().StringVar(work, "work-path", "", "folder of criu's logs (default the images')")
	// What runc lets choose and we always do, or never: taken, so that its command
	// lines work.
	for _, name := range []string{"ext-unix-sk", "shell-job", "file-locks", "auto-dedup"} {
		_ = c.Flags().Bool(name, false, "taken for runc's sake, without effect")
	}
	_ = c.Flags().String("manage-cgroups-mode", "ignore", "ignore: cgroups are made anew; nothing else is built in")
	_ = c.Flags().StringSlice("empty-ns", nil, "taken for runc's sake, without effect")
}

// defaults fills in the folders.
func defaults(images, work *string) error {
	if *images == "" {
		*images = "checkpoint"
	}
	if *work == "" {
		*work = *images
	}
	for _, p := range []*string{images, work} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

func (a *app) checkpoint() *cobra.Command {
	var o oci.CheckpointOptions
	c := a.verb("checkpoint", "write a running container's processes down (criu)", func(ctx context.Context, id string) error {
		if err := defaults(&o.Images, &o.Work); err != nil {
			return err
		}
		for _, dir := range []string{o.Images, o.Work} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
		}
		if err := a.rt.Checkpoint(ctx, id, o); err != nil || o.LeaveRunning {
			return err
		}
		return a.rt.Delete(ctx, id, true)
	})
	imagePaths(c, &o.Images, &o.Work)
	c.Flags().BoolVar(&o.LeaveRunning, "leave-running", false, "let the container go on")
	c.Flags().BoolVar(&o.TCPEstablished, "tcp-established", false, "take open connections along")
	return c
}

func (a *app) restore() *cobra.Command {
	var o oci.CreateOptions
	var images, work string
	var detach bool
	var preserve int
	c := a.verb("restore", "make a container whose processes come from images (criu)", func(ctx context.Context, id string) error {
		if err := inherit(&o, preserve); err != nil {
			return err
		}
		if err := defaults(&images, &work); err != nil {
			return err
		}
		if _, err := os.Stat(images); err != nil {
			return errs.Invalid("cannot restore container %s: %w", id, err)
		}
		proc, err := a.rt.Restore(ctx, id, o, images, work)
		if err != nil || detach {
			return err
		}
		a.code, err = proc.Wait()
		return errors.Join(err, a.rt.Delete(ctx, id, true))
	})
	createFlags(c, &o, &preserve)
	imagePaths(c, &images, &work)
	c.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait for the container")
	for _, name := range []string{"tcp-established", "no-subreaper", "lazy-pages"} {
		_ = c.Flags().Bool(name, false, "taken for runc's sake, without effect")
	}
	return c
}
