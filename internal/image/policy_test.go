package image

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// payload is what signatures sign, in the form of both kinds.
func payload(kind, name, digest string) []byte {
	return []byte(fmt.Sprintf(`{"critical":{"type":%q,"image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{}}`, kind, digest, name))
}

// sigstoreKey makes a key and returns the path of its public half.
func (r *rig) sigstoreKey(name string) (*ecdsa.PrivateKey, string) {
	r.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		r.t.Fatal(err)
	}
	return key, r.file(name, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

// sigstoreSign attaches a signature to an image of the registry, as cosign does.
func (r *rig) sigstoreSign(key *ecdsa.PrivateKey, name, tag, d string) {
	r.t.Helper()
	text := payload("cosign container image signature", name+":"+tag, d)
	sum := sha256.Sum256(text)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		r.t.Fatal(err)
	}
	config := []byte("{}")
	data, err := json.Marshal(v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.Digest(r.reg.AddBlob(config)), Size: int64(len(config))},
		Layers: []v1.Descriptor{{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: digest.Digest(r.reg.AddBlob(text)), Size: int64(len(text)),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)}}}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.reg.AddManifest(strings.TrimPrefix(name, r.addr+"/"), strings.Replace(d, ":", "-", 1)+".sig", v1.MediaTypeImageManifest, data)
}

// gpgKey makes a key and returns the path of its public half.
func (r *rig) gpgKey(name string) (*openpgp.Entity, string) {
	r.t.Helper()
	e, err := openpgp.NewEntity(name, "", name+"@example.com", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	var public bytes.Buffer
	if err := e.Serialize(&public); err != nil {
		r.t.Fatal(err)
	}
	return e, r.file(name, public.String())
}

// gpgSign puts a signature into the lookaside folder.
func (r *rig) gpgSign(key *openpgp.Entity, lookaside, name, tag, d string) {
	r.t.Helper()
	var signed bytes.Buffer
	w, err := openpgp.Sign(&signed, key, nil, nil)
	if err == nil {
		_, err = w.Write(payload("atomic container signature", name+":"+tag, d))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.file(path.Join(lookaside, strings.TrimPrefix(name, r.addr+"/")+"@"+strings.Replace(d, ":", "=", 1), "signature-1"), signed.String())
}

func (r *rig) pullFor(ref, namespace string) (string, error) {
	return r.PullFor(context.Background(), ref, Auth{}, Pod{Namespace: namespace})
}

// refused checks that an error is the policy's.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	var reason errs.Reason
	if !errs.Is(err, errs.KindDenied) || !errors.As(err, &reason) || reason != errs.SignatureValidationFailed {
		t.Errorf("%s: %v", what, err)
	}
}

// Each namespace has its policy, at pulls and when containers are made, whoever pulled.
//
// Options: crio.image.signature_policy_dir
func TestNamespacePolicies(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.opts.Rules.PolicyDir = filepath.Join(r.dir, "policies")
		r.opts.Rules.SignaturesDir = filepath.Join(r.dir, "registries.d")
		r.opts.Rules.Policy = r.file("policy.json", `{"default": [{"type": "reject"}]}`)
		r.file("registries.d/all.yaml", fmt.Sprintf("default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://%s/lookaside\n", r.dir))
	})
	cosign, cosignPub := r.sigstoreKey("cosign.pub")
	_, otherPub := r.sigstoreKey("other.pub")
	gpg, gpgPub := r.gpgKey("gpg.pub")
	_, strangerPub := r.gpgKey("stranger.pub")
	scope := func(need string, args ...any) string {
		return fmt.Sprintf(`{"default": [{"type": "reject"}], "transports": {"docker": {%q: [%s]}}}`, r.addr+"/signed", fmt.Sprintf(need, args...))
	}
	const sigstore, signedBy = `{"type": "sigstoreSigned", "keyPath": %q}`, `{"type": "signedBy", "keyType": "GPGKeys", "keyPath": %q}`
	r.file("policies/lenient.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	r.file("policies/cosign.json", scope(sigstore, cosignPub))
	r.file("policies/othercosign.json", scope(sigstore, otherPub))
	r.file("policies/gpg.json", scope(signedBy, gpgPub))
	r.file("policies/stranger.json", scope(signedBy, strangerPub))
	commit, err := r.Prepare(r.opts.Rules)
	if err != nil {
		t.Fatal(err)
	}
	commit()

	both, d := r.add("signed/both", "v1", registry.Image{Compress: registry.Gzip}, "one")
	r.sigstoreSign(cosign, both, "v1", d)
	r.gpgSign(gpg, "lookaside", both, "v1", d)
	none, _ := r.add("signed/none", "v1", registry.Image{}, "two")
	// Somebody else's signature under another name.
	moved, d2 := r.add("signed/moved", "v1", registry.Image{}, "three")
	r.sigstoreSign(cosign, r.addr+"/signed/elsewhere", "v1", d2)

	ids := map[string]string{}
	for _, ref := range []string{both, none, moved} {
		for _, ns := range []string{"othercosign", "stranger", "", "without"} { // the last two have the global policy
			_, err := r.pullFor(ref+":v1", ns)
			refused(t, ref+" in "+ns, err)
		}
		if ref != both {
			for _, ns := range []string{"cosign", "gpg"} {
				_, err := r.pullFor(ref+":v1", ns)
				refused(t, ref+" in "+ns, err)
			}
		}
	}
	r.clean()
	for _, ref := range []string{both, none, moved} {
		if ids[ref], err = r.pullFor(ref+":v1", "lenient"); err != nil {
			t.Fatal(err)
		}
	}
	for _, ns := range []string{"cosign", "gpg"} {
		if _, err := r.pullFor(both+":v1", ns); err != nil {
			t.Errorf("a signed image in %s: %v", ns, err)
		}
	}
	for _, c := range []struct {
		ref, namespace string
		ok             bool
	}{
		{both, "cosign", true}, {both, "gpg", true}, {both, "lenient", true}, {none, "lenient", true},
		{both, "stranger", false}, {both, "othercosign", false}, {both, "", false}, {both, "without", false},
		{none, "cosign", false}, {none, "gpg", false}, {moved, "cosign", false},
	} {
		for _, wanted := range []string{c.ref + ":v1", "", ids[c.ref]} {
			err := r.Allow(t.Context(), ids[c.ref], wanted, c.namespace)
			if c.ok && err != nil {
				t.Errorf("%s, wanted as %q, in %s: %v", c.ref, wanted, c.namespace, err)
			} else if !c.ok {
				refused(t, c.ref+" wanted as "+wanted+" in "+c.namespace, err)
			}
		}
	}
	if err := r.Allow(t.Context(), ids[both], both+"@"+d, "cosign"); err != nil {
		t.Errorf("by digest: %v", err)
	}
	wants(t, r.Allow(t.Context(), ids[both], both, "../etc"), errs.KindInvalid, "namespace")

	// A pull that is allowed to one is not shared with another one.
	slow, _ := r.add("signed/slow", "v1", registry.Image{}, noise(100_000))
	r.reg.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 10_000})
	stalled := make(chan error, 1)
	go func() { _, err := r.pullFor(slow+":v1", "lenient"); stalled <- err }()
	eventually(t, "the first call pulls", func() bool { return len(r.Pulls()) == 1 })
	_, err = r.pullFor(slow+":v1", "cosign")
	refused(t, "a pull in flight", err)
	r.Close()
	if err := <-stalled; err == nil {
		t.Error("the pull did not wait")
	}

	r.file("policies/broken.json", "{")
	_, err = r.Prepare(r.opts.Rules)
	wants(t, err, errs.KindPrecondition, "namespace broken", "signature_policy_dir")
	wants(t, r.Allow(t.Context(), ids[none], none+":v1", "broken"), errs.KindPrecondition, "namespace broken")
	if err := os.RemoveAll(r.opts.Rules.PolicyDir); err != nil {
		t.Fatal(err)
	}
	if err := r.Allow(t.Context(), ids[none], none, "without"); err != nil { // no namespace has one
		t.Error(err)
	}
}

// An image that is signed for this machine in an index is known by the index's digest.
func TestNamespacePolicyOfIndex(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.opts.Rules.PolicyDir = filepath.Join(r.dir, "policies")
		r.opts.Rules.SignaturesDir = filepath.Join(r.dir, "registries.d")
		r.file("registries.d/all.yaml", "default-docker:\n  use-sigstore-attachments: true\n")
	})
	key, public := r.sigstoreKey("key.pub")
	r.file("policies/strict.json", fmt.Sprintf(`{"default": [{"type": "sigstoreSigned", "keyPath": %q}]}`, public))
	name, index := r.add("indexed", "v1", registry.Image{Index: true}, "one")
	id := r.mustPull(name + "@" + index)
	refused(t, "unsigned", r.Allow(t.Context(), id, name+"@"+index, "strict"))
	_, single := r.add("indexed", "", registry.Image{}, "one")
	r.sigstoreSign(key, name, "v1", single)
	if _, err := r.pullFor(name+"@"+index, "strict"); err != nil {
		t.Fatal(err)
	}
	if err := r.Allow(t.Context(), id, name+"@"+index, "strict"); err != nil {
		t.Error(err)
	}
}

// Credentials that are left for one pull of one namespace serve that pull alone.
//
// Options: crio.image.namespaced_auth_dir
func TestNamespacedAuth(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Rules.AuthDir = filepath.Join(r.dir, "auth") })
	name, _ := r.add("private", "v1", registry.Image{}, "one")
	r.reg.SetLogin("me", "secret", "")
	sum := sha256.Sum256([]byte(name))
	base := "mine-" + hex.EncodeToString(sum[:])
	left := func() (list []string) {
		_ = filepath.WalkDir(filepath.Join(r.dir, "auth"), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				list = append(list, path)
			}
			return nil
		})
		return list
	}
	login := func(password string) {
		r.file("auth/"+base+".json", fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.addr, base64.StdEncoding.EncodeToString([]byte("me:"+password))))
	}
	login("secret")
	_, err := r.pullFor(name+":v1", "others")
	wants(t, err, errs.KindDenied, "credentials")
	if len(left()) != 1 {
		t.Error("another namespace's pull took the file")
	}
	if _, err := r.pullFor(name+":v1", "mine"); err != nil {
		t.Fatal(err)
	}
	if l := left(); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
	if _, err := r.pullFor(name+":v1", "mine"); err == nil {
		t.Error("the credentials served a second pull")
	}
	login("guess")
	_, err = r.pullFor(name+":v1", "mine")
	wants(t, err, errs.KindDenied)
	r.file("auth/"+base+".json", "{")
	_, err = r.pullFor(name+":v1", "mine")
	wants(t, err, errs.KindPrecondition, "namespaced_auth_dir")
	if l := left(); len(l) != 0 {
		t.Errorf("left by failures: %v", l)
	}

	// Two calls share a pull; each left a file.
	r.reg.SetFaults(registry.Faults{Delay: 300 * time.Millisecond})
	login("secret")
	done := make(chan error, 2)
	call := func() { _, err := r.pullFor(name+":v1", "mine"); done <- err }
	go call()
	eventually(t, "the first call pulls", func() bool { return len(r.Pulls()) == 1 })
	login("secret")
	go call()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	r.settle()
	if l := left(); len(l) != 0 {
		t.Errorf("left by two calls: %v", l)
	}
	// A daemon that was killed leaves what it had taken; the next one deletes it.
	stray := r.file("auth/in-use/"+base+"-x.json", "{}")
	next := New(r.opts)
	defer next.Close()
	next.Collect()
	if _, err := os.Stat(stray); err == nil {
		t.Error("credentials of an earlier daemon are left")
	}
}

// Options: crio.image.short_name_mode
func TestShortNameMode(t *testing.T) {
	r := newRig(t, func(r *rig) {
		r.opts.Rules.ShortNames = "enforcing"
		r.opts.Rules.RegistriesConf = r.file("registries.conf", fmt.Sprintf("unqualified-search-registries = [\"127.0.0.1:1\", %q]\n[aliases]\nknown = \"%s/known\"\n[[registry]]\nlocation = %q\ninsecure = true\n", r.addr, r.addr, r.addr))
	})
	r.add("known", "v1", registry.Image{}, "one")
	r.add("searched", "v1", registry.Image{}, "two")
	r.mustPull("known:v1") // an alias is clear
	_, err := r.pull("searched:v1")
	wants(t, err, errs.KindInvalid, "searched:v1", "127.0.0.1:1 and "+r.addr, "short_name_mode")
	id := r.mustPull(r.addr + "/searched:v1")
	if i := r.find("searched:v1"); i.ID != id { // here it is no more a question
		t.Error(i)
	}
	rules := r.opts.Rules
	rules.ShortNames = "disabled"
	commit, err := r.Prepare(rules)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if got := r.mustPull("searched:v1"); got != id {
		t.Errorf("%s, not %s", got, id)
	}
}
