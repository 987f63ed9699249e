package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	own "github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/test/registry"
)

// bring imports all images of a medium and returns their ids.
func (r *rig) bring(path string) (ids []string, copied int, err error) {
	r.t.Helper()
	m, err := r.Medium(context.Background(), path)
	if err != nil {
		return nil, 0, err
	}
	defer m.Close()
	for _, i := range m.Images {
		id, fresh, err := r.Import(context.Background(), path, i)
		if err != nil {
			return ids, copied, err
		}
		if fresh {
			copied++
		}
		ids = append(ids, id)
	}
	return ids, copied, nil
}

// media writes images of the registry in all forms.
func (r *rig) media(names map[string]string) map[string]string {
	r.t.Helper()
	layout, err := r.reg.Layout(names)
	if err != nil {
		r.t.Fatal(err)
	}
	docker, err := r.reg.DockerArchive(names)
	if err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	list := map[string]string{}
	for form, write := range map[string]func(path string) error{
		"layout":                func(p string) error { return registry.WriteFolder(p, layout) },
		"oci-archive.tar":       func(p string) error { return registry.WriteTar(p, layout, registry.None) },
		"oci-archive.tar.gz":    func(p string) error { return registry.WriteTar(p, layout, registry.Gzip) },
		"oci-archive.tar.zst":   func(p string) error { return registry.WriteTar(p, layout, registry.Zstd) },
		"docker-archive.tar":    func(p string) error { return registry.WriteTar(p, docker, registry.None) },
		"docker-archive.tar.gz": func(p string) error { return registry.WriteTar(p, docker, registry.Gzip) },
	} {
		list[form] = filepath.Join(dir, form)
		if err := write(list[form]); err != nil {
			r.t.Fatal(err)
		}
	}
	return list
}

// watched looks at the pulls in flight again and again, for the race detector.
func (r *rig) watched() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, p := range r.Pulls() {
				p.Progress()
			}
			select {
			case <-end:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-done }
}

// TestMedia: an image comes from every form of medium as it comes from a registry, once.
func TestMedia(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "v1", registry.Image{Compress: registry.Gzip}, "base", "one")
	r.add("two", "v1", registry.Image{Compress: registry.Gzip, Docker: true}, "base", "two")
	want := map[string]string{}
	for _, n := range []string{"one", "two"} {
		want["example.org/"+n+":v1"] = r.mustPull(r.addr + "/" + n + ":v1")
	}
	digests := r.list()
	for form, path := range r.media(map[string]string{"example.org/one:v1": "one:v1", "example.org/two:v1": "two:v1"}) {
		t.Run(form, func(t *testing.T) {
			for _, id := range want {
				if err := r.Remove(context.Background(), id); err != nil {
					t.Fatal(err)
				}
			}
			r.collect(-1)
			r.reg.Blobs.Store(0)
			defer r.watched()()
			if _, copied, err := r.bring(path); err != nil || copied != 2 {
				t.Fatalf("%d copied, %v", copied, err)
			}
			for name, id := range want {
				i, err := r.Find(context.Background(), name)
				if err != nil || i.ID != id || i.Config.Env == nil {
					t.Errorf("%s: %+v, %v", name, i, err)
				}
				pulled := slices.IndexFunc(digests, func(p Image) bool { return p.ID == id })
				same := strings.HasSuffix(i.RepoDigests[0], digests[pulled].RepoDigests[0][strings.Index(digests[pulled].RepoDigests[0], "@"):])
				if !same && !strings.HasPrefix(form, "docker") { // which does not keep manifests
					t.Errorf("%s has the digest %s", name, i.RepoDigests)
				}
			}
			if _, copied, err := r.bring(path); err != nil || copied != 0 {
				t.Errorf("again: %d copied, %v", copied, err)
			}
			if n := r.reg.Blobs.Load(); n != 0 {
				t.Errorf("%d blobs came from the registry", n)
			}
			r.noTemp()
		})
	}
}

// TestMediaForms: indexes, several names, artifacts, and images for other machines.
func TestMediaForms(t *testing.T) {
	r := artifactRig(t, nil)
	r.add("index", "v1", registry.Image{Compress: registry.Zstd, Index: true}, "index")
	r.add("foreign", "v1", registry.Image{Index: true, Foreign: true}, "foreign")
	path := filepath.Join(t.TempDir(), "layout")
	files, err := r.reg.Layout(map[string]string{"example.org/a:v1": "index:v1", "example.org/b:v2": "index:v1", "": "index:v1"})
	if err == nil {
		err = registry.WriteFolder(path, files)
	}
	if err != nil {
		t.Fatal(err)
	}
	ids, copied, err := r.bring(path)
	if err != nil || len(ids) != 1 || copied != 1 {
		t.Fatal(ids, copied, err)
	}
	i, err := r.Find(context.Background(), "example.org/b:v2")
	if err != nil || i.ID != ids[0] || !slices.Contains(i.RepoTags, "example.org/a:v1") {
		t.Error(i, err)
	}
	_, d := r.addThing("model", "v1", "weights=42")
	model := r.tar(map[string]string{"example.org/model:v1": "model:v1", "example.org/model:v2": "model:v1"})
	for try := range 2 {
		ids, copied, err := r.bring(model)
		if err != nil || len(ids) != 1 || "sha256:"+ids[0] != d || copied != 1-try {
			t.Error(try, ids, copied, err)
		}
	}
	for _, name := range []string{"example.org/model:v1", "example.org/model:v2"} {
		if i, err := r.Find(context.Background(), name); err != nil || !i.Artifact {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
	foreign := r.tar(map[string]string{"example.org/f:v1": "foreign:v1"})
	if _, _, err := r.bring(foreign); !errs.Is(err, errs.KindUnimplemented) || !strings.Contains(err.Error(), "nothing for machines like this one") {
		t.Error(err)
	}
}

// tar writes an uncompressed archive of a layout.
func (r *rig) tar(names map[string]string) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "images.tar")
	files, err := r.reg.Layout(names)
	if err == nil {
		err = registry.WriteTar(path, files, registry.None)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

// TestDamagedMedia: what is cut, forged, nameless or something else is refused, with the
// reason, and leaves neither image nor layer.
func TestDamagedMedia(t *testing.T) {
	r := newRig(t, nil)
	r.add("app", "v1", registry.Image{Compress: registry.Gzip}, noise(100000))
	whole := r.tar(map[string]string{"example.org/app:v1": "app:v1"})
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(change func(files map[string][]byte)) []byte {
		files, err := r.reg.Layout(map[string]string{"example.org/app:v1": "app:v1"})
		if err != nil {
			t.Fatal(err)
		}
		change(files)
		path := filepath.Join(t.TempDir(), "forged.tar")
		if err := registry.WriteTar(path, files, registry.None); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	largest := func(files map[string][]byte) (name string) {
		for n, d := range files {
			if name == "" || len(d) > len(files[name]) {
				name = n
			}
		}
		return name
	}
	nameless, err := r.reg.Layout(map[string]string{"": "app:v1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		kind errs.Kind
		text string
	}{
		"cut":      {data[:len(data)/2], errs.KindUnavailable, "damaged or not complete; copy it again"},
		"empty":    {nil, errs.KindInvalid, "neither index.json nor manifest.json"},
		"no tar":   {[]byte(strings.Repeat("text ", 1000)), errs.KindUnavailable, "damaged or not complete"},
		"flipped":  {forged(func(f map[string][]byte) { f[largest(f)][50000] ^= 1 }), errs.KindUnavailable, "it is damaged; copy it again: layer sha256:"},
		"lacks":    {forged(func(f map[string][]byte) { delete(f, largest(f)) }), errs.KindUnavailable, "it lacks sha256:"},
		"no index": {forged(func(f map[string][]byte) { f["index.json"] = []byte("{") }), errs.KindInvalid, "is no index"},
		"nameless": {forged(func(f map[string][]byte) {
			clear(f)
			for n, d := range nameless {
				f[n] = d
			}
		}), errs.KindInvalid, "no image in it has a name: annotate it"},
		"traverse": {forged(func(f map[string][]byte) {
			f["index.json"] = []byte(strings.ReplaceAll(string(f["index.json"]), "sha256:", "sha256:../../"))
		}), errs.KindInvalid, "digest that is none"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.tar")
			if err := os.WriteFile(path, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := r.bring(path)
			if !errs.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.text) || !strings.Contains(fmt.Sprint(err), path) {
				t.Errorf("kind %v: %v", errs.KindOf(err), err)
			}
			r.clean()
			if n := r.layers(); n != 0 {
				t.Errorf("%d layers are left", n)
			}
		})
	}
}

// TestMediaPolicy: the signature policy counts for media as well, by transport and path.
func TestMediaPolicy(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.opts.Rules.Policy = r.file("policy.json", `{"default": [{"type": "reject"}], "transports": {"oci": {"`+r.dir+`/trusted": [{"type": "insecureAcceptAnything"}]}}}`)
	})
	r.add("app", "v1", registry.Image{Compress: registry.Gzip}, "app")
	for _, c := range []struct{ dir, name, want string }{
		{"other", "example.org/app:v1", "the signature policy (policy.json) refuses it"},
		{"trusted", "example.org/app:v1", ""},
		{"another", "example.org/app:v2", "the signature policy (policy.json) refuses it"}, // a name for what is there
	} {
		files, err := r.reg.Layout(map[string]string{c.name: "app:v1"})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(r.dir, c.dir)
		if err := registry.WriteFolder(path, files); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.bring(path); (err == nil) != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v", c.dir, err)
		}
	}
	if i, err := r.Find(context.Background(), "example.org/app:v2"); err == nil {
		t.Errorf("a name that nobody may give: %v", i.RepoTags)
	}
}

// TestOffline: no registry is asked; what is there is found, what is not is named.
// Options: crio.image.offline
func TestOffline(t *testing.T) {
	r := newRig(t, nil)
	name, _ := r.add("app", "v1", registry.Image{}, "app")
	id := r.mustPull(name + ":v1")
	rules := r.opts.Rules
	rules.Offline = true
	commit, err := r.Prepare(rules)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	r.reg.Manifests.Store(0)
	if got, err := r.pull(name + ":v1"); err != nil || got != id {
		t.Error(got, err)
	}
	_, err = r.pull(name)
	if !errs.Is(err, errs.KindNotFound) || !strings.Contains(err.Error(), "this node is offline") || !strings.Contains(err.Error(), name+":latest") {
		t.Errorf("%v: %v", errs.KindOf(err), err)
	}
	if _, err := r.Bring(context.Background(), name+":artifact"); !errs.Is(err, errs.KindNotFound) {
		t.Error(err)
	}
	if n := r.reg.Manifests.Load(); n != 0 {
		t.Errorf("the registry was asked for %d manifests", n)
	}
}

// TestReadOnlyStore: images of another store are used in place; they are pinned and
// cannot be removed, and a pull adds only what is missing.
// Options: crio.image.additional_image_stores
func TestReadOnlyStore(t *testing.T) {
	first := newRig(t, nil)
	name, _ := first.add("base", "v1", registry.Image{Compress: registry.Gzip}, "base")
	id := first.mustPull(name + ":v1")
	medium := filepath.Join(t.TempDir(), "medium") // one process cannot have a store in both ways
	if out, err := exec.Command("cp", "-a", filepath.Join(first.dir, "root"), medium).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	second := &rig{t: t, reg: first.reg, addr: first.addr, dir: t.TempDir(), opts: first.opts}
	var err error
	second.store, err = own.Open(own.Options{Root: filepath.Join(second.dir, "root"), RunRoot: filepath.Join(second.dir, "run"), Driver: "overlay",
		Additional: []string{medium, filepath.Join(second.dir, "not-mounted")}, Log: first.opts.Log})
	if err != nil {
		t.Fatal(err)
	}
	second.opts.Store = second.store
	second.Service = New(second.opts)
	t.Cleanup(func() {
		second.Service.Close()
		if err := second.store.Teardown(); err != nil {
			t.Error(err)
		}
	})
	i, err := second.Find(context.Background(), name+":v1")
	if err != nil || i.ID != id || !i.Pinned {
		t.Fatalf("%+v, %v", i, err)
	}
	if err := second.Remove(context.Background(), id); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), "read-only store") {
		t.Errorf("%v", err)
	}
	top, _ := second.add("top", "v1", registry.Image{Compress: registry.Gzip}, "base", "top")
	second.mustPull(top + ":v1")
	layers, err := os.ReadDir(filepath.Join(second.dir, "root", "overlay-layers"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range layers {
		if strings.HasSuffix(l.Name(), ".tar-split.gz") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d layers were written beside the read-only store", n)
	}
	if err := second.store.Lease(context.Background(), own.Lease{ID: "c", Image: id}); err != nil {
		t.Fatal(err)
	}
	root, err := second.store.Mount(context.Background(), "c")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "file0")); err != nil || string(data) != "base" {
		t.Errorf("%q, %v", data, err)
	}
	if err := second.store.Unmount(context.Background(), "c"); err != nil {
		t.Error(err)
	}
	if err := second.store.Release(context.Background(), "c"); err != nil {
		t.Error(err)
	}
	if used, _, err := second.Usage(); err != nil || used.Bytes > 1<<20 {
		t.Errorf("%+v, %v", used, err)
	}
}
