// Package observe tells metrics and traces what the parts of the daemon do. Parts know
// neither; they call functions.
package observe

import (
	"context"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	"github.com/monocrio/monocrio/internal/telemetry/metric"
	"github.com/monocrio/monocrio/internal/telemetry/trace"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Observers are those who listen; nil is nobody.
type Observers struct {
	Metrics *metric.Metrics
	Tracer  *trace.Tracer
	// Pods must be there before the first event.
	Pods *pod.Manager
	ends ends
}

// Pull counts a pull.
func (o *Observers) Pull(pull image.Progress, err error) {
	var layers []metric.Layer
	for _, l := range pull.Layers {
		if l.State == image.Present || l.State == image.Done || l.State == image.Fetched {
			layers = append(layers, metric.Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, Fetched: l.State != image.Present})
		}
	}
	o.Metrics.Pull(layers, image.FailureCode(err))
}

// ends remembers by which name the end of a container was counted.
type ends struct {
	mu    sync.Mutex
	names map[string]string // by container id
}

// End counts how a container ended. An event may be told while its object is
// locked: it is asked elsewhere.
func (o *Observers) End(e pod.Event) {
	if o.Metrics == nil || e.Container == "" {
		return
	}
	switch e.Type {
	case api.ContainerEventType_CONTAINER_STOPPED_EVENT:
		go o.countReason(e.Container)
	case api.ContainerEventType_CONTAINER_DELETED_EVENT:
		o.ends.mu.Lock()
		defer o.ends.mu.Unlock()
		if name, ok := o.ends.names[e.Container]; ok {
			o.Metrics.Forget(name)
			delete(o.ends.names, e.Container)
		}
	}
}

func (o *Observers) countReason(id string) {
	v, err := o.Pods.Container(id)
	if err != nil {
		return // gone already
	}
	switch v.Status.Reason {
	case state.ReasonOOM:
		o.named(id, o.Metrics.OOM)
	case state.ReasonMonitorLost:
		o.named(id, o.Metrics.MonitorStopped)
	}
}

// Refused counts a system call that seccomp refused to a container.
func (o *Observers) Refused(id, syscall string) {
	if o.Metrics != nil {
		o.named(id, func(name string) { o.Metrics.SeccompNotified(name, syscall) })
	}
}

// named counts under the name that the journal has for a container, and remembers it.
func (o *Observers) named(id string, count func(name string)) {
	o.ends.mu.Lock()
	name, ok := o.ends.names[id]
	o.ends.mu.Unlock()
	if !ok {
		v, err := o.Pods.Container(id)
		if err != nil {
			return
		}
		sandbox, err := o.Pods.Pod(v.Request.Pod)
		if err != nil {
			return
		}
		name = state.KubeName(sandbox.Request.Config.GetMetadata(), v.Request.Config.GetMetadata())
	}
	o.ends.mu.Lock()
	defer o.ends.mu.Unlock()
	if o.ends.names == nil {
		o.ends.names = map[string]string{}
	}
	o.ends.names[id] = name
	count(name)
}

// Call hears of a call of the CRI, and by the function that it returns of its end.
func (o *Observers) Call(ctx context.Context, rpc string) (context.Context, func(error)) {
	start := time.Now()
	ctx, traced := o.Tracer.Call(ctx, rpc)
	return step.WithObserver(ctx, o.Step()), func(err error) {
		traced(err)
		o.Metrics.Call(rpc, time.Since(start), err != nil)
	}
}

// Step is nil if nobody wants to hear.
func (o *Observers) Step() step.Observer {
	if o.Metrics == nil && o.Tracer == nil {
		return nil
	}
	return func(ctx context.Context, v step.Verb, what string) (context.Context, func(error)) {
		start, of := time.Now(), step.SubjectOf(ctx)
		ctx, traced := o.Tracer.Step(ctx, what, "crio.direction", string(v), "crio.kind", of.Kind, "crio.id", of.ID)
		return ctx, func(err error) {
			traced(err)
			if v == step.Up || v == step.Down {
				o.Metrics.Step(string(v), what, time.Since(start))
			}
		}
	}
}
