package image

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/test/registry"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// seal encrypts layers.
func seal(c config.CryptoConfig) func([]byte, v1.Descriptor) ([]byte, map[string]string, error) {
	return func(data []byte, d v1.Descriptor) ([]byte, map[string]string, error) {
		r, end, err := ocicrypt.EncryptLayer(c.EncryptConfig, bytes.NewReader(data), d)
		if err != nil {
			return nil, nil, err
		}
		sealed, err := io.ReadAll(r)
		notes, e := end()
		return sealed, notes, errors.Join(err, e)
	}
}

// rsaKey makes a key: its private half, its public half and a certificate, in PEM.
func rsaKey(t *testing.T) (private, public, certificate []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, about, about, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return text("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), text("PUBLIC KEY", der), text("CERTIFICATE", cert)
}

// Encrypted images are pulled by who has the key, which counts as soon as it is there.
//
// Options: crio.runtime.decryption_keys_path
func TestEncrypted(t *testing.T) {
	r := newRig(t, func(r *rig) { r.opts.Rules.KeysDir = filepath.Join(r.dir, "keys") })
	private, public, cert := rsaKey(t)
	stranger, _, _ := rsaKey(t)
	jwe, err := config.EncryptWithJwe([][]byte{public})
	if err != nil {
		t.Fatal(err)
	}
	pkcs7, err := config.EncryptWithPkcs7([][]byte{cert})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]config.CryptoConfig{"jwe": jwe, "pkcs7": pkcs7} {
		name, d := r.add(what, "v1", registry.Image{Compress: registry.Gzip, Index: what == "jwe", Seal: seal(c)}, "secret of "+what, "more")
		blobs := r.reg.Blobs.Load()
		_, err := r.pull(name + ":v1")
		wants(t, err, errs.KindDenied, "encrypted", "decryption_keys_path", r.opts.Rules.KeysDir)
		r.file("keys/stranger.pem", string(stranger))
		r.file("keys/README", "no key")
		_, err = r.pull(name + ":v1")
		wants(t, err, errs.KindDenied, "encrypted")
		if got := r.reg.Blobs.Load() - blobs; got > 2 {
			t.Errorf("%s: %d blobs were fetched in vain", what, got)
		}
		r.clean()
		r.file("keys/node/key.pem", string(private))
		r.file("keys/node/cert.pem", string(cert))
		id := r.mustPull(name + ":v1")
		i := r.find(name + ":v1")
		if i.ID != id || i.Config.Env[0] != "NAME="+what {
			t.Errorf("%+v", i)
		}
		_, err = r.pull(name + "@" + d)
		wants(t, err, errs.KindPrecondition, "encrypted", "tag")
		top, err := r.store.Raw().Image(id)
		if err != nil {
			t.Fatal(err)
		}
		dir, err := r.store.Raw().MountImage(top.ID, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(dir, "file0")); string(data) != "secret of "+what {
			t.Errorf("%s: %q, %v", what, data, err)
		}
		if _, err := r.store.Raw().UnmountImage(top.ID, true); err != nil {
			t.Error(err)
		}
		if err := r.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(r.opts.Rules.KeysDir); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(r.opts.Rules.KeysDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := r.opts.Rules
	bad.KeysDir = filepath.Join(bad.KeysDir, "below a file")
	_, err = r.Prepare(bad)
	wants(t, err, errs.KindPrecondition, "decryption_keys_path")
}
