package metric

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// validFor is how long a certificate of our own is good.
const validFor = 365 * 24 * time.Hour

// Certificate is a pair of PEM files that may change while it is in use.
type Certificate struct {
	cert, key string

	mu   sync.Mutex
	seen [2]time.Time
	now  *tls.Certificate
}

// OpenCertificate reads a certificate and its key. If neither file is there, a pair
// that is signed by itself, for host and this machine's name, is made and kept there.
func OpenCertificate(cert, key, host string) (*Certificate, error) {
	_, err1 := os.Stat(cert)
	_, err2 := os.Stat(key)
	if errors.Is(err1, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist) {
		if err := makePair(cert, key, host); err != nil {
			return nil, fmt.Errorf("cannot make a certificate for metrics: %w", err)
		}
	}
	c := &Certificate{cert: cert, key: key}
	_, err := c.Get(nil)
	return c, err
}

// Get is for tls.Config.GetCertificate: files that have changed are read again; if they
// are broken, those before are used.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at [2]time.Time
	for i, path := range []string{c.cert, c.key} {
		if fi, err := os.Stat(path); err == nil {
			at[i] = fi.ModTime()
		}
	}
	if c.now != nil && at == c.seen {
		return c.now, nil
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	switch {
	case err == nil:
		c.now, c.seen = &pair, at
	case c.now == nil:
		return nil, fmt.Errorf("cannot use the certificate of metrics (metrics_cert, metrics_key): %w", err)
	}
	return c.now, nil
}

func makePair(cert, key, host string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{Organization: []string{"monocrio"}, CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validFor), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = append(t.IPAddresses, ip)
	}
	if name, err := os.Hostname(); err == nil {
		t.DNSNames = append(t.DNSNames, name, "localhost")
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(key, "PRIVATE KEY", secret, 0o600), writePEM(cert, "CERTIFICATE", der, 0o644))
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
