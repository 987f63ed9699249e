package daemon

import (
	"context"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/telemetry/metric"
	"github.com/monocrio/monocrio/internal/telemetry/trace"
	"github.com/monocrio/monocrio/internal/version"
)

// newObservers makes the counters and the tracer, if somebody wants them.
func newObservers(p *parts) (err error) {
	if p.conf.Metrics.Enable {
		if p.observers.Metrics, err = metric.New(metric.Options{Collectors: p.conf.Metrics.Collectors,
			DefaultRuntime: func() string { return p.now.Load().handlers.def },
			NetworkOwed:    func() int { return p.pods.Owed() }}); err != nil {
			return errs.Invalid("[crio.metrics] metrics_collectors: %w", err)
		}
		p.events.Dropped = p.observers.Metrics.EventDropped
	}
	if c := p.conf.Tracing; c.Enable {
		p.observers.Tracer, err = trace.New(context.Background(), trace.Options{Endpoint: c.Endpoint, PerMillion: c.Rate, Version: version.Version, Log: p.log})
	}
	return err
}

// listenMetrics opens what the configuration asks for; nil if metrics are off.
func listenMetrics(p *parts) (*metric.Server, error) {
	if p.observers.Metrics == nil {
		return nil, nil
	}
	m, a := p.conf.Metrics, &p.conf.API
	return metric.Listen(p.observers.Metrics, metric.Places{Host: m.Host, Port: m.Port, Socket: m.Socket, Cert: m.Cert, Key: m.Key,
		MinVersion: a.MinVersion(), CipherSuites: a.CipherSuites(), Log: p.log})
}
