package metric

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
)

// Places are where metrics are served.
type Places struct {
	Host   string
	Port   int
	Socket string // empty: none
	// Cert and Key are PEM files; empty: no TLS.
	Cert, Key    string
	MinVersion   uint16 // as crypto/tls
	CipherSuites []uint16
	Log          *slog.Logger
}

// Server serves /metrics.
type Server struct {
	http      *http.Server
	listeners []net.Listener
}

// Listen opens all places, or none.
func Listen(m *Metrics, p Places) (s *Server, err error) {
	mux := http.NewServeMux()
	mux.Handle("/metrics", m.Handler())
	s = &Server{http: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	l, err := net.Listen("tcp", net.JoinHostPort(p.Host, strconv.Itoa(p.Port)))
	if err != nil {
		return nil, errs.Precondition("cannot serve metrics (metrics_host, metrics_port): %w", err)
	}
	address := l.Addr().String()
	if p.Cert != "" {
		cert, err := OpenCertificate(p.Cert, p.Key, p.Host)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l = tls.NewListener(l, &tls.Config{GetCertificate: cert.Get, MinVersion: p.MinVersion, CipherSuites: p.CipherSuites})
	}
	s.listeners = append(s.listeners, l)
	p.Log.Info("serving metrics", "address", address, "tls", p.Cert != "", "socket", p.Socket)
	if p.Socket == "" {
		return s, nil
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(p.Socket), 0o755), fsx.RemoveIfThere(p.Socket)); err != nil {
		return nil, fmt.Errorf("cannot serve metrics (metrics_socket): %w", err)
	}
	u, err := net.Listen("unix", p.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics (metrics_socket): %w", err)
	}
	s.listeners = append(s.listeners, u)
	return s, os.Chmod(p.Socket, 0o660)
}

// Serve answers on all places until Close. A nil Server does nothing, here and below.
func (s *Server) Serve() error {
	if s == nil {
		return nil
	}
	failed := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		go func() {
			err := s.http.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			failed <- err
		}()
	}
	var err error
	for range s.listeners {
		err = errors.Join(err, <-failed)
	}
	return err
}

// Close ends it.
func (s *Server) Close() {
	if s == nil {
		return
	}
	s.http.Close()
	for _, l := range s.listeners {
		l.Close()
	}
}
