package image

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	own "github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/test/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage/pkg/reexec"
)

// The library unpacks layers in a child that is this program again.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// rig is an image service with a store of its own and a registry.
type rig struct {
	*Service
	t     *testing.T
	store *own.Store
	reg   *registry.Registry
	addr  string
	dir   string
	opts  Options
}

func newRig(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	r := &rig{t: t, reg: &registry.Registry{}, dir: t.TempDir()}
	addr, stop, err := r.reg.Serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	r.addr = addr
	r.opts = Options{Rules: Rules{RegistriesConf: r.file("registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", addr)),
		RegistriesConfDir: filepath.Join(r.dir, "none")}, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))}
	if change != nil {
		change(r)
	}
	r.store, err = own.Open(own.Options{Root: filepath.Join(r.dir, "root"), RunRoot: filepath.Join(r.dir, "run"), Driver: "overlay", Log: r.opts.Log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Service.Close()
		if err := r.store.Teardown(); err != nil {
			t.Error(err)
		}
	})
	r.opts.Store = r.store
	r.Service = New(r.opts)
	return r
}

func (r *rig) file(name, text string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// add makes an image of layers that have one file each and returns its name
// without tag, and the digest.
func (r *rig) add(name, tag string, img registry.Image, files ...string) (string, string) {
	r.t.Helper()
	for i, f := range files {
		img.Layers = append(img.Layers, map[string]registry.File{fmt.Sprintf("file%d", i): {Data: []byte(f)}})
	}
	img.Config = v1.ImageConfig{Env: []string{"NAME=" + name}}
	d, err := r.reg.Add(name, tag, img)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.addr + "/" + name, d
}

// noise is data that cannot be compressed.
func noise(bytes int) string {
	b := make([]byte, bytes)
	src := rand.NewChaCha8([32]byte{byte(bytes), byte(rand.IntN(256)), byte(rand.IntN(256))})
	src.Read(b)
	return string(b)
}

func (r *rig) pull(ref string) (string, error) {
	return r.Pull(context.Background(), ref, Auth{})
}

func (r *rig) mustPull(ref string) string {
	r.t.Helper()
	id, err := r.pull(ref)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) list() []Image {
	r.t.Helper()
	list, err := r.List(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

func (r *rig) find(ref string) Image {
	r.t.Helper()
	i, err := r.Find(context.Background(), ref)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

// wants checks an error's kind and that its text has all these parts.
func wants(t *testing.T, err error, kind errs.Kind, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	if got := errs.KindOf(err); got != kind {
		t.Errorf("kind %v, not %v: %v", got, kind, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q is not in: %v", p, err)
		}
	}
}

// clean checks that nothing is left of pulls: no image, no temporary file.
func (r *rig) clean() {
	r.t.Helper()
	if l := r.list(); len(l) != 0 {
		r.t.Errorf("images are left: %v", l)
	}
	r.noTemp()
}

func (r *rig) noTemp() {
	r.t.Helper()
	r.settle()
	entries, _ := os.ReadDir(r.temp)
	for _, e := range entries {
		r.t.Errorf("left behind in %s: %s", r.temp, e.Name())
	}
}

// settle waits until no pull is in flight and layers are tidied up.
func (r *rig) settle() { r.busy.Wait() }

func (r *rig) layers() int {
	r.t.Helper()
	l, err := r.store.Raw().Layers()
	if err != nil {
		r.t.Fatal(err)
	}
	return len(l)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come true", what)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
