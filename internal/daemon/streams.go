package daemon

import (
	"log/slog"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/stream"
)

func streamOptions(c *config.Config, pods *pod.Manager, log *slog.Logger) stream.Options {
	a := &c.API
	o := stream.Options{Address: a.StreamAddress, Port: a.StreamPort, IdleTimeout: time.Duration(a.StreamIdleTimeout), Pods: pods, Log: log}
	if a.StreamEnableTLS {
		o.TLS = &stream.TLS{Cert: a.StreamTLSCert, Key: a.StreamTLSKey, CA: a.StreamTLSCA, MinVersion: a.MinVersion(), CipherSuites: a.CipherSuites()}
	}
	return o
}
