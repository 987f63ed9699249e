// Package nri tells plugins of the Node Resource Interface what happens to pods and
// containers, lets them change what is about to be made, and does what they ask for.
//
// It implements pod.Plugins over the library's adaptation, which owns sockets,
// registration and the order of plugins; here is the translation between its words
// and ours. As long as no plugin is connected, a call costs one atomic load.
//
// See https://github.com/containerd/nri for the interface.
package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Options are those of the table [crio.nri].
type Options struct {
	Socket               string // where plugins connect
	PluginDir, ConfigDir string // plugins that are started with the daemon, and their configuration
	NoConnections        bool   // plugins of PluginDir only
	// Registration bounds how long a plugin may take to introduce itself and to learn
	// what there is, Request how long for one answer; a plugin that takes longer is
	// disconnected.
	Registration, Request time.Duration
	// Version is ours, for plugins to know.
	Version string
	Rules   *Rules // nil: none
	// InjectCDI adds CDI devices that a plugin asks for.
	InjectCDI func(*specs.Spec, []string) error
	// BlockIO and RDT find classes that a plugin names.
	BlockIO func(class string) (*specs.LinuxBlockIO, error)
	RDT     func(class string) (*specs.LinuxIntelRdt, error)
	Log     *slog.Logger
}

// Rules are what the library's default validator checks.
type Rules = validator.DefaultValidatorConfig

// Model is what plugins see and change (package pod).
type Model interface {
	Pods() []state.PodView
	Containers() []state.ContainerView
	// Spec is the OCI specification with which a container was made.
	Spec(id string) (*specs.Spec, error)
	// Adjust sets limits of a container that no kubelet asked for.
	Adjust(ctx context.Context, id string, limits *specs.LinuxResources, told *cri.LinuxContainerResources) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
}

// Plugins are the connected plugins. It implements pod.Plugins.
type Plugins struct {
	o     Options
	a     *adaptation.Adaptation
	model Model
	// connected counts plugins; a new one is added while nothing is being made.
	connected atomic.Int64
}

var _ pod.Plugins = (*Plugins)(nil)

// runtimeName is ours to plugins, which know CRI-O by it.
const runtimeName = "cri-o"

// New makes the interface; nobody can connect before Start.
func New(o Options) (*Plugins, error) {
	p := &Plugins{o: o}
	nrilog.Set(logger{slog.New(slog.DiscardHandler)}) // it complains that WASM is left out
	defer nrilog.Set(logger{o.Log})
	adaptation.SetPluginRegistrationTimeout(o.Registration)
	adaptation.SetPluginRequestTimeout(o.Request)
	options := []adaptation.Option{
		adaptation.WithSocketPath(o.Socket), adaptation.WithPluginPath(o.PluginDir), adaptation.WithPluginConfigPath(o.ConfigDir),
		adaptation.WithMetrics(counter{p: p}),
	}
	if o.NoConnections {
		options = append(options, adaptation.WithDisabledExternalConnections())
	}
	if o.Rules != nil {
		options = append(options, adaptation.WithDefaultValidator(o.Rules))
		p.connected.Add(1) // it must be asked though nobody is connected
	}
	var err error
	p.a, err = adaptation.New(runtimeName, o.Version, p.synchronize, p.unsolicited, options...)
	if err != nil {
		return nil, fmt.Errorf("cannot set up the node resource interface: %w", err)
	}
	return p, nil
}

// None stands for plugins where the interface is off.
func None() *Plugins { return &Plugins{} }

// Start starts the plugins of PluginDir and lets others connect.
func (p *Plugins) Start(m Model) error {
	if p.a == nil {
		return nil
	}
	p.model = m
	if err := p.a.Start(); err != nil {
		return fmt.Errorf("cannot start the node resource interface ([crio.nri] nri_listen %s, nri_plugin_dir %s): %w", p.o.Socket, p.o.PluginDir, err)
	}
	return nil
}

// Stop ends the plugins that were started here and lets go of the others.
func (p *Plugins) Stop() {
	if p.model != nil {
		p.a.Stop()
	}
}

func (p *Plugins) none() bool { return p.connected.Load() == 0 }

// Hold implements pod.Plugins.
func (p *Plugins) Hold() (release func()) {
	if p.a == nil {
		return func() {}
	}
	return p.a.BlockPluginSync().Unblock
}

// Pod implements pod.Plugins.
func (p *Plugins) Pod(ctx context.Context, m state.PodMoment, v *state.PodView) error {
	if p.none() {
		return nil
	}
	box, err := toPod(v), error(nil)
	switch m {
	case state.PodRun:
		err = p.a.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: box})
	case state.PodUpdated:
		err = p.a.PostUpdatePodSandbox(ctx, &adaptation.PostUpdatePodSandboxRequest{Pod: box})
	case state.PodStop:
		err = p.a.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: box})
	case state.PodRemove:
		err = p.a.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: box})
	}
	return refused(err)
}

// UpdatePod implements pod.Plugins.
func (p *Plugins) UpdatePod(ctx context.Context, v *state.PodView, overhead, resources *cri.LinuxContainerResources) error {
	if p.none() {
		return nil
	}
	_, err := p.a.UpdatePodSandbox(ctx, &adaptation.UpdatePodSandboxRequest{Pod: toPod(v),
		OverheadLinuxResources: toResources(overhead), LinuxResources: toResources(resources)})
	return refused(err)
}

// Container implements pod.Plugins.
func (p *Plugins) Container(ctx context.Context, m state.ContainerMoment, v *state.PodView, c *state.ContainerView) error {
	if p.none() {
		return nil
	}
	// A container whose bundle is gone is told by its record alone.
	spec, err := p.model.Spec(c.ID)
	if err != nil {
		spec = &specs.Spec{}
	}
	box, ctr := toPod(v), toContainer(c, spec)
	switch err = nil; m {
	case state.ContainerCreated:
		err = p.a.PostCreateContainer(ctx, &adaptation.PostCreateContainerRequest{Pod: box, Container: ctr})
	case state.ContainerStart:
		err = p.a.StartContainer(ctx, &adaptation.StartContainerRequest{Pod: box, Container: ctr})
	case state.ContainerStarted:
		err = p.a.PostStartContainer(ctx, &adaptation.PostStartContainerRequest{Pod: box, Container: ctr})
	case state.ContainerUpdated:
		err = p.a.PostUpdateContainer(ctx, &adaptation.PostUpdateContainerRequest{Pod: box, Container: ctr})
	case state.ContainerStop:
		var resp *adaptation.StopContainerResponse
		if resp, err = p.a.StopContainer(ctx, &adaptation.StopContainerRequest{Pod: box, Container: ctr}); err == nil {
			_, err = p.apply(ctx, resp.GetUpdate(), nil)
		}
	case state.ContainerRemove:
		err = p.a.RemoveContainer(ctx, &adaptation.RemoveContainerRequest{Pod: box, Container: ctr})
	}
	return refused(err)
}

// Create implements pod.Plugins.
func (p *Plugins) Create(ctx context.Context, v *state.PodView, c *state.ContainerView, s *specs.Spec) error {
	if p.none() {
		return nil
	}
	req := &adaptation.CreateContainerRequest{Pod: toPod(v), Container: toContainer(c, s)}
	resp, err := p.a.CreateContainer(ctx, req)
	if err != nil {
		return refused(err)
	}
	dropEnv(s, req.GetContainer().GetEnv())
	if err := adjust(s, resp.GetAdjust(), &p.o); err != nil {
		return errs.Errorf(errs.KindPrecondition, "cannot do what NRI plugins want of the container: %w", err)
	}
	_, err = p.apply(ctx, resp.GetUpdate(), resp.GetEvict())
	return refused(err)
}

// Update implements pod.Plugins.
func (p *Plugins) Update(ctx context.Context, v *state.PodView, c *state.ContainerView, want *cri.LinuxContainerResources) (*cri.LinuxContainerResources, error) {
	if p.none() {
		return want, nil
	}
	spec, err := p.model.Spec(c.ID)
	if err != nil {
		return nil, err
	}
	resp, err := p.a.UpdateContainer(ctx, &adaptation.UpdateContainerRequest{Pod: toPod(v), Container: toContainer(c, spec), LinuxResources: toResources(want)})
	if err != nil {
		return nil, refused(err)
	}
	var others []*adaptation.ContainerUpdate
	for _, u := range resp.GetUpdate() {
		if u.GetContainerId() == c.ID {
			want = fromResources(u.GetLinux().GetResources())
			continue
		}
		others = append(others, u)
	}
	_, err = p.apply(ctx, others, resp.GetEvict())
	return want, refused(err)
}

// refused says who did not agree. What plugins answer has no kinds.
func refused(err error) error {
	if err == nil || errs.KindOf(err) != errs.KindInternal {
		return err
	}
	// Its words alone: the error is the status of a call to the plugin, which is not
	// ours to pass on.
	text := err.Error()
	if _, words, ok := strings.Cut(text, " desc = "); ok {
		text = words
	}
	return errs.Precondition("an NRI plugin refuses it: %s", text)
}

// apply does what plugins ask of other containers; failed are the updates that could
// not be made. One that is gone meanwhile needs none.
func (p *Plugins) apply(ctx context.Context, updates []*adaptation.ContainerUpdate, evict []*adaptation.ContainerEviction) (failed []*adaptation.ContainerUpdate, err error) {
	for _, u := range updates {
		r := u.GetLinux().GetResources()
		e := p.model.Adjust(ctx, u.GetContainerId(), r.ToOCI(), fromResources(r))
		if e == nil || errs.Is(e, errs.KindNotFound) {
			continue
		}
		failed = append(failed, u)
		if u.GetIgnoreFailure() {
			p.o.Log.Debug("an update that an NRI plugin asked for failed", "ctr", u.GetContainerId(), "err", e)
			continue
		}
		err = errors.Join(err, e)
	}
	for _, e := range evict {
		p.o.Log.Warn("an NRI plugin evicts a container", "ctr", e.GetContainerId(), "why", e.GetReason())
		err = errors.Join(err, p.model.StopContainer(ctx, e.GetContainerId(), 0))
	}
	return failed, err
}

// synchronize tells a new plugin all that there is. Nothing is being made meanwhile.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	var pods []*adaptation.PodSandbox
	var containers []*adaptation.Container
	for _, v := range p.model.Pods() {
		pods = append(pods, toPod(&v))
	}
	for _, c := range p.model.Containers() {
		spec, err := p.model.Spec(c.ID)
		if err != nil {
			spec = &specs.Spec{}
		}
		containers = append(containers, toContainer(&c, spec))
	}
	// To learn all at once belongs to joining, and may take as long. The library has
	// one limit for all calls; whoever else is called meanwhile may take longer too.
	adaptation.SetPluginRequestTimeout(max(p.o.Registration, p.o.Request))
	defer adaptation.SetPluginRequestTimeout(p.o.Request)
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	_, err = p.apply(ctx, updates, nil)
	return err
}

// unsolicited makes updates that a plugin asks for by itself.
func (p *Plugins) unsolicited(ctx context.Context, updates []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
	return p.apply(ctx, updates, nil)
}

// counter learns from the library how many plugins there are.
type counter struct{ p *Plugins }

// UpdatePluginCount implements adaptation.Metrics.
func (c counter) UpdatePluginCount(n int) {
	if c.p.o.Rules != nil {
		n++
	}
	c.p.connected.Store(int64(n))
}

// RecordPluginInvocation implements adaptation.Metrics.
func (counter) RecordPluginInvocation(string, string, error) {}

// RecordPluginLatency implements adaptation.Metrics.
func (c counter) RecordPluginLatency(plugin, operation string, d time.Duration) {
	c.p.o.Log.Debug("an NRI plugin answered", "plugin", plugin, "call", operation, "dur", d)
}

// RecordPluginAdjustments implements adaptation.Metrics.
func (counter) RecordPluginAdjustments(string, string, *adaptation.ContainerAdjustment, int, int) {}

// logger gives the library's messages to ours.
type logger struct{ log *slog.Logger }

func (l logger) Debugf(_ context.Context, f string, a ...any) {
	l.log.Debug("nri: " + fmt.Sprintf(f, a...))
}

// Infof is Debug for us: what the library says about itself is no news for operators.
func (l logger) Infof(_ context.Context, f string, a ...any) {
	l.log.Debug("nri: " + fmt.Sprintf(f, a...))
}
func (l logger) Warnf(_ context.Context, f string, a ...any) {
	l.log.Warn("nri: " + fmt.Sprintf(f, a...))
}
func (l logger) Errorf(_ context.Context, f string, a ...any) {
	l.log.Error("nri: " + fmt.Sprintf(f, a...))
}
