package docs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// webAddress is where every name below leads; nothing else listens there.
const webAddress = "127.0.0.2"

// names of servers that documents use.
func webNames() []string {
	return []string{"raw.githubusercontent.com", "github.com", "dl.k8s.io", "registry-1.docker.io", "registry.k8s.io", "quay.io", "registry.example.com"}
}

// serveWeb answers in the place of the servers that documents name, with a certificate of
// an authority that the world trusts.
func (w *world) serveWeb() error {
	cert, ca, err := certificate(webNames())
	if err != nil {
		return err
	}
	if err := appendTo("/etc/ssl/certs/ca-certificates.crt", ca); err != nil {
		return err
	}
	if err := appendTo("/etc/hosts", []byte(webAddress+" "+strings.Join(webNames(), " ")+"\n")); err != nil {
		return err
	}
	r := &registry.Registry{}
	if err := addImages(r); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", r)
	releases := "/monocrio/monocrio/releases"
	mux.Handle("github.com"+releases+"/", http.StripPrefix(releases, http.FileServer(http.Dir(filepath.Join(w.dir, "site")))))
	mux.HandleFunc("raw.githubusercontent.com/monocrio/monocrio/main/scripts/get", func(rw http.ResponseWriter, q *http.Request) {
		http.ServeFile(rw, q, filepath.Join(w.dir, "site/get"))
	})
	mux.HandleFunc("dl.k8s.io/release/{version}/bin/linux/{arch}/{file}", func(rw http.ResponseWriter, q *http.Request) {
		if path, err := exec.LookPath(q.PathValue("file")); err == nil && q.PathValue("arch") == runtime.GOARCH {
			http.ServeFile(rw, q, path)
			return
		}
		http.NotFound(rw, q)
	})
	l, err := tls.Listen("tcp", webAddress+":443", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return fmt.Errorf("cannot stand in for web servers: %w", err)
	}
	go http.Serve(l, mux)
	return nil
}

func appendTo(path string, data []byte) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(old, data...), 0o644)
}

// certificate makes a server's certificate for some names, and the authority that signed it.
func certificate(names []string) (cert tls.Certificate, ca []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "the documents' world"}, DNSNames: names,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return cert, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// addImages makes the images that documents name.
func addImages(r *registry.Registry) error {
	files, err := registry.Busybox()
	if err != nil {
		return err
	}
	_, err = r.Add("library/busybox", "1.37", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip, Index: true,
		Config: v1.ImageConfig{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}})
	return err
}
