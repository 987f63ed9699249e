package crio

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	key := write("key.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	file := write("file", []byte("hello"))
	sig := []byte(base64.StdEncoding.EncodeToString(ed25519.Sign(private, []byte("hello"))) + "\n")
	if _, err := run(t, "verify", "--key", key, file); err == nil || !strings.Contains(err.Error(), file+".sig") {
		t.Errorf("without a signature: %v", err)
	}
	write("file.sig", sig)
	if out, err := run(t, "verify", "--key", key, file); err != nil || out != file+": signed by "+key+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := run(t, "verify", "-k", key, "-s", write("elsewhere", sig), file); err != nil {
		t.Errorf("a signature elsewhere: %q, %v", out, err)
	}
	write("file", []byte("hellO"))
	if out, err := run(t, "verify", "--key", key, file); err == nil || !strings.Contains(err.Error(), "is not by") || out != "" {
		t.Errorf("a changed file: %q, %v", out, err)
	}
	for want, args := range map[string][]string{"--key": {file}, "takes one file": {"--key", key}, "2 are given": {"--key", key, file, file}, "absent": {"--key", "absent", file}} {
		if _, err := run(t, append([]string{"verify"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
