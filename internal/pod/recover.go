package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
)

// Recover makes the facts obey the records, before the first call is served. The
// records are the truth about intent, the kernel is the truth about fact:
//
//   - what was half made or half removed is unmade;
//   - a container whose monitor lives is watched again, one whose monitor ended
//     meanwhile gets the exit that it left;
//   - after a reboot all pods are not ready and all containers have exited;
//   - what bears our mark and has no record is removed.
//
// It fails only if the records cannot be read at all: what goes wrong with one
// object is logged, and the sweep tries again.
func (m *Manager) Recover(ctx context.Context) error {
	if err := m.load(); err != nil {
		return err
	}
	all := m.ctrIndex.All()
	m.each(len(all), func(i int) { all[i].recover(ctx) })
	pods := m.podIndex.All()
	m.each(len(pods), func(i int) { pods[i].recover(ctx) })
	m.sweepOrphans(ctx)
	m.wg.Go(m.sweeper)
	m.sweepSoon()
	m.Log.Info("recovered", "pods", len(m.podIndex.All()), "containers", len(m.ctrIndex.All()))
	return nil
}

// each runs f for 0 to n-1, a few at a time.
func (m *Manager) each(n int, f func(int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(i)
		})
	}
	wg.Wait()
}

func (m *Manager) load() error {
	pods, badPods, err := m.pods.All()
	if err != nil {
		return err
	}
	ctrs, badCtrs, err := m.ctrs.All()
	if err != nil {
		return err
	}
	for _, err := range append(badPods, badCtrs...) {
		m.Log.Error("a record cannot be used", "err", err)
	}
	for _, r := range pods {
		p := m.newPod(r.ID, r.Request, r.Status)
		m.podIndex.Add(p.name(), p.id, p)
		if r.Status.Phase == state.Removing {
			m.podIndex.FreeName(p.name(), p.id)
		}
	}
	for _, r := range ctrs {
		p, err := m.podIndex.Find(r.Request.Pod)
		if err != nil { // its pod's record is lost: a pod that only serves to unmake it
			p = m.newPod(r.Request.Pod, state.PodRequest{Handler: r.Request.Handler}, state.PodStatus{Phase: state.Removing})
			r.Status.Phase = state.Removing
		}
		c := m.newContainer(r.ID, p, r.Request, r.Status)
		m.ctrIndex.Add(c.name(), c.id, c)
		if r.Status.Phase == state.Removing {
			m.ctrIndex.FreeName(c.name(), c.id)
		}
	}
	return nil
}

func (c *Container) recover(ctx context.Context) {
	st := c.view().Status
	switch {
	case st.Phase != state.Live:
		c.op <- struct{}{}
		defer c.op.Release()
		undone := c.m.ctrSteps.Descend(ctx, c)
		c.logErr("cannot unmake a half-made container", undone)
		c.m.dropContainer(c, undone == nil)
	case st.FinishedAt != 0:
	case st.Boot != c.m.Boot:
		c.logErr("cannot record an exit", c.finish(time.Now(), state.ExitUnknown, state.ReasonUnknown, "the node was restarted while the container ran"))
	case c.req.From != nil && st.Process == nil && process.Find(c.bundle()) == nil: // it waits to be restored
	case st.Process == nil || !st.Process.Monitor.Alive():
		c.settle(ctx)
	default:
		c.adopt(ctx, st)
	}
}

// adopt watches a container again. The daemon may have died between the start and
// its record: the runtime knows.
func (c *Container) adopt(ctx context.Context, st state.ContainerStatus) {
	if st.StartedAt == 0 {
		h, err := c.m.Handlers.Handler(c.req.Handler)
		if err == nil {
			var s oci.State
			if s, err = h.Runtime.State(ctx, c.id); err == nil && s.Status == oci.Running {
				err = c.transition(func(s *state.ContainerStatus) error { s.StartedAt = time.Now().UnixNano(); return nil })
			}
		}
		c.logErr("cannot find out whether a container runs", err)
	}
	c.watch()
}

func (p *Pod) recover(ctx context.Context) {
	st := p.view().Status
	switch {
	case st.Phase == state.Creating || st.Phase == state.Removing:
		for _, c := range p.containers() {
			p.logErr(c.remove(ctx))
		}
		p.op <- struct{}{}
		defer p.op.Release()
		undone := p.m.podSteps.Descend(ctx, p)
		p.logErr(undone)
		p.m.dropPod(p, undone == nil)
	case st.Phase == state.Ready && st.Boot != p.m.Boot:
		p.becomeNotReady(ctx, "the node was restarted")
	case st.Phase == state.Ready && !p.intact(st):
		p.becomeNotReady(ctx, "its namespaces or its infra process are gone")
	case st.Phase == state.Ready:
		p.watchInfra()
	}
}

// becomeNotReady gives back what a pod that cannot go on holds of the network.
func (p *Pod) becomeNotReady(ctx context.Context, why string) {
	p.m.Log.Warn("a pod cannot go on", "pod", p.id, "why", why)
	_, end := p.trail.Begin(ctx, step.Call, "recover")
	end(errors.New(why))
	p.gate.CloseNow()
	p.end()
	p.logErr(p.m.podSteps.Named("network", "infra", "plugins").Descend(ctx, p))
	p.logErr(p.transition(func(s *state.PodStatus) { s.Phase, s.IPs = state.NotReady, nil }))
}

// intact tells whether what the pod stands on is still there.
func (p *Pod) intact(st state.PodStatus) bool {
	for _, k := range p.req.Namespaces() {
		if !mount.IsNamespace(filepath.Join(p.runDir(), string(k))) {
			return false
		}
	}
	return !p.req.HasInfra() || st.Infra != nil && st.Infra.Init.Alive()
}

// sweepOrphans removes what bears our mark and has no record: it was quarantined,
// or its record was lost with the power.
func (m *Manager) sweepOrphans(ctx context.Context) {
	m.orphanFolders(ctx, "containers", m.ctrs.Has, m.unmakeContainerFolder)
	m.orphanFolders(ctx, "pods", m.pods.Has, m.unmakePodFolder)
	leases, err := m.Rootfs.Leases(ctx)
	for _, id := range leases {
		if !m.ctrs.Has(volumeOwner(id)) {
			err = errors.Join(err, m.Rootfs.Unmount(ctx, id), m.Rootfs.Release(ctx, id))
		}
	}
	var valid []string
	for _, id := range m.pods.IDs() { // one of a newer version is not in the index
		if p, e := m.podIndex.Find(id); e != nil || p.view().Status.Attached {
			valid = append(valid, id)
		}
	}
	debtors, e := m.debts.IDs()
	if err = errors.Join(err, e, m.Network.GC(ctx, append(valid, debtors...))); err != nil {
		m.Log.Error("not everything without a record could be removed", "err", err)
	}
}

func (m *Manager) orphanFolders(ctx context.Context, what string, known func(string) bool, unmake func(context.Context, string, string) error) {
	dir := filepath.Join(m.RunDir, what)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // not made yet
	}
	for _, e := range entries {
		if !ident.Valid(e.Name()) || known(e.Name()) {
			continue
		}
		err := unmake(ctx, e.Name(), filepath.Join(dir, e.Name()))
		m.Log.Warn("removed what had no record", "what", what, "id", e.Name(), "err", err)
	}
}

func (m *Manager) unmakeContainerFolder(ctx context.Context, id, dir string) error {
	return errors.Join(m.endStray(ctx, id, dir), os.RemoveAll(dir), m.RemoveExit(id))
}

func (m *Manager) unmakePodFolder(ctx context.Context, id, dir string) error {
	err := errors.Join(m.endStray(ctx, id, filepath.Join(dir, "infra")), m.Namespaces.Unpin(dir), mount.Unmount(filepath.Join(dir, files.Shm)))
	if err != nil {
		return err
	}
	if path, ours, e := m.Cgroups.ParentPath("", id); e == nil && ours {
		err = m.Cgroups.Remove(ctx, path)
	}
	return errors.Join(err, os.RemoveAll(dir), m.RemoveExit(id))
}

// endStray ends a container of which only the bundle is known, in whichever runtime
// knows it.
func (m *Manager) endStray(ctx context.Context, id, bundle string) error {
	h, err := m.Handlers.Handler("")
	if err != nil {
		return err
	}
	return m.endProcess(ctx, h.Name, id, bundle, nil)
}

// sweepSoon wakes the sweeper.
func (m *Manager) sweepSoon() { m.again.Soon() }

// sweepMost is the longest pause of the sweeper, which tries again what could not be
// undone.
const sweepMost = 5 * time.Minute

func (m *Manager) sweeper() { m.again.Run(m.ctx, m.sweep) }

// sweep tries everything that is owed once and returns how much still is.
func (m *Manager) sweep(ctx context.Context) (left int) {
	note := func(what, id string, err error) {
		if err != nil {
			left++
			m.Log.Warn("still owed: "+what, "id", id, "err", err)
		}
	}
	for _, c := range m.ctrIndex.All() {
		if c.view().Status.Phase == state.Removing {
			note("the removal of a container", c.id, c.remove(ctx))
		}
	}
	for _, p := range m.podIndex.All() {
		switch v := p.view(); {
		case v.Status.Phase == state.Removing:
			note("the removal of a pod", p.id, p.unmake(ctx))
		case v.Status.Phase == state.NotReady && v.Status.Owed != "":
			note("the network of a stopped pod", p.id, p.retryNetwork(ctx))
		}
	}
	note("the network of removed pods", "", m.debts.Pay(ctx))
	return left
}

func (p *Pod) retryNetwork(ctx context.Context) error {
	if err := p.op.Acquire(ctx); err != nil {
		return err
	}
	defer p.op.Release()
	if err := p.detach(ctx, p.view()); err != nil {
		return err
	}
	return p.transition(func(s *state.PodStatus) { s.Attached, s.Owed = false, "" })
}

// keepDebt writes down the CNI DEL that a pod leaves unpaid, before its own record
// goes.
func (m *Manager) keepDebt(p *Pod) error {
	v := p.view()
	if v.Status.Owed == "" {
		return nil
	}
	r, err := p.networkRequest()
	if err != nil {
		return nil
	}
	r.NetNS = ""
	err = m.debts.Owe(p.id, owed.Debt{Config: p.req.Network, Request: r, Result: v.Status.Result}, v.Status.Owed)
	m.sweepSoon()
	return err
}

// Owed counts the CNI DELs that removed pods still owe.
func (m *Manager) Owed() int {
	ids, _ := m.debts.IDs()
	return len(ids)
}
