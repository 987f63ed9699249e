package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{t, cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a certificate for 127.0.0.1, for a server or a client.
func (a *authority) issue(name string, use x509.ExtKeyUsage) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	must(a.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	must(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// replace puts a file in the place of another one, as certificate managers do.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path+".new", data, 0o600))
	must(t, os.Rename(path+".new", path))
}

// Options: crio.api.stream_address, crio.api.stream_port, crio.api.stream_enable_tls,
// crio.api.stream_tls_cert, crio.api.stream_tls_key, crio.api.stream_tls_ca,
// crio.api.tls_min_version, crio.api.tls_cipher_suites
func TestStreamTLS(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	first, second, clients := newAuthority(t, "first"), newAuthority(t, "second"), newAuthority(t, "clients")
	cert, key := first.issue("one", x509.ExtKeyUsageServerAuth)
	replace(t, at("cert"), cert)
	replace(t, at("key"), key)
	replace(t, at("ca"), clients.pem)
	w := streaming(t, fmt.Sprintf("stream_enable_tls = true\nstream_tls_cert = %q\nstream_tls_key = %q\nstream_tls_ca = %q\ntls_min_version = \"VersionTLS12\"\n"+
		"tls_cipher_suites = [\"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"]", at("cert"), at("key"), at("ca")))
	pod := w.Pod("tls", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	clientCert, clientKey := clients.issue("kubelet", x509.ExtKeyUsageClientAuth)
	run := func(s speaker, ca *authority, withCert bool) error {
		var out screen
		err := within(t, s.name, func(ctx context.Context) error {
			address := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"echo", "hi"}, Stdout: true})
			u, err := url.Parse(address)
			must(t, err)
			c := &rest.Config{Host: address[:len("https://")] + u.Host, TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem}}
			if withCert {
				c.CertData, c.KeyData = clientCert, clientKey
			}
			return s.executor(t, c, address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
		})
		if err == nil && out.String() != "hi\n" {
			t.Errorf("%s: output %q", s.name, out.String())
		}
		return err
	}
	for _, s := range current() {
		if err := run(s, first, true); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if run(s, first, false) == nil {
			t.Errorf("%s: a client without a certificate is let in", s.name)
		}
		if run(s, second, true) == nil {
			t.Errorf("%s: the server has the wrong certificate", s.name)
		}
	}
	versions(t, w, id, first, clientCert, clientKey)
	// A new certificate whose key is not there yet is no reason to stop.
	cert, key = second.issue("two", x509.ExtKeyUsageServerAuth)
	replace(t, at("cert"), cert)
	if err := run(current()[0], first, true); err != nil {
		t.Errorf("between two files: %v", err)
	}
	if !strings.Contains(w.Log(), "the old ones are kept") {
		t.Error("nothing in the log about the file that does not fit")
	}
	replace(t, at("key"), key)
	for _, s := range current() {
		if err := run(s, second, true); err != nil {
			t.Errorf("%s, with the new certificate: %v", s.name, err)
		}
	}
	// So is the authority of the clients.
	replace(t, at("ca"), second.pem)
	if run(current()[0], second, true) == nil {
		t.Error("a client of the old authority is let in")
	}
	clientCert, clientKey = second.issue("kubelet", x509.ExtKeyUsageClientAuth)
	if err := run(current()[0], second, true); err != nil {
		t.Errorf("a client of the new authority: %v", err)
	}
}

// versions shakes hands in several versions of TLS.
func versions(t *testing.T, w *world.World, id string, ca *authority, cert, key []byte) {
	t.Helper()
	u, err := url.Parse(execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true}))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	own, err := tls.X509KeyPair(cert, key)
	must(t, err)
	for _, c := range []struct {
		name     string
		min, max uint16
		suite    uint16
		ok       bool
	}{
		{"1.3", tls.VersionTLS13, tls.VersionTLS13, 0, true},
		{"1.2", tls.VersionTLS12, tls.VersionTLS12, 0, true},
		{"1.2 with another suite", tls.VersionTLS12, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false},
		{"1.1", tls.VersionTLS11, tls.VersionTLS11, 0, false},
	} {
		conf := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}, MinVersion: c.min, MaxVersion: c.max}
		if c.suite != 0 {
			conf.CipherSuites = []uint16{c.suite}
		}
		conn, err := tls.Dial("tcp", u.Host, conf)
		if (err == nil) != c.ok {
			t.Errorf("TLS %s: %v", c.name, err)
		}
		if err == nil {
			if got := conn.ConnectionState(); c.max == tls.VersionTLS12 && got.CipherSuite != tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 {
				t.Errorf("TLS %s: suite %s", c.name, tls.CipherSuiteName(got.CipherSuite))
			}
			conn.Close()
		}
	}
}

// TestStreamTLSNewest: tls_min_version is held to.
func TestStreamTLSNewest(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca")
	cert, key := ca.issue("one", x509.ExtKeyUsageServerAuth)
	replace(t, filepath.Join(dir, "cert"), cert)
	replace(t, filepath.Join(dir, "key"), key)
	w := streaming(t, fmt.Sprintf("stream_enable_tls = true\nstream_tls_cert = %q\nstream_tls_key = %q\ntls_min_version = \"VersionTLS13\"", filepath.Join(dir, "cert"), filepath.Join(dir, "key")))
	pod := w.Pod("tls", nil)
	u, err := url.Parse(forwardURL(w, pod))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	if conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12}); err == nil {
		conn.Close()
		t.Error("TLS 1.2 is spoken")
	}
	conn, err := tls.Dial("tcp", u.Host, &tls.Config{RootCAs: pool})
	must(t, err)
	conn.Close()
}

// TestStreamStart: what cannot be served is an error at the start that names option and
// cause.
func TestStreamStart(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.pem")
	must(t, os.WriteFile(broken, bytes.Repeat([]byte("x"), 100), 0o600))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, c := range []struct {
		api  string
		want []string
	}{
		{fmt.Sprintf("stream_enable_tls = true\nstream_tls_cert = %q\nstream_tls_key = \"/nowhere/key\"", broken), []string{"stream_tls_key", "/nowhere/key"}},
		{fmt.Sprintf("stream_enable_tls = true\nstream_tls_cert = %q\nstream_tls_key = %q", broken, broken), []string{"stream_tls_cert", broken}},
		{"stream_enable_tls = true", []string{"stream_tls_cert", "stream_tls_key"}},
		{fmt.Sprintf("stream_port = %q", port), []string{"stream_port", "address already in use"}},
		{`stream_address = "192.0.2.77"`, []string{"stream_address", "192.0.2.77"}},
		{`stream_port = "http"`, []string{"stream_port", "65535"}},
	} {
		w := world.New(t, world.Options{API: c.api, Late: true})
		if err := w.TryStart(); err == nil {
			t.Errorf("%s: the daemon starts", c.api)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(w.Log(), want) {
				t.Errorf("%s: no %q in\n%s", c.api, want, w.Log())
			}
		}
		must(t, os.WriteFile(w.Conf, []byte(strings.Replace(read(t, w.Conf), c.api, "", 1)), 0o644)) // for the clean-up
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}
