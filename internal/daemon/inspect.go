package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/inspect"
	"github.com/monocrio/monocrio/internal/inspect/split"
)

// sayTime is how long a client of the CRI socket may take to say whether it speaks
// gRPC or HTTP.
const sayTime = 5 * time.Second

// front is the CRI socket: gRPC and HTTP behind one listener.
type front struct {
	split *split.Splitter
	http  *http.Server
}

func newFront(p *parts, l net.Listener) *front {
	return &front{split: split.New(l, sayTime, p.log), http: inspect.New(inspectOptions(p))}
}

// serveHTTP answers until the end.
func (f *front) serveHTTP() error {
	if err := f.http.Serve(f.split.HTTP()); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// drain lets calls end, for some time.
func (f *front) drain(g interface {
	GracefulStop()
	Stop()
}) {
	f.split.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	done := make(chan struct{})
	go func() { g.GracefulStop(); close(done) }()
	if f.http.Shutdown(ctx) != nil {
		f.http.Close()
	}
	select {
	case <-done:
	case <-ctx.Done():
		g.Stop()
	}
}

func inspectOptions(p *parts) inspect.Options {
	c := p.conf
	all := []inspect.IDMapping{{Size: 1<<32 - 1}} // no mapping: everybody is who he is on the node
	return inspect.Options{Model: p.pods, Images: p.images, Media: p.preloaded.Media, Profile: c.Process.ProfileSock, Log: p.log,
		Info: inspect.Info{StorageDriver: p.store.Driver(), StorageRoot: c.Crio.Root, StorageImage: c.Crio.ImageStore, CgroupDriver: p.driver.String(),
			DefaultIDMappings: inspect.IDMappings{UIDs: all, GIDs: all}},
		Config: func() (string, error) { return inForce(p.now.Load().conf) },
		PodDir: func(id string) string { return filepath.Join(c.Crio.RunDir, "pods", id) }}
}

// inForce prints a configuration for programs: what is as by default, and so only a
// comment in a file for people, counts too.
func inForce(c *config.Config) (string, error) {
	text, err := c.Text()
	for _, o := range c.Options() {
		if o.Key != "" {
			text = strings.ReplaceAll(text, "\n# "+o.Key+" = ", "\n"+o.Key+" = ")
		}
	}
	return text, err
}
