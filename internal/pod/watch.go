package pod

import (
	"context"
	"time"

	"github.com/monocrio/monocrio/internal/pod/state"
)

// watch waits for the end of a container's monitor, once, and records the exit.
func (c *Container) watch() {
	c.mu.Lock()
	p := c.status.Process
	now := !c.watched && p != nil && c.status.FinishedAt == 0
	c.watched = c.watched || now
	c.mu.Unlock()
	if !now {
		return
	}
	c.m.wg.Go(func() {
		if c.m.Monitors.Wait(c.m.ctx, p.Monitor) != nil {
			return
		}
		for wait := time.Second; ; wait = min(2*wait, sweepMost) { // a full disk must not hide the exit for ever
			c.settle(c.m.ctx)
			select {
			case <-c.exited:
				c.tellEnded(c.m.ctx)
				return
			case <-c.m.ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	})
}

// settle records the end of a container whose monitor is gone, from the facts it
// left: its exit file, else nothing but the absence.
func (c *Container) settle(ctx context.Context) {
	exit, ok, err := c.m.Monitors.ReadExit(c.m.ExitsDir, c.bundle(), c.id)
	switch {
	case err != nil:
		c.m.Log.Error("cannot read the exit of a container", "ctr", c.id, "err", err)
		c.endUnseen(ctx, state.ReasonUnknown, "the exit file cannot be read: "+err.Error())
	case !ok:
		c.endUnseen(ctx, state.ReasonMonitorLost, "the monitor of the container was killed; its exit code is not known")
	default:
		reason, message := c.m.Reason(c.id, exit)
		c.logErr("cannot record an exit", c.finish(exit.At, int32(exit.Code), reason, message))
		c.freeRuntime(ctx)
	}
}

// endUnseen kills what is left of a container that nobody watches and records that
// its code is unknown.
func (c *Container) endUnseen(ctx context.Context, reason, message string) {
	c.freeRuntime(ctx)
	c.logErr("cannot record an exit", c.finish(time.Now(), state.ExitUnknown, reason, message))
}

// freeRuntime gives the cgroup and the runtime's state back as soon as the process
// is gone, not only when the container is removed.
func (c *Container) freeRuntime(ctx context.Context) {
	c.freeing.Lock()
	defer c.freeing.Unlock()
	if h, err := c.m.Handlers.Handler(c.req.Handler); err == nil {
		c.logErr("cannot free the runtime state of a container", h.Runtime.Delete(ctx, c.id, true))
	}
}

func (c *Container) logErr(what string, err error) {
	if err != nil {
		c.m.Log.Error(what, "ctr", c.id, "pod", c.req.Pod, "err", err)
	}
}

// watchInfra makes a pod not ready when its infra process ends unasked.
func (p *Pod) watchInfra() {
	infra := p.view().Status.Infra
	if infra == nil {
		return
	}
	p.m.wg.Go(func() {
		if p.m.Monitors.Wait(p.m.ctx, infra.Monitor) != nil || p.life.Err() != nil { // asked for
			return
		}
		if v := p.view(); v.Status.Phase == state.Ready && v.Status.Infra != nil && v.Status.Infra.Monitor == infra.Monitor {
			p.m.Log.Error("the infra process of a pod ended, and a shared PID namespace with it", "pod", p.id)
			p.gate.CloseNow()
			p.end()
			p.logErr(p.transition(func(s *state.PodStatus) { s.Phase = state.NotReady }))
		}
	})
}

func (p *Pod) logErr(err error) {
	if err != nil {
		p.m.Log.Error("cannot record a pod's state", "pod", p.id, "err", err)
	}
}

// publish hands an event to the subscriber, if there is one.
func (m *Manager) publish(e Event) {
	if m.OnEvent != nil {
		m.OnEvent(e)
	}
}
