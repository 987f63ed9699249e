package preload

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/image/medium"
	"github.com/monocrio/monocrio/internal/test/registry"
)

// store stands for the image service: names and ids only, over real media.
type store struct {
	temp string

	mu       sync.Mutex
	names    map[string]string
	imported []string // first names, in order
	fails    map[string]error
	gate     chan struct{} // if not nil, imports wait for it
}

func (s *store) Medium(ctx context.Context, path string) (*medium.Medium, error) {
	return medium.Open(ctx, path, s.temp, nil)
}

func (s *store) Import(ctx context.Context, path string, i medium.Image) (string, bool, error) {
	names := i.FullNames()
	s.mu.Lock()
	gate := s.gate
	s.imported = append(s.imported, names[0])
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return "", false, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fails[names[0]]; err != nil {
		return "", false, err
	}
	for _, n := range names {
		s.names[n] = "id of " + names[0] + " in " + filepath.Base(path)
	}
	return s.names[names[0]], true, nil
}

func (s *store) Find(_ context.Context, ref string) (image.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.names[ref]; ok {
		return image.Image{ID: id}, nil
	}
	return image.Image{}, errs.NotFound("image", ref)
}

func (s *store) set(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }

func (s *store) calls() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.imported) }

// rig is a keeper with a folder.
type rig struct {
	*Keeper
	t     *testing.T
	dir   string
	store *store
	reg   *registry.Registry
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: filepath.Join(t.TempDir(), "images"), reg: &registry.Registry{}}
	r.store = &store{temp: t.TempDir(), names: map[string]string{}, fails: map[string]error{}}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.reg.Add("app", "v1", registry.Image{Layers: []map[string]registry.File{{"f": {Data: []byte("data")}}}}); err != nil {
		t.Fatal(err)
	}
	r.Keeper = New(Options{Record: filepath.Join(filepath.Dir(r.dir), "record"), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { r.Close() })
	return r
}

// again is a restart.
func (r *rig) again() {
	r.Close()
	r.Keeper = New(r.opts)
	r.store.set(func() { r.store.imported = nil })
}

// add writes an archive that has been there for a while.
func (r *rig) add(file string, c registry.Compression, names ...string) {
	r.t.Helper()
	m := map[string]string{}
	for _, n := range names {
		m[n] = "app:v1"
	}
	files, err := r.reg.Layout(m)
	if err == nil {
		err = registry.WriteTar(filepath.Join(r.dir, file), files, c)
	}
	if err == nil {
		err = os.Chtimes(filepath.Join(r.dir, file), time.Time{}, time.Now().Add(-time.Hour))
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// state waits until a file is in a state.
func (r *rig) state(file string, want State) Medium {
	r.t.Helper()
	var last []Medium
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		_, list, _ := r.Media()
		for _, m := range list {
			if filepath.Base(m.Path) == file && m.State == want {
				return m
			}
		}
		last = list
	}
	r.t.Fatalf("%s does not become %s: %+v", file, want, last)
	return Medium{}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come true", what)
		}
	}
}

// TestOnce: what was imported is not read again by the next start, and is pinned before
// that start has looked at anything.
func TestOnce(t *testing.T) {
	r := newRig(t)
	r.add("a.tar", registry.None, "example.org/a:v1")
	r.add("b.tar.gz", registry.Gzip, "example.org/b:v1")
	r.Start(r.store, r.dir)
	id := r.state("a.tar", Ready).Images[0].ID
	r.state("b.tar.gz", Ready)
	r.again()
	if !r.Keeps(id) || r.Keeps("other") {
		t.Error("the pin is lost")
	}
	for _, f := range []string{"a.tar", "b.tar.gz"} { // nobody may read them
		path := filepath.Join(r.dir, f)
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, fi.Size()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, fi.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	r.Start(r.store, r.dir)
	r.state("a.tar", Ready)
	r.state("b.tar.gz", Ready)
	if r.store.calls() != 0 {
		t.Error(r.store.imported)
	}
}

// TestPins: an image is pinned while its file is there; an empty or absent folder proves
// nothing.
func TestPins(t *testing.T) {
	r := newRig(t)
	r.add("a.tar", registry.None, "example.org/a:v1")
	r.add("b.tar", registry.None, "example.org/b:v1")
	r.Start(r.store, r.dir)
	a, b := r.state("a.tar", Ready).Images[0].ID, r.state("b.tar", Ready).Images[0].ID
	if err := os.Remove(filepath.Join(r.dir, "b.tar")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pin goes with the file", func() bool { return !r.Keeps(b) && r.Keeps(a) })
	moved := r.dir + ".away"
	if err := os.Rename(r.dir, moved); err != nil {
		t.Fatal(err)
	}
	problem := func() string { _, _, p := r.Media(); return p }
	eventually(t, "the absence is told", func() bool { return strings.Contains(problem(), "no such file") })
	r.again()
	if err := os.Mkdir(r.dir, 0o755); err != nil { // a mount point without a mount
		t.Fatal(err)
	}
	r.Start(r.store, r.dir)
	eventually(t, "the emptiness is told", func() bool { return strings.Contains(problem(), "there is no image in") })
	if !r.Keeps(a) {
		t.Error("an empty folder has taken a pin away")
	}
	r.Use("")
	eventually(t, "the pin goes with the option", func() bool { return !r.Keeps(a) })
	r.again()
	if r.Keeps(a) {
		t.Error("it is still on record")
	}
}

// TestAwait: a pull waits for the import of its image alone, which comes first then.
func TestAwait(t *testing.T) {
	r := newRig(t)
	gate := make(chan struct{})
	r.store.gate = gate
	names := []string{}
	for _, f := range []string{"a", "b", "c", "d", "e", "f"} {
		r.add(f+".tar", registry.None, "example.org/"+f+":v1")
		names = append(names, "example.org/"+f+":v1")
	}
	r.Start(r.store, r.dir)
	eventually(t, "as many as may are imported", func() bool { return r.store.calls() == maxWorkers() })
	if err := r.Await(t.Context(), []string{"example.org/other:v1"}, true); err != nil {
		t.Error(err)
	}
	done := make(chan error, 2)
	for _, ref := range []string{"example.org/f:v1", "example.org/f@sha256:" + strings.Repeat("0", 64)} {
		go func() { done <- r.Await(t.Context(), []string{ref}, false) }()
	}
	eventually(t, "it is known who waits", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.list[5].wanted
	})
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := r.Await(short, []string{"example.org/a:v1"}, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	gate <- struct{}{}
	eventually(t, "another one begins", func() bool { return r.store.calls() > maxWorkers() })
	r.store.set(func() {
		if next := r.store.imported[maxWorkers()]; next != names[5] {
			t.Errorf("%s is next", next)
		}
	})
	close(gate)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if _, err := r.store.Find(t.Context(), names[5]); err != nil {
		t.Error(err)
	}
}

// TestAwaitUnread: nobody knows what is in a compressed archive before it was read; only
// who can ask nobody else waits for that.
func TestAwaitUnread(t *testing.T) {
	r := newRig(t)
	r.store.gate = make(chan struct{})
	for n := range maxWorkers() {
		r.add(string(rune('a'+n))+".tar", registry.None, "example.org/first:"+string(rune('a'+n)))
	}
	r.add("z.tar.gz", registry.Gzip, "example.org/z:v1")
	r.Start(r.store, r.dir)
	eventually(t, "all workers are busy", func() bool { return r.store.calls() == maxWorkers() })
	if err := r.Await(t.Context(), []string{"example.org/z:v1"}, false); err != nil {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Await(short, []string{"example.org/z:v1"}, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(r.store.gate)
	if err := r.Await(t.Context(), []string{"example.org/z:v1"}, true); err != nil {
		t.Error(err)
	}
	if _, err := r.store.Find(t.Context(), "example.org/z:v1"); err != nil {
		t.Error(err)
	}
}

// TestFailures: what fails is told, keeps nobody from the rest, and is tried again.
func TestFailures(t *testing.T) {
	r := newRig(t)
	r.add("a.tar", registry.None, "example.org/a:v1")
	r.add("b.tar", registry.None, "example.org/b:v1")
	r.add("c.tar", registry.None, "example.org/c:v1")
	r.store.fails["example.org/a:v1"] = errs.Errorf(errs.KindExhausted, "the disk is full")
	r.store.fails["example.org/b:v1"] = errs.Unimplemented("it is for linux/vax")
	if err := os.WriteFile(filepath.Join(r.dir, "text.tar"), []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(r.dir, "text.tar"), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.Start(r.store, r.dir)
	r.state("c.tar", Ready)
	r.state("b.tar", Skipped)
	if m := r.state("a.tar", Failed); m.Error != "the disk is full" || m.Retry.IsZero() || m.Images[0].State != Failed {
		t.Errorf("%+v", m)
	}
	if m := r.state("text.tar", Failed); !strings.Contains(m.Error, "damaged") {
		t.Errorf("%+v", m)
	}
	if err := r.Await(t.Context(), []string{"example.org/a:v1"}, true); err != nil {
		t.Error("a failure is waited for:", err)
	}
	r.store.set(func() { delete(r.store.fails, "example.org/a:v1") })
	r.again() // half of it is no reason to forget it
	r.Start(r.store, r.dir)
	r.state("a.tar", Ready)
	r.state("b.tar", Skipped)
	r.store.set(func() {
		if slices.Contains(r.store.imported, "example.org/c:v1") {
			t.Error("what was there is imported again")
		}
		r.store.fails["example.org/d:v1"] = errs.Invalid("no")
	})
	r.add("d.tar", registry.None, "example.org/d:v1")
	if m := r.state("d.tar", Failed); !m.Retry.IsZero() {
		t.Error("it is tried again though it cannot become better")
	}
	r.store.set(func() { clear(r.store.fails) })
	r.Use(r.dir) // a reload
	r.state("d.tar", Ready)
}

// TestTaken: a name that was pulled anew is not taken back, until the file changes; an
// image that was removed comes again when it is wanted.
func TestTaken(t *testing.T) {
	r := newRig(t)
	r.add("a.tar", registry.None, "example.org/a:v1")
	r.Start(r.store, r.dir)
	id := r.state("a.tar", Ready).Images[0].ID
	r.store.set(func() { r.store.names["example.org/a:v1"] = "newer" })
	r.again()
	r.Start(r.store, r.dir)
	r.state("a.tar", Ready)
	if i, _ := r.store.Find(t.Context(), "example.org/a:v1"); i.ID != "newer" || !r.Keeps(id) {
		t.Error(i.ID, r.Keeps(id))
	}
	r.add("a.tar", registry.None, "example.org/a:v1", "example.org/a:v2")
	eventually(t, "a new content counts", func() bool {
		i, _ := r.store.Find(t.Context(), "example.org/a:v1")
		return i.ID == id
	})
	r.state("a.tar", Ready)
	r.store.set(func() { clear(r.store.names) })
	if err := r.Await(t.Context(), []string{"example.org/a:v2"}, false); err != nil {
		t.Error(err)
	}
	if _, err := r.store.Find(t.Context(), "example.org/a:v2"); err != nil {
		t.Error(err)
	}
}

// TestSettle: a file that has just changed is left alone for a moment, and hidden ones
// for ever.
func TestSettle(t *testing.T) {
	r := newRig(t)
	r.add("a.tar", registry.None, "example.org/a:v1")
	r.add(".b.tar", registry.None, "example.org/b:v1")
	path := filepath.Join(r.dir, "a.tar")
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, data[:1024], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.settle = time.Hour
	r.mu.Unlock()
	r.Start(r.store, r.dir)
	r.state("a.tar", Waiting)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.settle = 0
	r.mu.Unlock()
	r.Use(r.dir)
	if m := r.state("a.tar", Ready); m.Error != "" {
		t.Error(m.Error)
	}
	if _, list, _ := r.Media(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}
