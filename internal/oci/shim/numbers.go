package shim

import (
	"context"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
)

// Numbers reads one container's consumption as if it were a cgroup of this kernel. It
// holds nothing between readings.
type Numbers struct {
	r  *Runtime
	id string
}

// Numbers of a container.
func (r *Runtime) Numbers(id string) *Numbers { return &Numbers{r, id} }

// numbersPatience bounds the wait for a shim's answer; who reads gives up sooner.
const numbersPatience = 10 * time.Second

// Read returns all that there is, whatever is asked for. A container that has ended is
// KindNotFound, as its cgroup would be.
func (n *Numbers) Read(cgroup.Parts) (*cgroup.Usage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), numbersPatience)
	defer cancel()
	u, err := n.r.Stats(ctx, n.id)
	if errs.Is(err, errs.KindPrecondition) {
		return nil, errs.With(errs.KindNotFound, err)
	}
	return u, err
}

// Limits are those that statistics have; of the others nobody tells.
func (n *Numbers) Limits() (cgroup.Limits, error) {
	u, err := n.Read(0)
	if err != nil {
		return cgroup.Limits{}, err
	}
	return cgroup.Limits{CPUQuota: cgroup.NoLimit, Memory: u.Memory.Limit, MemorySwap: u.Memory.SwapLimit, Tasks: u.Pids.Limit}, nil
}

// Processes are none of ours.
func (*Numbers) Processes() ([]int, error) { return nil, nil }

// Rest does nothing.
func (*Numbers) Rest() {}

// Close does nothing.
func (*Numbers) Close() {}
