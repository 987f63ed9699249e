package artifact

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func newStore(t *testing.T) *Store {
	dir := t.TempDir()
	return New(Options{Root: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler)})
}

// add puts an artifact of files NAME=CONTENT into the store.
func add(t *testing.T, s *Store, name string, files ...string) (id string) {
	t.Helper()
	dir, err := s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	put := func(data string, notes map[string]string) v1.Descriptor {
		d := digest.FromString(data)
		if err := os.WriteFile(filepath.Join(dir, d.Encoded()), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: "application/x", Digest: d, Size: int64(len(data)), Annotations: notes}
	}
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: put("{}", nil)}
	for _, f := range files {
		title, data, _ := strings.Cut(f, "=")
		m.Layers = append(m.Layers, put(data, map[string]string{v1.AnnotationTitle: title}))
	}
	data, err := json.Marshal(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, Manifest), data, 0o600)
	}
	if err == nil {
		id, err = s.Add(name, dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Leases keep artifacts from being removed; all that they do can be done twice.
func TestLeases(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	s, ctx := newStore(t), t.Context()
	id := add(t, s, "example.com/a:1", "deep/file=one", "other=two", "empty=")
	if err := s.Lease(ctx, "l", strings.Repeat("ab", 32)); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("a lease of nothing: %v", err)
	}
	if _, err := s.Mount(ctx, "l"); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("a mount of nothing: %v", err)
	}
	var at string
	for range 2 {
		err := s.Lease(ctx, "l", id)
		if err == nil {
			at, err = s.Mount(ctx, "l")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"deep/file": "one", "other": "two", "empty": ""} {
		path := filepath.Join(at, name)
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err == nil {
			t.Errorf("%s can be written", name)
		}
	}
	if err := os.WriteFile(filepath.Join(at, "new"), nil, 0o600); err == nil {
		t.Error("the folder can be written")
	}
	if err := s.Remove(id); !errs.Is(err, errs.KindPrecondition) {
		t.Errorf("the removal of what is mounted: %v", err)
	}
	if l, err := s.Leases(ctx); err != nil || len(l) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	for range 2 {
		if err := s.Release(ctx, "l"); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := s.Leases(ctx); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if err := s.Remove(id); err != nil {
		t.Error(err)
	}
}

// Names of files never lead out of the folder where they are mounted.
func TestFileNames(t *testing.T) {
	s := newStore(t)
	for name, want := range map[string]string{"../x": "", "/etc/passwd": "", "a/../../x": "", ".": "", "a/../b": "b", "a b": "a b", "": "sha256-"} {
		a, err := s.Find(add(t, s, "example.com/a:1", name+"=1"))
		if err != nil {
			t.Fatal(err)
		}
		switch files, err := a.Files(); {
		case want == "" && err == nil:
			t.Errorf("%q is taken for %v", name, files)
		case want != "" && (err != nil || !strings.HasPrefix(files[0].Name, want)):
			t.Errorf("%q: %v, %v", name, files, err)
		}
	}
	a, err := s.Find(add(t, s, "example.com/a:1", "x=1", "x=2"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Files(); err == nil {
		t.Error("two files have one name")
	}
}

// What a killed daemon was writing goes; what is of others stays.
func TestCollectTemporaries(t *testing.T) {
	s := newStore(t)
	id := add(t, s, "example.com/a:1", "x=1")
	ours, others := filepath.Join(s.opts.Root, "blobs/sha256/.abc.tmp"), filepath.Join(s.opts.Root, "blobs/sha256/.theirs")
	for _, path := range []string{ours, others} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ours); err == nil {
		t.Error("our temporary file stays")
	}
	if _, err := os.Stat(others); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(id); err != nil {
		t.Error(err)
	}
}

// An index that others wrote, with what is no artifact in it, is read as far as it goes.
func TestForeignIndex(t *testing.T) {
	s := newStore(t)
	id := add(t, s, "example.com/a:1", "x=1")
	index, err := indexOf(s.opts.Root)
	if err != nil {
		t.Fatal(err)
	}
	index.Manifests = append(index.Manifests, v1.Descriptor{Digest: "md5:00"}, v1.Descriptor{Digest: digest.FromString("absent")},
		v1.Descriptor{Digest: "sha256:../../../../etc/passwd"})
	data, err := json.Marshal(index)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.opts.Root, v1.ImageIndexFile), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if l := s.List(); len(l) != 1 || l[0].ID != id {
		t.Errorf("%v", l)
	}
	nested, err := json.Marshal(v1.Index{Manifests: []v1.Descriptor{{Digest: digest.Digest("sha256:" + id)}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(blob(s.opts.Root, digest.FromBytes(nested)), nested, 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(of ...digest.Digest) {
		var i v1.Index
		for _, d := range of {
			i.Manifests = append(i.Manifests, v1.Descriptor{Digest: d})
		}
		if err := s.write(i); err != nil {
			t.Fatal(err)
		}
	}
	write(digest.FromBytes(nested)) // somebody else's index of our artifact
	if err := s.Collect(); err != nil {
		t.Error(err)
	}
	write(digest.Digest("sha256:" + id))
	if _, err := s.Find(id); err != nil {
		t.Error(err)
	}
	unread := digest.FromString("x{")
	if err := os.WriteFile(blob(s.opts.Root, unread), []byte("x{"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(unread)
	if err := s.Collect(); err == nil {
		t.Error("blobs are deleted though nobody knows whose they are")
	}
	write(digest.Digest("sha256:"+id), unread)
	if _, err := s.Find(id); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(s.opts.Root, v1.ImageIndexFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := s.List(); len(l) != 0 {
		t.Error(l)
	}
	if err := s.Collect(); err == nil {
		t.Error("a broken index is taken for an empty one")
	}
	if err := s.Untag("example.com/a:1"); err == nil {
		t.Error("a broken index is replaced")
	}
}

// Check finds what rotted, and the removal of what it finds mends the store.
func TestCheck(t *testing.T) {
	s := newStore(t)
	ids := map[string]string{}
	for _, name := range []string{"whole", "rotten", "short", "headless"} {
		ids[name] = add(t, s, "example.com/"+name+":1", "x="+name)
	}
	of := func(name string) string { return blob(s.opts.Root, digest.FromString(name)) }
	for path, data := range map[string]string{of("rotten"): "Rotten", of("short"): "sho"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(blob(s.opts.Root, digest.Digest("sha256:"+ids["headless"]))); err != nil {
		t.Fatal(err)
	}
	names := func(quick bool) (list []string) {
		found, err := s.Check(quick)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range found {
			if d.Err == nil || ids[strings.TrimSuffix(strings.TrimPrefix(d.Names[0], "example.com/"), ":1")] != d.ID {
				t.Errorf("%+v", d)
			}
			list = append(list, d.Names...)
		}
		return list
	}
	if got := strings.Join(names(true), " "); got != "example.com/short:1 example.com/headless:1" {
		t.Error("quickly:", got)
	}
	if got := strings.Join(names(false), " "); got != "example.com/rotten:1 example.com/short:1 example.com/headless:1" {
		t.Error(got)
	}
	for _, name := range []string{"rotten", "short", "headless"} {
		if err := s.Remove(ids[name]); err != nil {
			t.Error(err)
		}
	}
	if got := names(false); len(got) != 0 {
		t.Error(got)
	}
	if l := s.List(); len(l) != 1 || l[0].ID != ids["whole"] {
		t.Error(l)
	}
}
