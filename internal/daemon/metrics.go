package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	"github.com/monocrio/monocrio/internal/telemetry/metric"
	"github.com/monocrio/monocrio/internal/telemetry/trace"
	"github.com/monocrio/monocrio/internal/version"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newMetrics makes the counters; nil if nobody wants them.
func newMetrics(p *parts) (*metric.Metrics, error) {
	if !p.conf.Metrics.Enable {
		return nil, nil
	}
	m, err := metric.New(metric.Options{Collectors: p.conf.Metrics.Collectors,
		DefaultRuntime: func() string { return p.now.Load().handlers.def },
		NetworkOwed:    func() int { return p.pods.Owed() }})
	if err != nil {
		return nil, errs.Invalid("[crio.metrics] metrics_collectors: %w", err)
	}
	p.events.Dropped = m.EventDropped
	return m, nil
}

// onPull counts a pull.
func (p *parts) onPull(pull image.Progress, err error) {
	var layers []metric.Layer
	for _, l := range pull.Layers {
		if l.State == image.Present || l.State == image.Done || l.State == image.Fetched {
			layers = append(layers, metric.Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, Fetched: l.State != image.Present})
		}
	}
	p.metrics.Pull(layers, image.FailureCode(err))
}

// ends remembers by which name the end of a container was counted.
type ends struct {
	mu    sync.Mutex
	names map[string]string // by container id
}

// countEnd counts how a container ended. An event may be told while its object is
// locked: it is asked elsewhere.
func (p *parts) countEnd(e pod.Event) {
	if p.metrics == nil || e.Container == "" {
		return
	}
	switch e.Type {
	case api.ContainerEventType_CONTAINER_STOPPED_EVENT:
		go p.countReason(e.Container)
	case api.ContainerEventType_CONTAINER_DELETED_EVENT:
		p.ends.mu.Lock()
		defer p.ends.mu.Unlock()
		if name, ok := p.ends.names[e.Container]; ok {
			p.metrics.Forget(name)
			delete(p.ends.names, e.Container)
		}
	}
}

func (p *parts) countReason(id string) {
	v, err := p.pods.Container(id)
	if err != nil {
		return // gone already
	}
	sandbox, err := p.pods.Pod(v.Request.Pod)
	if err != nil {
		return
	}
	// The name is the one that the journal has.
	name := state.KubeName(sandbox.Request.Config.GetMetadata(), v.Request.Config.GetMetadata())
	p.ends.mu.Lock()
	defer p.ends.mu.Unlock()
	switch v.Status.Reason {
	case state.ReasonOOM:
		p.metrics.OOM(name)
	case state.ReasonMonitorLost:
		p.metrics.MonitorStopped(name)
	default:
		return
	}
	if p.ends.names == nil {
		p.ends.names = map[string]string{}
	}
	p.ends.names[id] = name
}

// beginCall and observer tell metrics and traces of calls and steps.
func (p *parts) beginCall(ctx context.Context, rpc string) (context.Context, func(error)) {
	start := time.Now()
	ctx, traced := p.tracer.Call(ctx, rpc)
	return step.WithObserver(ctx, p.observer()), func(err error) {
		traced(err)
		p.metrics.Call(rpc, time.Since(start), err != nil)
	}
}

// observer is nil if nobody wants to hear.
func (p *parts) observer() step.Observer {
	if p.metrics == nil && p.tracer == nil {
		return nil
	}
	return func(ctx context.Context, v step.Verb, what string) (context.Context, func(error)) {
		start, of := time.Now(), step.SubjectOf(ctx)
		ctx, traced := p.tracer.Step(ctx, what, "crio.direction", string(v), "crio.kind", of.Kind, "crio.id", of.ID)
		return ctx, func(err error) {
			traced(err)
			if v == step.Up || v == step.Down {
				p.metrics.Step(string(v), what, time.Since(start))
			}
		}
	}
}

// newTracer is nil if tracing is off.
func newTracer(p *parts) (*trace.Tracer, error) {
	c := p.conf.Tracing
	if !c.Enable {
		return nil, nil
	}
	return trace.New(context.Background(), trace.Options{Endpoint: c.Endpoint, PerMillion: c.Rate, Version: version.Version, Log: p.log})
}

// listenMetrics opens what the configuration asks for; nil if metrics are off.
func listenMetrics(p *parts) (*metric.Server, error) {
	if p.metrics == nil {
		return nil, nil
	}
	m, a := p.conf.Metrics, &p.conf.API
	return metric.Listen(p.metrics, metric.Places{Host: m.Host, Port: m.Port, Socket: m.Socket, Cert: m.Cert, Key: m.Key,
		MinVersion: a.MinVersion(), CipherSuites: a.CipherSuites(), Log: p.log})
}
