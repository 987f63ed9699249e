package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/flight"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/record"
	"github.com/monocrio/monocrio/internal/step"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options are what a Manager works with; package daemon fills them.
type Options struct {
	// StateDir holds the records, RunDir what does not survive a boot.
	StateDir, RunDir string
	// NamespacesDir is where others find the pods' namespaces.
	NamespacesDir string
	process.Host
	// LogDir takes the logs of pods that name no folder.
	LogDir string
	// Boot is the kernel's boot id.
	Boot string
	// MakeTime bounds the making of one pod or container.
	MakeTime time.Duration
	// Sysctls are set in every pod that owns the namespace.
	Sysctls          map[string]string
	DisableHostPorts bool

	Network    Network
	Namespaces Namespaces
	Cgroups    Cgroups
	Rootfs     Rootfs
	Images     Images
	Handlers   Handlers
	Specs      Specs
	Plugins    Plugins
	Log        *slog.Logger
	// OnEvent is called for each change, in order per object, and must not block.
	OnEvent func(Event)
	// Observer, if set, hears of the steps of lives; OnStall of repeated calls that find
	// the first one at work, and at what.
	Observer step.Observer
	OnStall  func(stage string)
}

// Manager owns all pods and containers.
type Manager struct {
	Options
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	pods     *record.Store[state.PodRequest, state.PodStatus]
	ctrs     *record.Store[state.ContainerRequest, state.ContainerStatus]
	debts    owed.Ledger
	podIndex *flight.Index[*Pod]
	ctrIndex *flight.Index[*Container]
	losses   step.Losses
	podSteps step.Table[*Pod]
	ctrSteps step.Table[*Container]
	again    *flight.Again // sweeps what is owed
}

// New opens the records. Recover must be called before anything else.
func New(o Options) (*Manager, error) {
	m := &Manager{Options: o, podIndex: flight.NewIndex[*Pod]("pod sandbox"), ctrIndex: flight.NewIndex[*Container]("container"), again: flight.NewAgain(5*time.Second, sweepMost)}
	m.ctx, m.cancel = context.WithCancel(step.WithObserver(context.Background(), o.Observer))
	if o.OnStall != nil {
		m.podIndex.Joined = func(p *Pod, there bool) { o.OnStall("sandbox " + step.Now(p, there)) }
		m.ctrIndex.Joined = func(c *Container, there bool) { o.OnStall("container " + step.Now(c, there)) }
	}
	m.podSteps, m.ctrSteps = podSteps(), containerSteps()
	quarantine := filepath.Join(o.StateDir, "quarantine")
	var err, err2 error
	m.pods, err = record.Open[state.PodRequest, state.PodStatus](filepath.Join(o.StateDir, "pods"), quarantine, "pod")
	m.ctrs, err2 = record.Open[state.ContainerRequest, state.ContainerStatus](filepath.Join(o.StateDir, "containers"), quarantine, "container")
	m.debts = owed.Ledger{Detach: o.Network.Detach, Patience: step.UndoTime / 2, Log: o.Log}
	if err := errors.Join(err, err2, m.debts.Open(filepath.Join(o.StateDir, "owed"), quarantine)); err != nil {
		m.cancel()
		return nil, err
	}
	return m, nil
}

// Close lets go of everything in memory. Pods and containers go on.
func (m *Manager) Close() {
	m.cancel()
	m.wg.Wait()
}

// Run makes a pod and returns its id once it is ready. A pod of the same name that
// is ready already, or is being made, is the answer to a repeated call.
func (m *Manager) Run(ctx context.Context, config *cri.PodSandboxConfig, handler string) (string, error) {
	h, err := m.Handlers.Handler(handler)
	if err != nil {
		return "", err
	}
	held := func(p *Pod) error {
		v := p.view()
		if v.Status.Phase == state.Ready && p.life.Err() != nil { // a stop began, and may have failed half way
			v.Status.Phase = "being stopped"
		}
		if v.Status.Phase != state.Ready {
			return errs.Errorf(errs.KindAlreadyExists, "cannot run pod %s: pod %s of that name is %s; remove it first", p.name(), p.id, v.Status.Phase)
		}
		return nil
	}
	return m.podIndex.Fly(ctx, state.PodName(config.GetMetadata()), held, func() (string, error) { return m.makePod(ctx, config, h) })
}

func (m *Manager) makePod(call context.Context, config *cri.PodSandboxConfig, h *process.Handler) (made string, err error) {
	ctx, cancel := context.WithTimeout(flight.Detach(m.ctx, call), h.Patience(m.MakeTime))
	defer cancel()
	id := ident.New()
	req := state.PodRequest{Config: state.PodConfig{PodSandboxConfig: config}, Handler: h.Name}
	trail := new(step.Trail)
	end := m.losses.Begin(step.Loss{Kind: "pod", ID: id, Name: state.FullName(config.GetMetadata())}, trail)
	defer func() { end(err) }()
	if req.Cgroup, req.OwnCgroup, err = m.Cgroups.ParentPath(config.GetLinux().GetCgroupParent(), id); err != nil {
		return "", err
	}
	if !req.HostNetwork() {
		if req.Network, err = m.Network.Select(); err != nil {
			return "", err
		}
	}
	done, err := m.Specs.Pod(id, &req, m.podViews)
	if err != nil {
		return "", fmt.Errorf("cannot run pod %s: %w", config.GetMetadata().GetName(), err)
	}
	defer done()
	p := m.newPod(id, req, state.PodStatus{Phase: state.Creating, Boot: m.Boot, CreatedAt: time.Now().UnixNano()})
	if err := p.check(); err != nil {
		return "", fmt.Errorf("cannot run pod %s: %w", config.GetMetadata().GetName(), err)
	}
	p.trail = trail
	trail.Reach(string(state.Creating))
	defer m.Plugins.Hold()()
	p.op <- struct{}{}
	defer p.op.Release()
	if err := m.pods.Create(id, req, p.status); err != nil {
		return "", err
	}
	m.podIndex.Add(p.name(), id, p)
	undone, err := m.podSteps.Climb(ctx, p)
	if err == nil {
		step.CrashPoint("pod", "ready", "before-transition")
		if err = p.transition(func(s *state.PodStatus) { s.Phase = state.Ready }); err == nil {
			p.watchInfra()
			return id, nil
		}
		undone = m.podSteps.Descend(ctx, p) == nil
	}
	m.dropPod(p, undone)
	return "", err
}

// dropPod forgets a pod whose making failed. What could not be undone stays on
// record as removing, without its name, for the sweep.
func (m *Manager) dropPod(p *Pod, undone bool) {
	p.gate.CloseNow()
	p.end()
	m.podIndex.FreeName(p.name(), p.id)
	if undone {
		p.tellRemoved(m.ctx)
		err := m.keepDebt(p)
		if err == nil {
			p.logErr(p.forget())
			return
		}
		p.logErr(err) // without that the record must stay
	}
	p.logErr(p.transition(func(s *state.PodStatus) { s.Phase = state.Removing }))
	m.sweepSoon()
}

// Stop ends a pod's containers and gives its network back. Absence is success; so
// is a network that does not let go, which is owed from then on.
func (m *Manager) Stop(ctx context.Context, id string) error {
	p, err := m.podIndex.Find(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return p.stop(ctx)
}

func (p *Pod) stop(ctx context.Context) (err error) {
	ctx, end := p.trail.Begin(ctx, step.Call, "stop")
	defer func() { end(err) }()
	p.end()
	step.Waits(ctx, "containers that are being made to give up")
	if err := p.gate.Close(ctx); err != nil {
		return fmt.Errorf("cannot stop pod %s: %w", p.id, err)
	}
	step.Waits(ctx, "its containers to end")
	if err := p.stopContainers(ctx); err != nil {
		return fmt.Errorf("cannot stop pod %s: %w", p.id, err)
	}
	step.Waits(ctx, "another call")
	if err := p.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot stop pod %s: %w", p.id, err)
	}
	defer p.op.Release()
	if v := p.view(); v.Status.Phase != state.Ready && v.Status.Infra == nil && !v.Status.Attached && v.Status.Told != state.ToldRun {
		return nil
	}
	step.Waits(ctx, "")
	step.CrashPoint("pod", "notready", "before-transition")
	// First, so that a pod that lost half of what it stands on never counts as ready.
	if err := p.transition(func(s *state.PodStatus) {
		if s.Phase == state.Ready {
			s.Phase = state.NotReady
		}
	}); err != nil {
		return err
	}
	step.CrashPoint("pod", "stop", "before-down")
	return p.m.podSteps.Named("network", "infra", "plugins", "logs").Descend(ctx, p)
}

// stopContainers kills all containers of the pod at once.
func (p *Pod) stopContainers(ctx context.Context) error {
	list := p.containers()
	failed := make([]error, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			if failed[i] = c.stop(ctx, 0); failed[i] == nil {
				c.tellEnded(ctx)
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// Remove stops a pod and unmakes it with its containers. Absence is success.
func (m *Manager) Remove(ctx context.Context, id string) error {
	p, err := m.podIndex.Find(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := p.stop(ctx); err != nil {
		return err
	}
	m.podIndex.FreeName(p.name(), p.id)
	for _, c := range p.containers() {
		if err := c.remove(ctx); err != nil {
			return err
		}
	}
	return p.unmake(ctx)
}

// unmake walks all downs and deletes the record. What fails leaves the pod
// removing, for the next call or the sweep.
func (p *Pod) unmake(ctx context.Context) (err error) {
	ctx, end := p.trail.Begin(ctx, step.Call, "remove")
	defer func() { end(err) }()
	step.Waits(ctx, "another call")
	if err := p.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot remove pod %s: %w", p.id, err)
	}
	defer p.op.Release()
	step.Waits(ctx, "")
	if p.view().Status.Phase != state.Removing {
		if err := p.transition(func(s *state.PodStatus) { s.Phase = state.Removing }); err != nil {
			return err
		}
	}
	step.CrashPoint("pod", "removing", "after-transition")
	if err := p.m.podSteps.Descend(ctx, p); err != nil {
		p.m.sweepSoon()
		return err
	}
	if err := p.m.keepDebt(p); err != nil {
		return err
	}
	p.tellRemoved(ctx)
	step.CrashPoint("pod", "record", "before-delete")
	return p.forget()
}

// Pod returns one pod by id or by the beginning of its id; one that is being made is
// not found.
func (m *Manager) Pod(id string) (state.PodView, error) {
	p, err := m.podIndex.Find(id)
	if err != nil {
		return state.PodView{}, err
	}
	v := p.view()
	if v.Status.Phase == state.Creating {
		return state.PodView{}, errs.NotFound("pod sandbox", id)
	}
	return v, nil
}

// podViews returns all pods, those that are being made or removed too.
func (m *Manager) podViews() (list []state.PodView) {
	for _, p := range m.podIndex.All() {
		list = append(list, p.view())
	}
	return list
}

// Pods returns all pods that are made; those being made or removed are not listed.
func (m *Manager) Pods() (list []state.PodView) {
	for _, p := range m.podIndex.All() {
		if v := p.view(); v.Status.Phase == state.Ready || v.Status.Phase == state.NotReady {
			list = append(list, v)
		}
	}
	return list
}

// NamespacePath is where others find a namespace of a pod; kind is net, ipc, uts or user.
func (m *Manager) NamespacePath(id, kind string) string {
	return mount.NamespacePath(m.NamespacesDir, id, kind)
}
