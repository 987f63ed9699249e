package pod

import (
	"context"

	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const waitsPlugins = "NRI plugins"

// pluginsUp tells plugins of a pod that is complete; one that refuses undoes it.
func (p *Pod) pluginsUp(ctx context.Context) error {
	if err := p.transition(func(s *state.PodStatus) { s.Told = state.ToldRun }); err != nil {
		return err
	}
	v := p.view()
	step.Waits(ctx, waitsPlugins)
	return p.m.Plugins.Pod(ctx, state.PodRun, &v)
}

// pluginsDown tells them, once, that its containers have ended. None can keep it.
func (p *Pod) pluginsDown(ctx context.Context) error {
	v := p.view()
	if v.Status.Told != state.ToldRun {
		return nil
	}
	p.tellPlugins(ctx, state.PodStop)
	return p.transition(func(s *state.PodStatus) { s.Told = state.ToldStop })
}

// tellRemoved tells those that know of the pod that nothing is left of it.
func (p *Pod) tellRemoved(ctx context.Context) {
	if p.view().Status.Told != "" {
		p.tellPlugins(ctx, state.PodRemove)
	}
}

func (p *Pod) tellPlugins(ctx context.Context, m state.PodMoment) {
	v := p.view()
	step.Waits(ctx, waitsPlugins)
	defer step.Waits(ctx, "")
	if err := p.m.Plugins.Pod(ctx, m, &v); err != nil {
		p.m.Log.Warn("a plugin could not be told of a pod", "pod", p.id, "err", err)
	}
}

// ask tells plugins of a moment and returns what they say.
func (c *Container) ask(ctx context.Context, m state.ContainerMoment) error {
	p, v := c.pod.view(), c.view()
	step.Waits(ctx, waitsPlugins)
	defer step.Waits(ctx, "")
	return c.m.Plugins.Container(ctx, m, &p, &v)
}

// tell is ask where nothing depends on the answer.
func (c *Container) tell(ctx context.Context, m state.ContainerMoment) {
	c.logErr("a plugin could not be told of a container", c.ask(ctx, m))
}

// tellEnded tells plugins once that a container which ran has ended. Whoever calls
// returns after that: nothing is told of it that would have to come later.
func (c *Container) tellEnded(ctx context.Context) {
	c.ended.Do(func() {
		if c.view().Status.StartedAt != 0 {
			c.tell(ctx, state.ContainerStop)
		}
	})
}

// Spec is the OCI specification with which a container was made.
func (m *Manager) Spec(id string) (*specs.Spec, error) {
	c, err := m.ctrIndex.Find(id)
	if err != nil {
		return nil, err
	}
	return oci.LoadBundle(c.bundle())
}
