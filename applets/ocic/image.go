package ocic

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/monocrio/monocrio/internal/ident"
	daemon "github.com/monocrio/monocrio/internal/inspect/client"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *client) imageCommand() *cobra.Command {
	image := &cobra.Command{Use: "image", Short: "images"}
	image.AddCommand(c.imagePull(), c.imageList(),
		c.verb("status NAME...", "show images", c.imageStatus),
		c.verb("remove NAME...", "remove images with all their names", func(ctx context.Context, name string) error {
			_, err := c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: name}})
			return err
		}))
	return image
}

func (c *client) imagePull() *cobra.Command {
	var creds string
	cmd := &cobra.Command{Use: "pull NAME", Short: "fetch an image; prints its id", Args: manual.Words(1, 1), RunE: func(cmd *cobra.Command, args []string) error {
		req := &cri.PullImageRequest{Image: &cri.ImageSpec{Image: args[0], UserSpecifiedImage: args[0]}}
		if creds != "" {
			user, password, ok := strings.Cut(creds, ":")
			if !ok {
				return fmt.Errorf("--creds: write USER:PASSWORD")
			}
			req.Auth = &cri.AuthConfig{Username: user, Password: password}
		}
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		done := spin("pulling "+args[0], func(ctx context.Context) (string, error) { return daemon.New(c.socket).Brief(ctx, args[0]) })
		resp, err := c.images.PullImage(ctx, req)
		done()
		if err == nil {
			fmt.Println(resp.GetImageRef())
		}
		return err
	}}
	cmd.Flags().StringVar(&creds, "creds", "", "USER:PASSWORD for the registry")
	return cmd
}

// spin shows on a terminal that something goes on, for how long, and what more tells,
// which is asked until it fails: the CRI tells nothing of a pull, but our daemon does.
// The function that it returns clears the line.
func spin(what string, more func(context.Context) (string, error)) (done func()) {
	if fi, err := os.Stderr.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	start := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	var told atomic.Value
	told.Store("")
	go func() {
		for text, err := more(ctx); err == nil; text, err = more(ctx) {
			told.Store(text)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second / 2):
			}
		}
	}()
	go func() {
		defer close(ended)
		defer cancel()
		t := time.NewTicker(120 * time.Millisecond)
		defer t.Stop()
		for i := 0; ; i++ {
			select {
			case <-end:
				fmt.Fprint(os.Stderr, "\r\x1b[K")
				return
			case <-t.C:
				fmt.Fprintf(os.Stderr, "\r%c %s  %.1fs  %s\x1b[K", `|/-\`[i%4], what, time.Since(start).Seconds(), told.Load())
			}
		}
	}()
	return func() { close(end); <-ended }
}

func (c *client) imageList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "list images", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
		if err != nil || c.output == "json" {
			return orJSON(resp, err)
		}
		t := newTable("IMAGE", "ID", "SIZE", "PINNED")
		for _, i := range resp.GetImages() {
			if quiet {
				fmt.Println(i.GetId())
				continue
			}
			names := i.GetRepoTags()
			if len(names) == 0 {
				names = i.GetRepoDigests()
			}
			if len(names) == 0 {
				names = []string{""}
			}
			pinned := ""
			if i.GetPinned() {
				pinned = "yes"
			}
			for _, n := range names {
				t.row(n, ident.Short(i.GetId()), daemon.Size(i.GetSize()), pinned)
			}
		}
		if quiet {
			return nil
		}
		return t.print()
	}}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	return cmd
}

func (c *client) imageStatus(ctx context.Context, name string) error {
	resp, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}, Verbose: c.output == "json"})
	if err != nil {
		return err
	}
	i := resp.GetImage()
	if i == nil {
		return fmt.Errorf("the image is not there; pull it first")
	}
	if c.output == "json" {
		return printJSON(resp)
	}
	t := newTable("IMAGE", i.GetId())
	t.row("tags", strings.Join(i.GetRepoTags(), ", "))
	t.row("digests", strings.Join(i.GetRepoDigests(), ", "))
	t.row("size", daemon.Size(i.GetSize()))
	user := i.GetUsername()
	if i.GetUid() != nil {
		user = fmt.Sprint(i.GetUid().GetValue())
	}
	t.row("user", user)
	return t.print()
}
