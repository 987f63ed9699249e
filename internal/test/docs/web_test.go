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
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// webAddress is where every name below leads; nothing else listens there.
const webAddress = "127.0.0.2"

// kubernetes is the version that documents name.
const kubernetes = "v1.37.2"

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
	if err := w.addImages(r); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", r)
	releases := "/monocrio/monocrio/releases"
	mux.Handle("github.com"+releases+"/", http.StripPrefix(releases, http.FileServer(http.Dir(filepath.Join(w.dir, "site")))))
	mux.HandleFunc("raw.githubusercontent.com/monocrio/monocrio/main/scripts/get", func(rw http.ResponseWriter, q *http.Request) {
		http.ServeFile(rw, q, filepath.Join(w.dir, "site/get"))
	})
	binaries := map[string]string{} // as they are now: a document may put them elsewhere
	for _, p := range []string{"kubelet", "kubeadm", "kubectl"} {
		binaries[p], _ = exec.LookPath(p)
	}
	mux.HandleFunc("dl.k8s.io/release/{version}/bin/linux/{arch}/{file}", func(rw http.ResponseWriter, q *http.Request) {
		if file := binaries[q.PathValue("file")]; file != "" && q.PathValue("arch") == runtime.GOARCH {
			http.ServeFile(rw, q, file)
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
func (w *world) addImages(r *registry.Registry) error {
	files, err := registry.Busybox()
	if err != nil {
		return err
	}
	for _, name := range []string{"library/busybox", "hub/library/busybox"} { // and on a mirror
		if _, err := r.Add(name, "1.37", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip, Index: true,
			Config: v1.ImageConfig{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}}); err != nil {
			return err
		}
	}
	if !w.cluster || needs["cluster"](w) != "" {
		return nil
	}
	return addCluster(r)
}

// addCluster makes the images of a control plane from its executables, under the names
// that kubeadm has for them.
func addCluster(r *registry.Registry) error {
	out, err := exec.Command("kubeadm", "config", "images", "list", "--kubernetes-version", kubernetes).Output()
	if err != nil {
		return fmt.Errorf("kubeadm config images list: %w", err)
	}
	for _, ref := range strings.Fields(string(out)) {
		name, tag, _ := strings.Cut(strings.TrimPrefix(ref, "registry.k8s.io/"), ":")
		program, args := path.Base(name), []string(nil)
		if program == "pause" {
			program, args = "busybox", []string{"sleep", "1000000"} // kubeadm pulls it; who runs it is containerd
		}
		file, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		layer := map[string]registry.File{}
		if err := addFile(layer, file, "usr/local/bin/"+program); err != nil {
			return err
		}
		if program == "kube-proxy" {
			if err := addNft(layer); err != nil {
				return err
			}
		}
		if _, err := r.Add(name, tag, registry.Image{Layers: []map[string]registry.File{layer},
			Config: v1.ImageConfig{Entrypoint: append([]string{"/usr/local/bin/" + program}, args...), Env: []string{"PATH=/usr/local/bin:/usr/sbin"}}}); err != nil {
			return err
		}
	}
	return nil
}

// addNft adds this machine's nft, which kube-proxy calls, and what it is linked with.
func addNft(layer map[string]registry.File) error {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return err
	}
	out, err := exec.Command("ldd", nft).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", nft, err)
	}
	for _, lib := range strings.Fields(string(out)) {
		if strings.HasPrefix(lib, "/") {
			if err := addFile(layer, lib, lib[1:]); err != nil {
				return err
			}
		}
	}
	return addFile(layer, nft, "usr/sbin/nft")
}

func addFile(layer map[string]registry.File, from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	layer[to] = registry.File{Data: data, Mode: 0o755}
	for d := path.Dir(to); d != "."; d = path.Dir(d) {
		layer[d] = registry.File{Mode: os.ModeDir | 0o755}
	}
	return nil
}
