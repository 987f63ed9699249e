package pod

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
)

// Losses are the last pods and containers that could not be made.
func (m *Manager) Losses() []step.Loss { return m.losses.All() }

// Pending are those that are being made; they may not be among the lives yet.
func (m *Manager) Pending() []step.Loss { return m.losses.Pending() }

// Lives returns all pods and containers with their trails, also those that are being
// made or removed.
func (m *Manager) Lives() (pods []state.Life[state.PodView], ctrs []state.Life[state.ContainerView]) {
	for _, p := range m.podIndex.All() {
		l := state.Life[state.PodView]{View: state.PodView{ID: p.id, Request: p.req}, Trail: p.trail.Entries(), Busy: true}
		if glance(&p.mu) {
			l.View.Status, l.Busy = p.status, false
			p.mu.Unlock()
		}
		pods = append(pods, l)
	}
	for _, c := range m.ctrIndex.All() {
		l := state.Life[state.ContainerView]{View: state.ContainerView{ID: c.id, Request: c.req}, Trail: c.trail.Entries(), Busy: true}
		if glance(&c.mu) {
			l.View.Status, l.Busy = c.status, false
			c.mu.Unlock()
		}
		ctrs = append(ctrs, l)
	}
	return pods, ctrs
}

// glance takes the lock of an object for somebody who asks what is wrong, and gives up
// soon: it is held while a record is written, which a stuck disk may never let end.
func glance(mu *sync.Mutex) bool {
	for range 20 {
		if mu.TryLock() {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// Debts are the CNI DELs that removed pods owe.
func (m *Manager) Debts() ([]owed.Due, error) { return m.debts.All() }

// SetPaused freezes a running container for an operator, or thaws it. It is a wrong
// state for that to be frozen, or thawed, already.
func (m *Manager) SetPaused(ctx context.Context, id string, paused bool) error {
	verb := map[bool]string{true: "pause", false: "unpause"}[paused]
	c, err := m.running(id, verb)
	if err != nil {
		return err
	}
	if err := c.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", verb, c.id, err)
	}
	defer c.op.Release()
	if c.view().Status.Paused == paused {
		return errs.Precondition("cannot %s container %s: it is %s already", verb, c.id, map[bool]string{true: "paused", false: "running"}[paused])
	}
	if err := c.setPaused(ctx, paused); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", verb, c.id, err)
	}
	return nil
}

// setPaused records the pause before it is made, and its end after.
func (c *Container) setPaused(ctx context.Context, paused bool) (err error) {
	h, err := c.m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	record := func(paused bool) error {
		return c.transition(func(s *state.ContainerStatus) error { s.Paused = paused; return nil })
	}
	if !paused {
		if err := h.Runtime.Resume(ctx, c.id); err != nil {
			return err
		}
		return record(false)
	}
	if err := record(true); err != nil {
		return err
	}
	if err := h.Runtime.Pause(ctx, c.id); err != nil {
		c.logErr("cannot record that a container is not paused", record(false))
		return err
	}
	return nil
}
