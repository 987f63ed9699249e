// Package machine is what the daemon does otherwise for pods in virtual machines.
package machine

import (
	"context"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/oci/shim"
	"github.com/monocrio/monocrio/internal/perf"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/stats"
)

// Is tells whether a handler's pods are in machines.
func Is(c *config.Runtime, handler string) bool {
	h, _ := c.Effective(handler)
	return h.Type == config.TypeVM
}

// kvm is the type that the policies of containers have for the processes of machines.
const kvm = "container_kvm_t"

// Label completes what a pod or container asks of SELinux: what is confined on the node
// is the machine's process, which needs more than a container's, such as /dev/kvm.
func Label(o selinux.Options) selinux.Options {
	if o.Type == "" {
		o.Type = kvm
	}
	return o
}

// runtime is a handler's, below what else the daemon does at a container's steps; nil
// for one without machines.
func runtime(h *process.Handler) *shim.Runtime {
	r := h.Runtime
	if p, ok := r.(perf.Runtime); ok {
		r = p.Runtime
	}
	rt, _ := r.(*shim.Runtime)
	return rt
}

// Inside finds the numbers of a container, which its runtime tells.
func Inside(handler func(string) (*process.Handler, error)) func(*state.ContainerView) stats.Group {
	return func(v *state.ContainerView) stats.Group {
		h, err := handler(v.Request.Handler)
		if err != nil {
			return nil
		}
		if rt := runtime(h); rt != nil {
			return rt.Numbers(v.ID)
		}
		return nil
	}
}

// EndOrphans ends the commands that a daemon which is gone waited for.
func EndOrphans(ctx context.Context, handlers map[string]*process.Handler) {
	for _, h := range handlers {
		if rt := runtime(h); rt != nil {
			rt.Sweep(ctx)
		}
	}
}
