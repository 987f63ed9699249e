package image

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	own "github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/test/registry"
	"golang.org/x/sys/unix"
)

func TestPullForms(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	for _, c := range []registry.Compression{registry.None, registry.Gzip, registry.Zstd} {
		for _, form := range []registry.Image{{}, {Index: true}, {Docker: true}, {Docker: true, Index: true}} {
			form.Compress = c
			if c == registry.Zstd && form.Docker {
				continue // schema 2 knows no zstd
			}
			name := strings.ToLower(fmt.Sprintf("form/x%s-%t-%t", c, form.Docker, form.Index))
			t.Run(name, func(t *testing.T) {
				full, digest := r.add(name, "v1", form, "first "+name, "second "+name)
				var ids []string
				for _, ref := range []string{full + ":v1", full + "@" + digest, full + ":v1@" + digest, full + ":v1"} {
					ids = append(ids, r.mustPull(ref))
					if i := r.find(ref); i.ID != ids[0] || len(i.Config.Env) != 1 || i.Config.Env[0] != "NAME="+name || i.Size == 0 {
						t.Errorf("%s: %+v", ref, i)
					}
				}
				i := r.find(ids[0])
				if len(i.RepoTags) != 1 || i.RepoTags[0] != full+":v1" || !strings.Contains(strings.Join(i.RepoDigests, " "), full+"@"+digest) {
					t.Errorf("tags %v, digests %v", i.RepoTags, i.RepoDigests)
				}
				for _, id := range ids {
					if id != ids[0] {
						t.Errorf("the same image has several ids: %v", ids)
					}
				}
				lease := "lease-" + strings.ReplaceAll(name, "/", "-")
				if err := r.store.Lease(ctx, own.Lease{ID: lease, Image: ids[0]}); err != nil {
					t.Fatal(err)
				}
				defer r.store.Release(ctx, lease)
				path, err := r.store.Mount(ctx, lease)
				if err != nil {
					t.Fatal(err)
				}
				defer r.store.Unmount(ctx, lease)
				for i, want := range []string{"first ", "second "} {
					if data, err := os.ReadFile(filepath.Join(path, fmt.Sprintf("file%d", i))); string(data) != want+name {
						t.Errorf("file%d: %q, %v", i, data, err)
					}
				}
			})
		}
	}
	r.noTemp()
}

func TestPullErrors(t *testing.T) {
	r := newRig(t, nil)
	good, digest := r.add("good", "v1", registry.Image{Compress: registry.Gzip}, noise(100_000))
	foreign, _ := r.add("foreign", "v1", registry.Image{Index: true, Foreign: true}, "x")
	for _, c := range []struct {
		name, ref string
		faults    registry.Faults
		kind      errs.Kind
		parts     []string
	}{
		{"cut transfers", good + ":v1", registry.Faults{CutBlobs: true}, errs.KindUnavailable, []string{"cannot pull " + good + ":v1: the registry cannot be reached or breaks off"}},
		{"wrong configuration", good + ":v1", registry.Faults{WrongBlobs: true}, errs.KindUnavailable, []string{"what the registry sends cannot be used; pull again"}},
		{"wrong layer", good + ":v1", registry.Faults{WrongBlobs: true, BlobsOver: 10000}, errs.KindUnavailable, []string{"what the registry sends cannot be used; pull again", "layer sha256:"}},
		{"no JSON", good + ":v1", registry.Faults{Garbage: true}, errs.KindUnavailable, []string{"cannot be used"}},
		{"no JSON by digest", good + "@" + digest, registry.Faults{Garbage: true}, errs.KindUnavailable, []string{"cannot be used"}},
		{"out of order", good + ":v1", registry.Faults{Unavailable: true}, errs.KindUnavailable, []string{"HTTP 503"}},
		{"too many", good + ":v1", registry.Faults{TooMany: true}, errs.KindUnavailable, []string{"HTTP 429"}},
		{"absent tag", good + ":v2", registry.Faults{}, errs.KindNotFound, []string{good + ":v2", "check the name and the tag"}},
		{"absent digest", good + "@" + registry.Digest([]byte("no")), registry.Faults{}, errs.KindNotFound, []string{"check the name"}},
		{"absent repository", r.addr + "/absent:v1", registry.Faults{}, errs.KindNotFound, []string{"check the name"}},
		{"other machines", foreign + ":v1", registry.Faults{}, errs.KindNotFound, []string{"platform"}},
		{"nobody there", "127.0.0.1:1/x:v1", registry.Faults{}, errs.KindUnavailable, []string{"127.0.0.1:1/x:v1", "cannot be reached"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.reg.SetFaults(c.faults)
			defer r.reg.SetFaults(registry.Faults{})
			_, err := r.pull(c.ref)
			wants(t, err, c.kind, c.parts...)
			r.clean()
		})
	}
	r.mustPull(good + ":v1") // nothing of it stays in the way
}

// Options: crio.image.default_transport
func TestPullReferences(t *testing.T) {
	r := newRig(t, nil)
	id := strings.Repeat("ab", 32)
	for _, ref := range []string{"", "Upper/case", "a b", "a/../b", "/abs", "a//b", "a:", "a@", "a@sha256:12", "a:ta g", "oci:/etc", "docker://", id, "sha256:" + id, strings.Repeat("a", 300)} {
		_, err := r.pull(ref)
		wants(t, err, errs.KindInvalid)
		if ref == id || ref == "sha256:"+id {
			_, err = r.Find(context.Background(), ref)
			wants(t, err, errs.KindNotFound)
			if err := r.Remove(context.Background(), ref); err != nil {
				t.Error(err)
			}
			continue
		}
		_, err = r.Find(context.Background(), ref)
		wants(t, err, errs.KindInvalid)
		wants(t, r.Remove(context.Background(), ref), errs.KindInvalid)
	}
	r.clean()
}

func TestOnePullForAll(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("shared", "v1", registry.Image{Compress: registry.Gzip}, "a", "b", "c")
	r.reg.SetFaults(registry.Faults{Delay: 200 * time.Millisecond})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			ref := full + ":v1"
			if i%2 == 0 {
				ref = "docker://" + ref
			}
			if _, err := r.pull(ref); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if m, b := r.reg.Manifests.Load(), r.reg.Blobs.Load(); m != 1 || b != 5 {
		t.Errorf("%d manifests and %d blobs were sent, not 1 and 5 (the configuration is read twice)", m, b)
	}
	r.noTemp()
}

func TestParallelPulls(t *testing.T) {
	r := newRig(t, nil)
	var wg sync.WaitGroup
	base := noise(200_000)
	for i := range 6 {
		full, _ := r.add(fmt.Sprintf("par%d", i), "v1", registry.Image{Compress: registry.Gzip}, base, fmt.Sprint(i))
		wg.Go(func() {
			if _, err := r.pull(full + ":v1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l := r.list(); len(l) != 6 {
		t.Errorf("%d images", len(l))
	}
	if n := r.layers(); n != 7 {
		t.Errorf("%d layers; the shared one is to be there once", n)
	}
	r.noTemp()
}

func TestCallerGoesAway(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("away", "v1", registry.Image{}, "a")
	r.reg.SetFaults(registry.Faults{Delay: 500 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error)
	go func() {
		_, err := r.Pull(ctx, full+":v1", Auth{})
		gone <- err
	}()
	eventually(t, "the pull begins", func() bool { return len(r.Pulls()) == 1 })
	stays := make(chan error)
	go func() {
		_, err := r.pull(full + ":v1")
		stays <- err
	}()
	cancel()
	wants(t, <-gone, errs.KindCanceled, "goes on without this caller")
	if err := <-stays; err != nil {
		t.Error(err)
	}
	r.find(full + ":v1")
}

// While a pull stalls, all else answers; it is given up in the end, and the next one
// begins anew.
//
// Options: crio.image.pull_progress_timeout
func TestStall(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Rules.ProgressTimeout = 2 * time.Second })
	other, _ := r.add("other", "v1", registry.Image{}, "o")
	r.mustPull(other + ":v1")
	full, _ := r.add("stall", "v1", registry.Image{Compress: registry.Gzip}, noise(300_000), noise(300_000))
	r.reg.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 10000})
	stalled := make(chan error)
	go func() {
		_, err := r.pull(full + ":v1")
		stalled <- err
	}()
	eventually(t, "bytes come", func() bool {
		p := r.Pulls()
		if len(p) == 0 {
			return false
		}
		n, _ := p[0].Moved()
		return n > 0
	})
	if l := r.list(); len(l) != 1 {
		t.Errorf("during a pull %d images are listed", len(l))
	}
	if _, _, err := r.store.Usage(); err != nil {
		t.Error(err)
	}
	wants(t, <-stalled, errs.KindUnavailable, full+":v1", "stalls", "pull_progress_timeout")
	r.reg.SetFaults(registry.Faults{})
	r.mustPull(full + ":v1")
	r.noTemp()
}

// Options: crio.image.global_auth_file
func TestLogin(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("private", "v1", registry.Image{}, "a")
	basic := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for _, token := range []string{"", "t0ken"} {
		r.reg.SetLogin("me", "secret", token)
		for name, c := range map[string]struct {
			auth  Auth
			file  string
			kind  errs.Kind // Internal: it works
			parts []string
		}{
			"password":      {auth: Auth{Username: "me", Password: "secret"}},
			"base64":        {auth: Auth{Auth: basic}},
			"file":          {file: fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.addr, basic)},
			"wrong":         {auth: Auth{Username: "me", Password: "guess"}, kind: errs.KindDenied, parts: []string{"refuses the credentials"}},
			"none":          {kind: errs.KindDenied, parts: []string{"asks for credentials", "imagePullSecrets"}},
			"wrong in file": {file: fmt.Sprintf(`{"auths": {%q: {"auth": "bWU6Z3Vlc3M="}}}`, r.addr), kind: errs.KindDenied},
			"broken file":   {file: "{", kind: errs.KindPrecondition, parts: []string{"auth.json", "global_auth_file"}},
			"bad base64":    {auth: Auth{Auth: "%"}, kind: errs.KindInvalid, parts: []string{"base64"}},
		} {
			t.Run(name+" "+token, func(t *testing.T) {
				r.Service.rules.Load().AuthFile = filepath.Join(r.dir, "absent.json")
				if c.file != "" {
					r.Service.rules.Load().AuthFile = r.file("auth.json", c.file)
				}
				id, err := r.Pull(context.Background(), full+":v1", c.auth)
				if c.kind != errs.KindInternal {
					wants(t, err, c.kind, c.parts...)
					if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "guess") {
						t.Errorf("the error tells the password: %v", err)
					}
					r.clean()
				} else if err != nil {
					t.Error(err)
				} else if err := r.Remove(context.Background(), id); err != nil {
					t.Error(err)
				}
			})
		}
	}
	r.reg.SetLogin("me", "secret", "t0ken")
	r.Service.rules.Load().AuthFile = filepath.Join(r.dir, "absent.json")
	if _, err := r.Pull(context.Background(), full+":v1", Auth{RegistryToken: "t0ken"}); err != nil {
		t.Errorf("with a token: %v", err)
	}
}

// Options: crio.image.certs_dir
func TestTLS(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Rules.CertsDir = filepath.Join(r.dir, "certs") })
	r.add("tls", "v1", registry.Image{}, "a")
	addr, ca, stop := r.reg.ServeTLS()
	defer stop()
	_, err := r.pull(addr + "/tls:v1")
	wants(t, err, errs.KindUnavailable, "not trusted", "certs_dir")
	r.clean()
	plain, stopPlain, err := r.reg.Serve() // one that registries.conf does not call insecure
	if err != nil {
		t.Fatal(err)
	}
	defer stopPlain()
	_, err = r.pull(plain + "/tls:v1")
	wants(t, err, errs.KindUnavailable, "insecure = true")
	r.file("certs/"+addr+"/ca.crt", string(ca))
	r.mustPull(addr + "/tls:v1")
}

func TestPolicy(t *testing.T) {
	r := newRig(t, nil)
	full, _ := r.add("policy", "v1", registry.Image{}, "a")
	for name, c := range map[string]struct {
		text  string
		kind  errs.Kind
		parts []string
	}{
		"accept": {text: `{"default": [{"type": "insecureAcceptAnything"}]}`},
		"reject": {`{"default": [{"type": "reject"}]}`, errs.KindDenied, []string{full + ":v1", "policy"}},
		"scope": {fmt.Sprintf(`{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {%q: [{"type": "reject"}]}}}`, full),
			errs.KindDenied, []string{"policy"}},
		"scope accepts": {text: fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {%q: [{"type": "insecureAcceptAnything"}]}}}`, full)},
		"signed":        {`{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/absent.gpg"}]}`, errs.KindDenied, []string{"signature was required"}},
		"broken":        {`{"default": [`, errs.KindPrecondition, []string{"policy.json"}},
		"unknown":       {`{"default": [{"type": "hope"}]}`, errs.KindPrecondition, []string{"policy.json", "hope"}},
	} {
		t.Run(name, func(t *testing.T) {
			r.Service.rules.Load().Policy = r.file("policy.json", c.text)
			r.reg.Blobs.Store(0)
			id, err := r.pull(full + ":v1")
			if c.parts == nil {
				if err != nil {
					t.Error(err)
				} else if err := r.Remove(context.Background(), id); err != nil {
					t.Error(err)
				}
				return
			}
			wants(t, err, c.kind, c.parts...)
			r.clean()
			if n := r.reg.Blobs.Load(); n != 0 {
				t.Errorf("%d blobs of a rejected image were fetched", n)
			}
		})
	}
	r.Service.rules.Load().Policy = filepath.Join(r.dir, "absent.json")
	_, err := r.pull(full + ":v1")
	wants(t, err, errs.KindPrecondition, "absent.json")
}

// A full disk: the error says so, nothing is left, and what was there stays.
func TestFullDisk(t *testing.T) {
	r := newRig(t, func(r *rig) {
		if err := os.MkdirAll(filepath.Join(r.dir, "root"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", filepath.Join(r.dir, "root"), "tmpfs", 0, "size=12m"); err != nil {
			t.Skip("needs a tmpfs: ", err)
		}
		t.Cleanup(func() { unix.Unmount(filepath.Join(r.dir, "root"), unix.MNT_DETACH) })
	})
	small, _ := r.add("small", "v1", registry.Image{}, noise(1000))
	r.mustPull(small + ":v1")
	var before unix.Statfs_t
	if err := unix.Statfs(filepath.Join(r.dir, "root"), &before); err != nil {
		t.Fatal(err)
	}
	zeros := strings.Repeat("\x00", 20<<20) // fits as it comes, but not unpacked
	for name, files := range map[string][]string{"transfer": {noise(2 << 20), noise(16 << 20)}, "unpacking": {noise(2 << 20), zeros}} {
		t.Run(name, func(t *testing.T) {
			full, _ := r.add(name, "v1", registry.Image{Compress: registry.Gzip}, files...)
			_, err := r.pull(full + ":v1")
			wants(t, err, errs.KindExhausted, full+":v1", "disk", "full", "remove images")
			r.noTemp()
			eventually(t, "the layers that came are deleted", func() bool { return r.layers() == 1 })
			if l := r.list(); len(l) != 1 || l[0].ID != r.find(small+":v1").ID {
				t.Errorf("%v", l)
			}
			var now unix.Statfs_t
			if err := unix.Statfs(filepath.Join(r.dir, "root"), &now); err != nil {
				t.Fatal(err)
			}
			if now.Bfree+64 < before.Bfree {
				t.Errorf("%d blocks are lost", before.Bfree-now.Bfree)
			}
		})
	}
	again, _ := r.add("again", "v1", registry.Image{Compress: registry.Gzip}, noise(3<<20))
	r.mustPull(again + ":v1")
}
