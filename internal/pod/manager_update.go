package pod

import (
	"context"
	"errors"
	"fmt"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// UpdateContainer changes the limits of a created or running container; fields that
// are zero stay as they are. It is all or nothing as far as the kernel lets it: a
// refused limit leaves the old ones on record.
func (m *Manager) UpdateContainer(ctx context.Context, id string, want *cri.LinuxContainerResources) error {
	c, err := m.ctrIndex.Find(id)
	if err != nil {
		return err
	}
	if err := c.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	defer c.op.Release()
	h, err := c.m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	v, p := c.view(), c.pod.view()
	if want, err = m.Plugins.Update(ctx, &p, &v, want); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	next := state.Update(state.InForce(&v), want)
	if err := c.canUpdate(ctx, h, want, next); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	if err := h.Runtime.Update(ctx, c.id, c.m.Specs.Limits(state.Changed(next, want))); err != nil {
		return oci.Refused(err)
	}
	if err := process.SetOOMScore(ctx, h.Runtime, c.id, int(want.GetOomScoreAdj()), c.m.Log); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	err = c.transition(func(s *state.ContainerStatus) error {
		s.Resources = state.Record(next)
		return nil
	})
	c.tell(ctx, state.ContainerUpdated)
	return err
}

// Adjust sets limits that a plugin asks for, and records what of them the CRI has
// words for. A container that is being made or removed is not found.
func (m *Manager) Adjust(ctx context.Context, id string, limits *specs.LinuxResources, told *cri.LinuxContainerResources) error {
	c, err := m.ctrIndex.Find(id)
	if err != nil {
		return err
	}
	if c.view().Status.Phase != state.Live { // waiting for it could be waiting for ourselves
		return errs.NotFound("container", id)
	}
	if err := c.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot update container %s: %w", c.id, err)
	}
	defer c.op.Release()
	h, err := m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	if err := h.Runtime.Update(ctx, c.id, limits); err != nil {
		return oci.Refused(err)
	}
	v := c.view()
	return c.transition(func(s *state.ContainerStatus) error {
		s.Resources = state.Record(state.Update(state.InForce(&v), told))
		return nil
	})
}

// canUpdate refuses what cannot be meant and what would kill the container.
func (c *Container) canUpdate(ctx context.Context, h *process.Handler, want, next *cri.LinuxContainerResources) error {
	v := c.view()
	if s := v.Status.State(); v.Status.Phase != state.Live || s == cri.ContainerState_CONTAINER_EXITED {
		return errs.Precondition("it is %s; only created and running containers have limits", state.Word(s))
	}
	if err := c.m.Specs.Check(next); err != nil {
		return err
	}
	limit := want.GetMemoryLimitInBytes()
	if limit > 0 && limit < h.MinMemory {
		return errs.Invalid("memory limit of %d bytes: runtime handler %q needs at least %d", limit, h.Name, h.MinMemory)
	}
	if limit == 0 {
		return nil
	}
	u, err := h.Runtime.Stats(ctx, c.id)
	if err != nil {
		return err
	}
	if uint64(limit) <= u.Memory.WorkingSet { // version 2 would kill it, where version 1 refuses
		return errs.Precondition("memory limit of %d bytes: its working set is %d bytes now", limit, u.Memory.WorkingSet)
	}
	return nil
}

// UpdatePod takes note of a pod's resources and overhead, of which nil stays as it
// is. The kubelet has set its own cgroup before; where the cgroup is ours, the limits
// are set here.
func (m *Manager) UpdatePod(ctx context.Context, id string, overhead, resources *cri.LinuxContainerResources) error {
	p, err := m.podIndex.Find(id)
	if err != nil {
		return err
	}
	if err := p.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot update pod %s: %w", p.id, err)
	}
	defer p.op.Release()
	if err := p.update(ctx, overhead, resources); err != nil {
		return fmt.Errorf("cannot update pod %s: %w", p.id, err)
	}
	p.tellPlugins(ctx, state.PodUpdated)
	return nil
}

func (p *Pod) update(ctx context.Context, overhead, resources *cri.LinuxContainerResources) error {
	st := p.view().Status
	if st.Phase != state.Ready {
		return errs.Precondition("it is %s", st.Phase)
	}
	if err := errors.Join(p.m.Specs.Check(overhead), p.m.Specs.Check(resources)); err != nil {
		return errs.With(errs.KindInvalid, err)
	}
	v := p.view()
	if err := p.m.Plugins.UpdatePod(ctx, &v, overhead, resources); err != nil {
		return err
	}
	linux := p.req.Config.GetLinux()
	nextOverhead, nextResources := state.Newest(overhead, st.Overhead, linux.GetOverhead()), state.Newest(resources, st.Resources, linux.GetResources())
	if p.req.OwnCgroup {
		if err := p.m.Cgroups.Create(ctx, p.req.Cgroup, p.limits(nextResources, nextOverhead)); err != nil {
			return err
		}
	}
	return p.transition(func(s *state.PodStatus) {
		s.Overhead, s.Resources = state.Record(nextOverhead), state.Record(nextResources)
	})
}

// limits are the pod's cgroup's; nil for none.
func (p *Pod) limits(resources, overhead *cri.LinuxContainerResources) *specs.LinuxResources {
	if resources == nil && overhead == nil {
		return nil
	}
	return p.m.Specs.Limits(resources, overhead)
}
