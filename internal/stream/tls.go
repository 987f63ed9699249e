package stream

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

// TLS says how connections are encrypted.
type TLS struct {
	// Cert, Key and CA are PEM files. With CA, clients need a certificate that comes from
	// there.
	Cert, Key, CA string
	// MinVersion and CipherSuites are numbers of crypto/tls.
	MinVersion   uint16
	CipherSuites []uint16
}

// config reads the files; an error names the file and its option. Later each handshake
// looks whether a file has changed, and reads all anew: certificates are replaced while
// the daemon runs. What cannot be read leaves the old ones in use.
func (t *TLS) config(log *slog.Logger) (*tls.Config, error) {
	w := &certificates{t: t, log: log}
	w.seen = w.look()
	var err error
	if w.current, err = t.read(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: t.MinVersion, GetConfigForClient: w.choose}, nil
}

func (t *TLS) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot serve streams with [crio.api] stream_tls_cert = %q and stream_tls_key = %q: %w", t.Cert, t.Key, err)
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: t.MinVersion, CipherSuites: t.CipherSuites, NextProtos: []string{"http/1.1"},
		// A resumed session would not be held to files that have changed.
		SessionTicketsDisabled: true,
	}
	if t.CA == "" {
		return c, nil
	}
	data, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("cannot serve streams with [crio.api] stream_tls_ca: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !c.ClientCAs.AppendCertsFromPEM(data) {
		return nil, errs.Invalid("cannot serve streams with [crio.api] stream_tls_ca = %q: there is no certificate in it", t.CA)
	}
	return c, nil
}

// certificates is the configuration in use and the files that it was read from.
type certificates struct {
	t   *TLS
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	seen    [3]stamp
	current *tls.Config
}

// stamp is how a file looks from outside.
type stamp struct {
	inode   uint64
	size    int64
	changed time.Time
}

func (w *certificates) look() (s [3]stamp) {
	for i, path := range []string{w.t.Cert, w.t.Key, w.t.CA} {
		if fi, err := os.Stat(path); err == nil {
			s[i] = stamp{inode: fi.Sys().(*syscall.Stat_t).Ino, size: fi.Size(), changed: fi.ModTime()}
		}
	}
	return s
}

// choose implements tls.Config.GetConfigForClient.
func (w *certificates) choose(*tls.ClientHelloInfo) (*tls.Config, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.look()
	if now == w.seen {
		return w.current, nil
	}
	w.seen = now // also if it fails: the next change is the next chance
	c, err := w.t.read()
	if err != nil {
		w.log.Warn("the certificates of the streaming server have changed and cannot be used; the old ones are kept", "err", err)
		return w.current, nil
	}
	w.log.Info("the certificates of the streaming server were read again")
	w.current = c
	return c, nil
}
