package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/test/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactRig is a rig with a store of artifacts.
func artifactRig(t *testing.T, change func(*rig)) *rig {
	return newRig(t, func(r *rig) {
		r.opts.Rules.Artifacts = true
		r.opts.Artifacts = artifact.New(artifact.Options{Root: artifact.In(filepath.Join(r.dir, "root")), Shared: []string{filepath.Join(r.dir, "shared")}, RunDir: filepath.Join(r.dir, "leases"),
			Bring: func(ctx context.Context, ref string) (string, error) { return r.Bring(ctx, ref) }, Log: r.opts.Log})
		if change != nil {
			change(r)
		}
	})
}

// addThing makes an artifact of files NAME=CONTENT.
func (r *rig) addThing(name, tag string, files ...string) (string, string) {
	r.t.Helper()
	a := registry.Artifact{Type: "application/vnd.example.thing"}
	for _, f := range files {
		title, data, _ := strings.Cut(f, "=")
		a.Files = append(a.Files, registry.Blob{MediaType: "application/octet-stream", Name: title, Data: []byte(data)})
	}
	d, err := r.reg.AddArtifact(name, tag, a)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.addr + "/" + name, d
}

// artifactFiles lists what is on the disk of the store of artifacts.
func (r *rig) artifactFiles() (list []string) {
	root := artifact.In(filepath.Join(r.dir, "root"))
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() || strings.HasPrefix(filepath.Base(path), ".pull-") {
			list = append(list, strings.TrimPrefix(path, root+"/"))
		}
		return nil
	})
	return list
}

// An artifact is pulled where an image was asked for, and is listed, found, pinned and
// removed like one.
//
// Options: crio.image.oci_artifact_mount_support
func TestArtifacts(t *testing.T) {
	r := artifactRig(t, func(r *rig) { r.opts.Rules.Pinned = []string{"*keep*"} })
	ctx := t.Context()
	name, d := r.addThing("models/keep", "v1", "weights=42", "docs/readme=read")
	id := r.mustPull(name + ":v1")
	if "sha256:"+id != d {
		t.Errorf("id %s, digest %s", id, d)
	}
	image, _ := r.add("image", "v1", registry.Image{}, "one")
	r.mustPull(image + ":v1")
	if l := r.list(); len(l) != 2 {
		t.Errorf("%+v", l)
	}
	for _, ref := range []string{name + ":v1", name + "@" + d, id, "sha256:" + id, id[:12]} {
		i := r.find(ref)
		if i.ID != id || !i.Artifact || !i.Pinned || !slices.Equal(i.RepoTags, []string{name + ":v1"}) || !slices.Equal(i.RepoDigests, []string{name + "@" + d}) || i.Size < 8 {
			t.Errorf("%s: %+v", ref, i)
		}
	}
	// The tag moves; the old one can still be found and removed, what it shares stays.
	_, d2 := r.addThing("models/keep", "v1", "weights=43", "docs/readme=read")
	blobs := r.reg.Blobs.Load()
	id2 := r.mustPull(name + ":v1")
	if got := r.reg.Blobs.Load() - blobs; got != 2 {
		t.Errorf("%d blobs were fetched; the configuration always is, and one is new", got)
	}
	if i := r.find(name + ":v1"); i.ID != id2 || "sha256:"+id2 != d2 {
		t.Errorf("%+v", i)
	}
	if i := r.find(id); len(i.RepoTags) != 0 || !slices.Equal(i.RepoDigests, []string{name + "@" + d}) {
		t.Errorf("the old one: %+v", i)
	}
	if err := r.Remove(ctx, id); err != nil {
		t.Fatal(err)
	}
	a, err := r.opts.Artifacts.Find(id2)
	if err != nil {
		t.Fatal(err)
	}
	files, err := a.Files()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for i, want := range []artifact.File{{Name: "weights", Path: "43"}, {Name: "docs/readme", Path: "read"}} {
		if data, err := os.ReadFile(files[i].Path); err != nil || string(data) != want.Path || files[i].Name != want.Name {
			t.Errorf("%v: %q, %v", files[i], data, err)
		}
	}
	usage, _, err := r.Usage()
	plain, _, _ := r.store.Usage()
	if err != nil || usage.Bytes <= plain.Bytes || usage.Inodes <= plain.Inodes {
		t.Errorf("usage %v without artifacts, %v with them, %v", plain, usage, err)
	}
	for range 2 { // absence is success
		if err := r.Remove(ctx, name+":v1"); err != nil {
			t.Fatal(err)
		}
	}
	if l := r.artifactFiles(); len(l) != 3 { // oci-layout, index.json and its lock
		t.Errorf("left: %v", l)
	}
	if l := r.list(); len(l) != 1 || l[0].Artifact {
		t.Errorf("%+v", l)
	}
}

// A name is either an image or an artifact, whichever was pulled last.
func TestNameChangesKind(t *testing.T) {
	r := artifactRig(t, nil)
	name, _ := r.add("turncoat", "v1", registry.Image{}, "one")
	for range 2 {
		r.add("turncoat", "v1", registry.Image{}, "one")
		img := r.mustPull(name + ":v1")
		if i := r.find(name + ":v1"); i.ID != img || i.Artifact {
			t.Errorf("after the image: %+v", i)
		}
		r.addThing("turncoat", "v1", "a=1")
		thing := r.mustPull(name + ":v1")
		if i := r.find(name + ":v1"); i.ID != thing || !i.Artifact {
			t.Errorf("after the artifact: %+v", i)
		}
		if i := r.find(img); len(i.RepoTags) != 0 {
			t.Errorf("the image: %+v", i)
		}
	}
}

// What tells artifacts from images.
func TestArtifactKinds(t *testing.T) {
	r := artifactRig(t, nil)
	for _, c := range []struct {
		name     string
		a        registry.Artifact
		artifact bool
	}{
		{"empty", registry.Artifact{Type: "application/x"}, true},
		{"config", registry.Artifact{ConfigType: "application/vnd.cncf.seccomp-profile.config.v1+json", Config: []byte("{}"),
			Files: []registry.Blob{{MediaType: v1.MediaTypeImageLayer, Name: "p.json", Data: []byte("{}")}}}, true},
		{"model", registry.Artifact{Type: "application/vnd.cncf.model.manifest.v1+json", ConfigType: "application/vnd.cncf.model.config.v1+json", Config: []byte(`{"descriptor":{}}`),
			Files: []registry.Blob{{MediaType: "application/vnd.cncf.model.weight.v1.raw", Data: []byte("w"), Notes: map[string]string{"org.cncf.model.filepath": "deep/weights.bin"}},
				{MediaType: "application/vnd.cncf.model.weight.config.v1.raw", Data: []byte("{\"c\":1}"), Notes: map[string]string{"org.cncf.model.filepath": "config.json"}}}}, true},
		{"layers", registry.Artifact{ConfigType: v1.MediaTypeImageConfig, Config: []byte(`{"os":"linux"}`), Files: []registry.Blob{{MediaType: "text/plain", Data: []byte("x")}}}, true},
	} {
		if _, err := r.reg.AddArtifact(c.name, "v1", c.a); err != nil {
			t.Fatal(err)
		}
		i := r.find(r.mustPull(r.addr + "/" + c.name + ":v1"))
		if i.Artifact != c.artifact {
			t.Errorf("%s: %+v", c.name, i)
		}
	}
	for _, p := range r.Ended() { // what is called a configuration may be a file
		for _, l := range p.Layers {
			if l.State != Fetched || l.Done != l.Size {
				t.Errorf("%s: %+v", p.Ref, l)
			}
		}
	}
	a, err := r.opts.Artifacts.FindName(r.addr + "/model:v1")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := a.Files(); err != nil || f[0].Name != "deep/weights.bin" {
		t.Errorf("%v, %v", f, err)
	}
}

// A pull that fails leaves nothing, whatever the registry does; one that is repeated
// goes on. Nothing falls back from an image that cannot be reached.
func TestArtifactPullFails(t *testing.T) {
	r := artifactRig(t, func(r *rig) { r.opts.Rules.ProgressTimeout = 300 * time.Millisecond })
	name, _ := r.addThing("big", "v1", "a="+noise(300_000), "b="+noise(300_000))
	for what, f := range map[string]registry.Faults{
		"cut": {CutBlobs: true, BlobsOver: 1000}, "wrong": {WrongBlobs: true, BlobsOver: 1000}, "stalled": {Stall: time.Hour, BlobsOver: 1000}, "gone": {Unavailable: true},
	} {
		r.reg.SetFaults(f)
		_, err := r.pull(name + ":v1")
		wants(t, err, errs.KindUnavailable, name+":v1")
		r.settle()
		if l := r.artifactFiles(); len(l) != 0 {
			t.Errorf("%s leaves %v", what, l)
		}
	}
	r.reg.SetFaults(registry.Faults{})
	r.mustPull(name + ":v1")
	off := r.opts.Rules
	off.Artifacts = false
	commit, err := r.Prepare(off)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	_, err = r.pull(name + ":v1")
	wants(t, err, errs.KindPrecondition, "oci_artifact_mount_support")
	if l := r.list(); len(l) != 1 { // so that it can be removed
		t.Error(l)
	}
}

// A daemon that was killed while it fetched or after it had moved blobs leaves nothing
// for longer than the next one needs to begin.
func TestArtifactsAfterKill(t *testing.T) {
	r := artifactRig(t, nil)
	name, _ := r.addThing("whole", "v1", "a=1")
	id := r.mustPull(name + ":v1")
	root := artifact.In(filepath.Join(r.dir, "root"))
	before := r.artifactFiles()
	for _, f := range []string{".pull-123/" + strings.Repeat("ab", 32), "blobs/sha256/" + strings.Repeat("cd", 32), "signatures/" + strings.Repeat("ef", 32) + "/signature-1"} {
		r.file(filepath.Join("root/artifacts", f), "half")
	}
	next := artifact.New(artifact.Options{Root: root, Log: r.opts.Log})
	if err := next.Collect(); err != nil {
		t.Fatal(err)
	}
	if after := r.artifactFiles(); !slices.Equal(before, after) {
		t.Errorf("%v, then %v", before, after)
	}
	// A blob that rotted is fetched again.
	a, err := r.opts.Artifacts.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := a.Files()
	if err := os.WriteFile(files[0].Path, []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.mustPull(name + ":v1")
	if data, err := os.ReadFile(files[0].Path); string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}
	if err := os.Remove(files[0].Path); err != nil {
		t.Fatal(err)
	}
	if l := r.list(); len(l) != 0 {
		t.Errorf("a damaged one is listed: %v", l)
	}
	r.mustPull(name + ":v1")
	r.find(id)
}

// Artifacts of others' stores are found and used, and stay as they are.
//
// Options: crio.runtime.additional_artifact_stores
func TestSharedArtifacts(t *testing.T) {
	r := artifactRig(t, nil)
	name, _ := r.addThing("shared", "v1", "a=1")
	id := r.mustPull(name + ":v1")
	if err := os.Rename(artifact.In(filepath.Join(r.dir, "root")), filepath.Join(r.dir, "shared")); err != nil {
		t.Fatal(err)
	}
	if i := r.find(name + ":v1"); i.ID != id || !i.Artifact {
		t.Errorf("%+v", i)
	}
	wants(t, r.Remove(t.Context(), id), errs.KindPrecondition, "only read", "shared")
	r.mustPull(name + ":v1") // into the own store
	if l := r.list(); len(l) != 1 {
		t.Errorf("%+v", l)
	}
	if err := r.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
	r.find(id)
}

// Profile brings what is not there, and reads its one file.
func TestProfile(t *testing.T) {
	r := artifactRig(t, nil)
	name, _ := r.addThing("profile", "v1", "seccomp.json={\"defaultAction\":\"SCMP_ACT_ERRNO\"}")
	requests := r.reg.Manifests.Load()
	for range 2 {
		data, err := r.opts.Artifacts.Profile(t.Context(), name+":v1")
		if err != nil || string(data) != `{"defaultAction":"SCMP_ACT_ERRNO"}` {
			t.Errorf("%q, %v", data, err)
		}
	}
	if got := r.reg.Manifests.Load() - requests; got != 1 {
		t.Errorf("it was pulled %d times", got)
	}
	if _, err := r.reg.AddArtifact("bare", "v1", registry.Artifact{ConfigType: "application/x", Config: []byte("profile")}); err != nil {
		t.Fatal(err)
	}
	if data, err := r.opts.Artifacts.Profile(t.Context(), r.addr+"/bare:v1"); err != nil || string(data) != "profile" {
		t.Errorf("%q, %v", data, err)
	}
	image, _ := r.add("image", "v1", registry.Image{}, "one")
	_, err := r.opts.Artifacts.Profile(t.Context(), image+":v1")
	wants(t, err, errs.KindInvalid, "image")
	_, err = r.opts.Artifacts.Profile(t.Context(), r.addr+"/none:v1")
	wants(t, err, errs.KindNotFound)
	big, _ := r.addThing("big", "v1", "a="+noise(5<<20))
	_, err = r.opts.Artifacts.Profile(t.Context(), big+":v1")
	wants(t, err, errs.KindInvalid, "no profile")
}

// An artifact is judged like an image, by signatures that its store keeps.
func TestArtifactPolicies(t *testing.T) {
	r := artifactRig(t, func(r *rig) {
		r.opts.Rules.PolicyDir = filepath.Join(r.dir, "policies")
		r.opts.Rules.SignaturesDir = filepath.Join(r.dir, "registries.d")
		r.file("registries.d/all.yaml", fmt.Sprintf("default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://%s/lookaside\n", r.dir))
	})
	key, pub := r.sigstoreKey("key.pub")
	_, otherPub := r.sigstoreKey("other.pub")
	gpg, gpgPub := r.gpgKey("gpg.pub")
	policy := func(need string, args ...any) string { return fmt.Sprintf(`{"default": [`+need+`]}`, args...) }
	const sigstore, signedBy = `{"type": "sigstoreSigned", "keyPath": %q, "signedIdentity": {"type": %q}}`, `{"type": "signedBy", "keyType": "GPGKeys", "keyPath": %q}`
	r.file("policies/key.json", policy(sigstore, pub, "matchRepository"))
	r.file("policies/exact.json", policy(sigstore, pub, "matchExact"))
	r.file("policies/other.json", policy(sigstore, otherPub, "matchRepository"))
	r.file("policies/gpg.json", policy(signedBy, gpgPub))
	r.file("policies/moved.json", policy(`{"type": "sigstoreSigned", "keyPath": %q, "signedIdentity": {"type": "remapIdentity", "prefix": %q, "signedPrefix": %q}}`, pub, r.addr+"/copy", r.addr+"/signed"))
	signed, d := r.addThing("signed", "v1", "a=1")
	r.sigstoreSign(key, signed, "v1", d)
	r.gpgSign(gpg, "lookaside", signed, "v1", d)
	plain, _ := r.addThing("plain", "v1", "a=2")
	copied, d3 := r.addThing("copy", "v1", "a=3")
	r.sigstoreSign(key, signed, "v1", d3)
	r.reg.AddManifest("copy", strings.Replace(d3, ":", "-", 1)+".sig", v1.MediaTypeImageManifest, r.manifest("signed", strings.Replace(d3, ":", "-", 1)+".sig"))
	_, err := r.pullFor(plain+":v1", "key")
	refused(t, "the pull", err)
	if l := r.artifactFiles(); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
	ids := map[string]string{}
	for _, ref := range []string{signed, plain, copied} {
		ids[ref] = r.mustPull(ref + ":v1")
	}
	for _, c := range []struct {
		ref, namespace string
		ok             bool
	}{
		{signed, "key", true}, {signed, "exact", true}, {signed, "gpg", true}, {signed, "none", true}, {copied, "moved", true},
		{signed, "other", false}, {plain, "key", false}, {plain, "gpg", false}, {copied, "key", false},
	} {
		err := r.Allow(t.Context(), ids[c.ref], c.ref+":v1", c.namespace)
		if c.ok && err != nil {
			t.Errorf("%s in %s: %v", c.ref, c.namespace, err)
		} else if !c.ok {
			refused(t, c.ref+" in "+c.namespace, err)
		}
		_, pulled := r.pullFor(c.ref+":v1", c.namespace)
		if (pulled == nil) != (err == nil) {
			t.Errorf("%s in %s: the pull says %v, the store %v", c.ref, c.namespace, pulled, err)
		}
	}
	// A signature of the tag is not one of the digest, unless the policy says so.
	refused(t, "by digest", r.Allow(t.Context(), ids[signed], signed+"@"+d, "exact"))
	if err := r.Allow(t.Context(), ids[signed], signed+"@"+d, "gpg"); err != nil {
		t.Error(err)
	}
	r.noTemp()
}

// manifest is what the registry has under a tag.
func (r *rig) manifest(name, tag string) []byte {
	data := r.reg.Manifest(name, tag)
	if data == nil {
		r.t.Fatal(errors.New("no manifest " + name + ":" + tag))
	}
	return data
}
