package signature

import (
	"bytes"
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

	"github.com/monocrio/monocrio/internal/errs"
)

type folder struct {
	t   *testing.T
	dir string
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f folder) write(name string, data []byte) string {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

// public writes a public key as PEM.
func (f folder) public(name string, key crypto.PublicKey) string {
	f.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.write(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func newECDSA(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign makes what cosign and openssl make.
func sign(t *testing.T, key crypto.Signer, data []byte) []byte {
	t.Helper()
	hash, digest := crypto.Hash(0), data
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		sum := sha256.Sum256(data)
		hash, digest = crypto.SHA256, sum[:]
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestVerify(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edOther, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][2]crypto.Signer{
		"ECDSA":   {newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P256())},
		"Ed25519": {ed, edOther},
	} {
		t.Run(name, func(t *testing.T) {
			f := folder{t, t.TempDir()}
			key, err := ReadKey(f.public("key.pub", keys[0].Public()))
			if err != nil {
				t.Fatal(err)
			}
			other, err := ReadKey(f.public("other.pub", keys[1].Public()))
			if err != nil {
				t.Fatal(err)
			}
			for size, content := range map[string][]byte{"nothing": nil, "small": []byte("hello\n"), "large": bytes.Repeat([]byte("0123456789abcdef"), 1<<16)} {
				file := f.write("file", content)
				raw := sign(t, keys[0], content)
				text := base64.StdEncoding.EncodeToString(raw)
				for form, sig := range map[string][]byte{"binary": raw, "base64": []byte(text), "base64 and a newline": []byte(text + "\n"),
					"base64 in lines": []byte(text[:20] + "\r\n" + text[20:] + "\r\n")} {
					path := f.write("file.sig", sig)
					if err := key.Verify(file, path); err != nil {
						t.Errorf("%s, %s: %v", size, form, err)
					}
					if err := other.Verify(file, path); err == nil || !strings.Contains(err.Error(), "not by "+f.path("other.pub")) || errs.KindOf(err) != errs.KindDenied {
						t.Errorf("%s, %s, another key: %v", size, form, err)
					}
				}
				changed := append(bytes.Clone(content), 0)
				if err := key.Verify(f.write("changed", changed), f.write("s", raw)); err == nil {
					t.Errorf("%s: a byte more is not noticed", size)
				}
				if len(content) > 0 {
					changed = bytes.Clone(content)
					changed[len(content)/2] ^= 1
					if err := key.Verify(f.write("changed", changed), f.path("s")); err == nil {
						t.Errorf("%s: a changed bit is not noticed", size)
					}
				}
				for i := range raw {
					bad := bytes.Clone(raw)
					bad[i] ^= 1
					if err := key.Verify(file, f.write("s", bad)); err == nil {
						t.Errorf("%s: a changed byte %d of the signature is not noticed", size, i)
					}
				}
			}
		})
	}
}

// A file in the signature's place that is none is told as such, and not read to its end.
func TestNoSignature(t *testing.T) {
	f := folder{t, t.TempDir()}
	k := newECDSA(t, elliptic.P256())
	key, err := ReadKey(f.public("key.pub", k.Public()))
	if err != nil {
		t.Fatal(err)
	}
	file := f.write("file", []byte("hello"))
	good := sign(t, k, []byte("hello"))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":        {nil, "is empty"},
		"blank":        {[]byte(" \n"), "is empty"},
		"text":         {[]byte("404 page not found\n"), "holds no ECDSA signature"},
		"base64 of it": {[]byte(base64.StdEncoding.EncodeToString([]byte("hello"))), "holds no ECDSA signature"},
		"and more":     {append(bytes.Clone(good), 0), "holds no ECDSA signature"},
		"zeros":        {[]byte{0x30, 6, 2, 1, 0, 2, 1, 0}, "not by"},
		"huge":         {bytes.Repeat([]byte("A"), maxSmall+1), "more than"},
	} {
		if err := key.Verify(file, f.write("sig", c.data)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := key.Verify(file, "/dev/zero"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("without end: %v", err)
	}
	if err := key.Verify(file, f.path("absent")); err == nil || !strings.Contains(err.Error(), "cannot read the signature") {
		t.Errorf("absent: %v", err)
	}
	if err := key.Verify(f.path("absent"), f.write("sig", good)); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
	if err := key.Verify(f.dir, f.path("sig")); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a folder: %v", err)
	}
}

func TestKeys(t *testing.T) {
	f := folder{t, t.TempDir()}
	ec := newECDSA(t, elliptic.P256())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, data []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
	}
	public, err := os.ReadFile(f.public("good", ec.Public()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKey(f.write("text before", append([]byte("the release key\n"), public...))); err != nil {
		t.Errorf("with text before: %v", err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"private":     {f.write("private", block("PRIVATE KEY", private)), "it is a private key"},
		"of cosign":   {f.write("cosign.key", block("ENCRYPTED SIGSTORE PRIVATE KEY", private)), "cosign public-key"},
		"certificate": {f.write("cert", block("CERTIFICATE", private)), "it is a certificate"},
		"RSA":         {f.public("rsa", rsaKey.Public()), "for RSA"},
		"old RSA":     {f.write("rsa1", block("RSA PUBLIC KEY", private)), "for RSA"},
		"P-384":       {f.public("p384", newECDSA(t, elliptic.P384()).Public()), "P-384"},
		"of ssh":      {f.write("id.pub", []byte("ssh-ed25519 AAAA me\n")), "no PEM file"},
		"something":   {f.write("x", block("X509 CRL", private)), "holds a X509 CRL"},
		"two":         {f.write("two", append(bytes.Clone(public), public...)), "more than one"},
		"damaged":     {f.write("cut", block("PUBLIC KEY", private)), "it is damaged"},
		"empty":       {f.write("empty", nil), "is empty"},
		"absent":      {f.path("absent"), "no such file"},
		"huge":        {"/dev/zero", "more than"},
	} {
		if _, err := ReadKey(c.path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What openssl signs is understood, with keys as openssl makes them.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("this machine lacks openssl")
	}
	f := folder{t, t.TempDir()}
	file := f.write("file", []byte("hello\n"))
	for name, script := range map[string]string{
		"ECDSA":              `openssl ecparam -name prime256v1 -genkey -noout -out key; openssl dgst -sha256 -sign key -out file.sig file`,
		"ECDSA of PKCS8":     `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key; openssl dgst -sha256 -sign key -out file.sig file`,
		"Ed25519":            `openssl genpkey -algorithm ed25519 -out key; openssl pkeyutl -sign -inkey key -rawin -in file -out file.sig`,
		"base64":             `openssl ecparam -name prime256v1 -genkey -noout -out key; openssl dgst -sha256 -sign key file | openssl base64 >file.sig`,
		"base64 in one line": `openssl ecparam -name prime256v1 -genkey -noout -out key; openssl dgst -sha256 -sign key file | openssl base64 -A >file.sig`,
	} {
		cmd := exec.Command("sh", "-euc", script+"; openssl pkey -in key -pubout -out key.pub")
		cmd.Dir = f.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		key, err := ReadKey(f.path("key.pub"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := key.Verify(file, f.path("file.sig")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
