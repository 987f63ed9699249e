package bundle

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// signer is a publisher, whose public key lies on the machine.
type signer struct {
	private crypto.Signer
	public  string
}

func (r *rig) signer(name, kind string) signer {
	r.t.Helper()
	var s signer
	var err error
	switch kind {
	case "ECDSA":
		s.private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "Ed25519":
		_, s.private, err = ed25519.GenerateKey(rand.Reader)
	case "RSA":
		s.private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(s.private.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	s.public = filepath.Join(r.dir, name)
	r.put(s.public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return s
}

func (r *rig) put(path string, data []byte) {
	r.t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// sign puts the signature beside a file, as openssl makes it or as cosign does.
func (r *rig) sign(s signer, file string, asBase64 bool) {
	r.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		r.t.Fatal(err)
	}
	hash := crypto.Hash(0)
	if _, ok := s.private.(ed25519.PrivateKey); !ok {
		sum := sha256.Sum256(data)
		hash, data = crypto.SHA256, sum[:]
	}
	sig, err := s.private.Sign(rand.Reader, data, hash)
	if err != nil {
		r.t.Fatal(err)
	}
	if asBase64 {
		sig = []byte(base64.StdEncoding.EncodeToString(sig) + "\n")
	}
	r.put(file+".sig", sig)
}

// link puts a program into the PATH of the rig.
func (r *rig) link(name, path string) {
	r.t.Helper()
	if err := os.Symlink(path, filepath.Join(r.path, name)); err != nil {
		r.t.Fatal(err)
	}
}

// verifiers are the ways in which scripts/get can check a signature; each makes a PATH
// that has this one only.
var verifiers = []struct {
	name string
	add  func(r *rig)
}{
	{"monocrio in PATH", func(r *rig) {
		_, tree := realBundle(r.t)
		r.link("crio", filepath.Join(tree, "bin/monocrio"))
	}},
	{"monocrio of another name", func(r *rig) {
		_, tree := realBundle(r.t)
		r.link("monocrio", filepath.Join(tree, "bin/monocrio"))
	}},
	{"openssl", func(r *rig) {
		path, err := exec.LookPath("openssl")
		if err != nil {
			r.t.Skip("this machine lacks openssl")
		}
		r.link("openssl", path)
	}},
	// Not the real one, which is 110 MB: it takes the arguments that cosign 2.6.1 took when it
	// was tried by hand, and what it says of signatures is openssl's word.
	{"a stand-in for cosign", func(r *rig) {
		path, err := exec.LookPath("openssl")
		if err != nil {
			r.t.Skip("this machine lacks openssl")
		}
		r.put(filepath.Join(r.path, "cosign"), []byte("#!/bin/sh\n"+
			`[ "$#:$1 $2 $4 $6" = "7:verify-blob --key --signature --insecure-ignore-tlog=true" ] || { echo "Error: usage"; exit 2; }`+"\n"+
			path+` dgst -sha256 -verify "$3" -signature "$5" "$7" && exit 0`+"\n"+path+` base64 -d <"$5" >"$5.raw"`+"\n"+
			path+` dgst -sha256 -verify "$3" -signature "$5.raw" "$7"`+"\n"))
		if err := os.Chmod(filepath.Join(r.path, "cosign"), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}},
}

// What is signed by the key is installed, and nothing else, by every way of checking
// and of fetching.
func TestSignature(t *testing.T) {
	for i, v := range verifiers {
		for j, not := range []string{"wget", "curl", ""} {
			if v.name != "openssl" && (i+j)%3 != 0 {
				continue // each way of fetching with one of the others
			}
			t.Run(v.name+" without "+not, func(t *testing.T) {
				r := newRig(t)
				if r.without(not); not == "" {
					r.busybox()
				}
				v.add(r)
				r.checkSignatures(v.name == "a stand-in for cosign")
			})
		}
	}
}

func (r *rig) checkSignatures(cosign bool) {
	t := r.t
	before := tree(t, r.file(""))
	key, other := r.signer("key.pub", "ECDSA"), r.signer("other.pub", "ECDSA")
	v1 := r.release("v1")
	r.fails("no signature", 4, "is not signed", nil, "--verify", key.public)
	for _, as64 := range []bool{true, false} {
		r.sign(key, v1, as64)
		if r.get("--verify", key.public); r.version() != "v1" {
			t.Errorf("installed is %s", r.version())
		}
		r.installed("uninstall")
		r.same("uninstall", before)
	}
	out := r.get("--verify", key.public, "--dry-run")
	if !strings.Contains(out, key.public) {
		t.Errorf("--dry-run says %q", out)
	}
	r.fails("another key", 4, "not by "+other.public, nil, "--verify", other.public)
	r.extra = []string{"MONOCRIO_VERIFY_KEY=" + other.public}
	r.fails("another key by the environment", 4, "not by "+other.public, nil)
	r.get("--verify", key.public, "-d", filepath.Join(r.dir, "copied"))
	r.extra = nil
	copied := filepath.Join(r.dir, "copied", filepath.Base(v1))
	r.fails("another key for a file", 4, "not by "+other.public, nil, "--file", copied, "--verify", other.public)
	r.get("--file", copied, "--verify", key.public)
	r.installed("uninstall")
	r.same("uninstall", before)

	// Somebody who may write to the mirror has an executable and its checksum.
	r.release("v1", `printf '#!/bin/sh\ntouch `+r.file("etc/ran")+`\n' >install; cp install bin/monocrio`)
	r.fails("another tarball", 4, "not by "+key.public, nil, "--verify", key.public)
	r.sign(other, v1, true)
	r.fails("another's signature", 4, "not by "+key.public, nil, "--verify", key.public)
	for what, sig := range map[string][]byte{"an empty signature": nil, "a page": []byte("<html>\n"), "a large file": make([]byte, 1<<20)} {
		r.put(v1+".sig", sig)
		r.fails(what, 4, "cannot verify", nil, "--verify", key.public)
	}
	// It may not be sold as another release either.
	v1 = r.release("v1")
	r.sign(key, v1, true)
	r.sh(`cd "$1"; mkdir v2; for f in v1/*; do cp "$f" "v2/$(basename "$f" | sed s/v1/v2/)"; done; sed -i s/v1.tar/v2.tar/ v2/*.sha256sum`, filepath.Join(r.site, "download"))
	r.fails("v1 as v2", 4, `it holds version "v1"`, nil, "-t", "v2", "--verify", key.public)
	r.sh(`rm "$1"`, copied+".sig")
	r.fails("no signature beside a file", 4, "copy it too", nil, "--file", copied, "--verify", key.public)
	if cosign {
		return // takes other keys too
	}
	ed := r.signer("ed.pub", "Ed25519")
	r.sign(ed, v1, false)
	r.get("-t", "v1", "--verify", ed.public)
	r.sign(ed, v1, true)
	r.get("-t", "v1", "--verify", ed.public)
	r.fails("a key for RSA", 2, "only ECDSA on P-256 and Ed25519", nil, "-t", "v1", "--verify", r.signer("rsa.pub", "RSA").public)
}

// A key that is none is told before anything is fetched, and so is a machine that can
// check no signature.
func TestVerifyKey(t *testing.T) {
	r := newRig(t)
	r.without("")
	key := r.signer("key.pub", "ECDSA")
	r.fails("nothing to verify with", 1, "openssl or cosign", nil, "--verify", key.public)
	// Another program of the name is left alone.
	r.put(filepath.Join(r.path, "crio"), []byte("#!/bin/sh\ntouch "+r.file("etc/ran")+"\n"))
	if err := os.Chmod(filepath.Join(r.path, "crio"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.fails("a foreign crio", 1, "openssl or cosign", nil, "--verify", key.public)
	r.link("openssl", "/bin/false")
	for what, text := range map[string]string{"is a private key": "-----BEGIN EC PRIVATE KEY-----\n", "no public key": "hello\n", "": ""} {
		path := filepath.Join(r.dir, "no-key")
		r.put(path, []byte(text))
		r.fails("a key that is "+text, 2, what, nil, "--verify", path)
	}
	r.fails("no key", 2, "/nowhere", nil, "--verify", "/nowhere")
	r.fails("an option without value", 2, "--verify needs a value", nil, "--verify")
	r.sign(key, r.release("v1"), true)
	r.fails("a key that openssl cannot read", 2, "it is damaged", nil, "--verify", key.public)
}

// Whoever fetches for others gets the signature too, without having the key.
func TestSignatureIsKept(t *testing.T) {
	r := newRig(t)
	file := r.release("v1")
	dir := filepath.Join(r.dir, "copied")
	kept := filepath.Join(dir, filepath.Base(file)+".sig")
	r.get("-d", dir)
	if _, err := os.Stat(kept); err == nil {
		t.Error("there is a signature of what nobody signed")
	}
	r.sign(r.signer("key.pub", "ECDSA"), file, true)
	r.get("-d", dir)
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	r.sh(`rm "$1"`, file+".sig")
	r.get("-d", dir)
	if _, err := os.Stat(kept); err == nil {
		t.Error("an old signature is still there")
	}
}

// The version that is installed checks the one that comes, wherever it is installed.
func TestUpgradeVerifies(t *testing.T) {
	r := newRig(t)
	r.without("")
	_, real := realBundle(t)
	key, other := r.signer("key.pub", "ECDSA"), r.signer("other.pub", "ECDSA")
	r.release("v1", "cp "+filepath.Join(real, "bin/monocrio")+" bin/monocrio")
	r.get()
	v2 := r.release("v2")
	r.sign(other, v2, true)
	r.fails("another key", 4, "not by "+key.public, nil, "--verify", key.public)
	r.sign(key, v2, true)
	if r.get("--verify", key.public); r.version() != "v2" {
		t.Errorf("installed is %s", r.version())
	}
}
