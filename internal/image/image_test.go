package image

import (
	"context"
	"encoding/json"
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

func TestNames(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	img := registry.Image{Compress: registry.Gzip}
	full, _ := r.add("names", "v1", img, "same")
	r.add("names", "v2", img, "same")
	id := r.mustPull(full + ":v1")
	if other := r.mustPull(full + ":v2"); other != id {
		t.Fatalf("the same image has two ids: %s and %s", id, other)
	}
	if i := r.find(id); !slices.Contains(i.RepoTags, full+":v1") || !slices.Contains(i.RepoTags, full+":v2") || len(r.list()) != 1 {
		t.Errorf("tags %v", i.RepoTags)
	}
	for _, ref := range []string{id, "sha256:" + id, id[:12], "sha256:" + id[:12], full + ":v1", "docker://" + full + ":v2"} {
		if i := r.find(ref); i.ID != id {
			t.Errorf("%s is %s", ref, i.ID)
		}
	}

	// The tag moves: it stands for the new image, the old one stays and says what it was.
	_, digest := r.add("names", "v1", img, "changed")
	moved := r.mustPull(full + ":v1")
	if moved == id || r.find(full+":v1").ID != moved || r.find(full+":v2").ID != id {
		t.Errorf("v1 is %s, v2 %s", r.find(full+":v1").ID, r.find(full+":v2").ID)
	}
	r.add("names", "v1", img, "changed again")
	r.mustPull(full + ":v1")
	if i := r.find(moved); len(i.RepoTags) != 0 || !slices.Contains(i.RepoDigests, full+"@"+digest) {
		t.Errorf("without its tag: %v, %v", i.RepoTags, i.RepoDigests)
	}

	// Removal by one name removes the image with all; a second time is success.
	r.mustPull(full + ":v2")
	for range 2 {
		if err := r.Remove(ctx, full+":v2"); err != nil {
			t.Error(err)
		}
		_, err := r.Find(ctx, id)
		wants(t, err, errs.KindNotFound)
	}
	if n := len(r.list()); n != 2 {
		t.Errorf("%d images", n)
	}
}

func TestRemoveInUse(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	full, _ := r.add("used", "v1", registry.Image{}, "x")
	id := r.mustPull(full + ":v1")
	if err := r.store.Lease(ctx, own.Lease{ID: "user", Image: id}); err != nil {
		t.Fatal(err)
	}
	wants(t, r.Remove(ctx, full+":v1"), errs.KindPrecondition, full+":v1", "user", "remove them first")
	r.find(full + ":v1")
	if err := r.store.Release(ctx, "user"); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(ctx, full+":v1"); err != nil {
		t.Error(err)
	}
	if n := r.layers(); n != 0 {
		t.Errorf("%d layers are left", n)
	}
}

func TestPinned(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", true},
		{"registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.9", false},
		{"registry.k8s.io/pause", "registry.k8s.io/pause:3.9", true},
		{"registry.k8s.io/*", "registry.k8s.io/a/b:1", true},
		{"*PAUSE*", "registry.k8s.io/pause:3.9", true},
		{"*pause*", "registry.k8s.io/coredns:1", false},
		{"*", "anything:1", true},
		{"quay.io/x", "quay.io/xy:1", false},
		{"127.0.0.1:5000/a", "127.0.0.1:5000/a@sha256:00", true},
	} {
		if got := pinned([]string{c.pattern}, c.name); got != c.want {
			t.Errorf("%s, %s: %t", c.pattern, c.name, got)
		}
	}
	r := newRig(t, func(r *rig) { r.opts.Rules.Pinned = []string{"*keep*"} })
	keep, _ := r.add("keep", "v1", registry.Image{}, "x")
	other, _ := r.add("other", "v1", registry.Image{}, "y")
	r.mustPull(keep + ":v1")
	r.mustPull(other + ":v1")
	if !r.find(keep+":v1").Pinned || r.find(other+":v1").Pinned {
		t.Error("the wrong image is pinned")
	}
}

// A damaged image (a power cut can lose its last files) is not listed, counts as
// absent and is repaired by a pull.
func TestDamagedImage(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("damaged", "v1", registry.Image{}, "x")
	healthy, _ := r.add("healthy", "v1", registry.Image{}, "y")
	id := r.mustPull(full + ":v1")
	r.mustPull(healthy + ":v1")
	again := New(r.opts) // one that has not seen it healthy
	defer again.Close()
	files, err := filepath.Glob(filepath.Join(r.dir, "root/overlay-images", id, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files of the image are found", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	again.opts.Log = discard()
	_, err = again.Find(context.Background(), full+":v1")
	wants(t, err, errs.KindNotFound, "damaged")
	if l, err := again.List(context.Background()); err != nil || len(l) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := again.Pull(context.Background(), full+":v1", Auth{}); err != nil {
		t.Fatal(err)
	}
	if i, err := again.Find(context.Background(), full+":v1"); err != nil || i.ID != id {
		t.Errorf("%v, %v", i, err)
	}
}

// Layers without an image go when they are old; temporary files of an earlier
// daemon go at once; images, containers and their layers stay.
func TestCollect(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	full, _ := r.add("stays", "v1", registry.Image{}, "a", "b")
	id := r.mustPull(full + ":v1")
	if err := r.store.Lease(ctx, own.Lease{ID: "user", Image: id}); err != nil {
		t.Fatal(err)
	}
	lost, _ := r.add("lost", "v1", registry.Image{Compress: registry.Gzip}, "c", noise(100_000))
	r.reg.SetFaults(registry.Faults{CutBlobs: true, BlobsOver: 10_000})
	if _, err := r.pull(lost + ":v1"); err == nil {
		t.Fatal("a cut transfer is success")
	}
	r.settle()
	if n := r.layers(); n != 4 { // a, b, user's, and c, which the next try will find
		t.Fatalf("%d layers", n)
	}
	r.reg.SetFaults(registry.Faults{})
	blobs := r.reg.Blobs.Load()
	r.mustPull(lost + ":v1")
	if got := r.reg.Blobs.Load() - blobs; got != 3 {
		t.Errorf("the second try fetched %d blobs; its configuration (twice) and the layer that was cut were missing", got)
	}
	if err := r.Remove(ctx, lost+":v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Raw().CreateLayer("orphan", "", nil, "", false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.Raw().CreateLayer("child", "orphan", nil, "", false, nil); err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(r.temp, "container_images_storage1")
	if err := os.MkdirAll(filepath.Join(stray, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	next := New(r.opts)
	defer next.Close()
	next.Collect()
	if _, err := os.Stat(stray); err == nil {
		t.Error("temporary files of an earlier daemon are left")
	}
	if n := r.layers(); n != 5 {
		t.Errorf("%d layers: young ones are to stay", n)
	}
	next.collect(-time.Hour)
	if n := r.layers(); n != 3 {
		t.Errorf("%d layers: only those in use are to stay", n)
	}
	r.find(full + ":v1")
}

// Another process with the same library, as podman is, sees the image.
func TestOthersSeeTheImages(t *testing.T) {
	r := newRig(t, nil)
	full, digest := r.add("seen", "v1", registry.Image{Compress: registry.Zstd}, "x")
	id := r.mustPull(full + ":v1")
	data, err := os.ReadFile(filepath.Join(r.dir, "root/overlay-images/images.json"))
	if err != nil {
		t.Fatal(err)
	}
	var records []struct {
		ID    string
		Names []string
	}
	if err := json.Unmarshal(data, &records); err != nil || len(records) != 1 || records[0].ID != id || records[0].Names[0] != full+":v1" {
		t.Errorf("images.json: %s, %v", data, err)
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("needs skopeo for the rest")
	}
	out, err := exec.Command("skopeo", "inspect", "containers-storage:[overlay@"+filepath.Join(r.dir, "root")+"+"+filepath.Join(r.dir, "run")+"]"+full+":v1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), digest) {
		t.Errorf("skopeo: %v\n%s", err, out)
	}
}

func TestClose(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("closed", "v1", registry.Image{}, noise(100_000))
	r.reg.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 10_000})
	done := make(chan error)
	go func() {
		_, err := r.pull(full + ":v1")
		done <- err
	}()
	eventually(t, "the pull begins", func() bool { return len(r.Pulls()) == 1 })
	r.Close()
	wants(t, <-done, errs.KindUnavailable, "the daemon ends", full)
	r.noTemp()
	_, err := r.pull(full + ":v1")
	wants(t, err, errs.KindUnavailable, "the daemon ends", full)
}
