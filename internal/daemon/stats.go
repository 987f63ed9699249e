package daemon

import (
	"time"

	"github.com/monocrio/monocrio/internal/oci/shim"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/stats"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newStats makes what tells of consumption.
func newStats(p *parts) *stats.Collector {
	layers, c := p.store.ContainersPath(), p.conf.Stats
	return stats.New(stats.Options{Source: p.pods, Reader: stats.Kernel(p.store, layers), Inside: p.inside, LayersPath: layers, ContainerCgroup: cgroups{p.driver}.containerCgroup,
		Period: time.Duration(c.CollectionPeriod), Metrics: c.IncludedPodMetrics, Log: p.log})
}

// inside finds the numbers of a container of a virtual machine, which its runtime tells.
func (p *parts) inside(v *state.ContainerView) stats.Group {
	if h, err := p.now.Handler(v.Request.Handler); err == nil {
		if rt, ok := h.Runtime.(*shim.Runtime); ok {
			return rt.Numbers(v.ID)
		}
	}
	return nil
}

// onEvent tells the kubelet of a change, and those who hold something of a pod that it
// stops. It must not block.
func (p *parts) onEvent(e pod.Event) {
	p.observers.End(e)
	p.events.Publish(e)
	if e.Container == "" && e.Type != api.ContainerEventType_CONTAINER_STARTED_EVENT && p.stats != nil {
		p.stats.PodStopped(e.Pod)
	}
}
