// Package daemon is the only place that knows everybody: it builds each part once,
// hands it what it needs, and runs the whole until it is told to end.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/checkpoint"
	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/cri"
	"github.com/monocrio/monocrio/internal/daemon/facts"
	"github.com/monocrio/monocrio/internal/daemon/observe"
	"github.com/monocrio/monocrio/internal/daemon/roots"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/notifier"
	"github.com/monocrio/monocrio/internal/nri"
	"github.com/monocrio/monocrio/internal/perf"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/preload"
	"github.com/monocrio/monocrio/internal/puller"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/stats"
	"github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/stream"
	"github.com/monocrio/monocrio/internal/version"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parts is everything that was built.
type parts struct {
	conf      *config.Config // as it was at the start: what no reload changes
	log       *slog.Logger
	now       current // what a reload changes
	driver    cgroup.Driver
	ids       *idrange.Pool
	labels    *selinux.Labeler
	tuner     *perf.Tuner
	store     *storage.Store
	images    *image.Service
	preloaded *preload.Keeper
	artifacts *artifact.Store
	network   *cni.Network
	pods      *pod.Manager
	events    *cri.Events
	plugins   *nri.Plugins
	refused   *notifier.Notifier
	streams   *stream.Server
	stats     *stats.Collector
	deps      cri.Deps
	observers observe.Observers
}

// build makes the parts, lowest first. What was opened before a failure is closed.
func build(c *config.Config, log *slog.Logger) (p *parts, err error) {
	p = &parts{conf: c, log: log, events: cri.NewEvents()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.driver, err = cgroupDriver(c); err != nil {
		return p, err
	}
	if err = newObservers(p); err != nil {
		return p, err
	}
	bin := filepath.Join(c.Crio.RunDir, "bin")
	if err := facts.Links(bin, "conmon", "runc", "pause", "shimrun"); err != nil {
		return p, fmt.Errorf("cannot make the links of the embedded programs: %w", err)
	}
	if p.store, err = storage.Open(storageOptions(c, log)); err != nil {
		return p, err
	}
	outside, err := puller.New(c.Runtime.SeparatePullCgroup, p.driver, storageOptions(c, log))
	if err != nil {
		return p, err
	}
	p.artifacts = roots.Artifacts(c, func(ctx context.Context, ref string) (string, error) { return p.images.Bring(ctx, ref) }, log)
	p.preloaded = preload.New(preload.Options{Record: filepath.Join(c.Crio.StateDir, "preloaded.json"), Log: log})
	p.images = image.New(image.Options{Store: p.store, Artifacts: p.artifacts, Media: p.preloaded, BigFilesDir: c.Image.BigFilesTemporaryDir, Rules: imageRules(c), Outside: outside, OnPull: p.observers.Pull, Log: log})
	if p.network, err = cni.New(networkOptions(c, log)); err != nil {
		return p, err
	}
	p.ids, p.labels, p.tuner = idPool(&c.Runtime), &selinux.Labeler{Kernel: lsm.SELinux{}}, newTuner(p)
	g, err := p.newGeneration(c)
	if err == nil {
		err = g.classes.Apply(rdtGroups(c), log)
	}
	if err != nil {
		return p, err
	}
	p.now.Store(g)
	if p.plugins, err = newPlugins(c, &p.now, log); err != nil {
		return p, err
	}
	if p.refused, err = newNotifier(p); err != nil {
		return p, err
	}
	if p.pods, err = newPods(p); err != nil {
		return p, err
	}
	p.observers.Pods = p.pods
	p.streams = stream.New(streamOptions(c, p.pods, log))
	p.stats = newStats(p)
	p.deps = cri.Deps{Pods: p.pods, Stats: p.stats,
		Checkpoints: &checkpoint.Service{Pods: p.pods, Images: images{p.images, p.store}, Checkpoint: c.Checkpoint.Level != "" && c.Checkpoint.Level != "none", Restore: c.Checkpoint.Level == "checkpoint_restore"},
		Events:      p.events, Streams: p.streams, Images: p.images, Store: p.store, NetworkStatus: p.network.Status, SetPodCIDR: p.network.SetPodCIDR,
		Handlers: p.now.handlerList,
		Features: &api.RuntimeFeatures{SupplementalGroupsPolicy: true, UserNamespacesHostNetwork: true, MountOptions: true},
		Systemd:  p.driver == cgroup.Systemd, Config: func() any { return p.now.Load().conf }, Begin: p.observers.Call, Log: log}
	return p, nil
}

// FromSystem fills in what this machine's storage.conf says of the store and nothing
// else does, so that other programs see the same images.
func FromSystem(c *config.Config) error {
	sys, err := storage.System()
	if err != nil {
		return errs.Precondition("%w; correct it, or name another by CONTAINERS_STORAGE_CONF", err)
	}
	for _, o := range c.Options() {
		var text string
		switch o.Name() {
		case "crio.root":
			text = sys.Root
		case "crio.runroot":
			text = sys.RunRoot
		case "crio.imagestore":
			text = sys.ImageStore
		case "crio.storage_driver":
			text = sys.Driver
		case "crio.storage_option":
			text = strings.Join(sys.DriverOptions, ",")
		}
		if text != "" && c.Origin(o.Name()) == "" {
			c.SetFrom(&o, text, "storage.conf")
		}
	}
	return nil
}

func storageOptions(c *config.Config, log *slog.Logger) storage.Options {
	return storage.Options{Root: c.Crio.Root, RunRoot: c.Crio.RunRoot, ImageStore: c.Crio.ImageStore,
		Driver: c.Crio.StorageDriver, DriverOptions: c.Crio.StorageOptions, Additional: c.Image.AdditionalStores, Log: log}
}

func networkOptions(c *config.Config, log *slog.Logger) cni.Options {
	return cni.Options{ConfDir: c.Network.NetworkDir, DefaultNetwork: c.Network.DefaultNetwork, PluginDirs: c.Network.PluginDirs,
		CacheDir: c.Network.CacheDir, Template: c.Network.Template, StatusGrace: time.Duration(c.Network.StatusGrace), Plugins: cni.Embedded(), Log: log}
}

// cgroupDriver is what the configuration says, else systemd where it runs.
func cgroupDriver(c *config.Config) (cgroup.Driver, error) {
	if c.Runtime.CgroupManager != "" {
		return cgroup.ParseDriver(c.Runtime.CgroupManager)
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return cgroup.Systemd, nil
	}
	return cgroup.Cgroupfs, nil
}

func newPods(p *parts) (*pod.Manager, error) {
	c := p.conf
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this boot from the last one: %w", err)
	}
	for _, dir := range []string{c.Runtime.ContainerExitsDir, c.Runtime.ContainerAttachDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return pod.New(pod.Options{
		StateDir: c.Crio.StateDir, RunDir: c.Crio.RunDir, LogDir: c.Crio.LogDir, Boot: boot,
		Host: process.Host{Monitors: monitors{}, Why: p.refused.Why, ExitsDir: c.Runtime.ContainerExitsDir, AttachDir: c.Runtime.ContainerAttachDir,
			Journald:   c.Runtime.LogToJournald,
			LogSizeMax: c.Runtime.LogSizeMax, Places: places{p.driver}, NoPivot: c.Runtime.NoPivot, SystemdCgroup: p.driver == cgroup.Systemd},
		MakeTime: time.Duration(c.Runtime.CreateTimeout),
		Sysctls:  facts.SysctlMap(c.Runtime.DefaultSysctls), DisableHostPorts: c.Runtime.DisableHostPorts,
		Network: p.network, Namespaces: pins{c.Runtime.NamespacesDir}, NamespacesDir: c.Runtime.NamespacesDir, Cgroups: cgroups{p.driver}, Rootfs: roots.Roots{Store: p.store, Artifacts: p.artifacts}, Images: images{p.images, p.store},
		Handlers: &p.now, Specs: &p.now, Plugins: p.plugins, Log: p.log, OnEvent: p.onEvent,
		Observer: p.observers.Step(), OnStall: func(stage string) { p.observers.Metrics.Stalled(stage) },
	})
}

// newNotifier listens to seccomp filters. It ends containers only while pods are served.
func newNotifier(p *parts) (*notifier.Notifier, error) {
	return notifier.Listen(notifier.Options{Socket: seccompSocket(p.conf), Log: p.log, Seen: p.observers.Refused,
		Bundle: func(id string) string { return filepath.Join(p.conf.Crio.RunDir, "containers", id) },
		Stop:   func(id string) error { return p.pods.StopContainer(context.Background(), id, 0) }})
}

// newTuner changes the node for containers with undisturbed processors.
func newTuner(p *parts) *perf.Tuner {
	return perf.New(perf.Options{Bundles: filepath.Join(p.conf.Crio.RunDir, "containers"), Unified: cgroup.Unified(),
		IRQBalance: p.conf.Runtime.IRQBalanceConfig, Restore: p.conf.Runtime.IRQBalanceRestore, Reread: perf.RestartIRQBalance, Log: p.log,
		Cgroup: func(controller, cgroupsPath string) (string, error) {
			path, err := cgroup.Path(p.driver, cgroupsPath)
			if err != nil {
				return "", err
			}
			return cgroup.DirFor(controller, path), nil
		}})
}

// recoverNotifier tells it which containers run already.
func (p *parts) recoverNotifier() {
	var running []string
	for _, v := range p.pods.Containers() {
		if v.Status.FinishedAt == 0 {
			running = append(running, v.ID)
		}
	}
	p.refused.Recover(running)
}

// seccompSocket is where listeners are sent; "" if such a path cannot be a socket's.
func seccompSocket(c *config.Config) string {
	path := filepath.Join(c.Crio.RunDir, "seccomp.sock")
	if len(path) > 107 { // unix(7)
		return ""
	}
	return path
}

// criuConfig writes criu's configuration where checkpoints are on; "" where not.
func criuConfig(c *config.Config) (path string, err error) {
	if c.Checkpoint.Level == "" || c.Checkpoint.Level == "none" {
		return "", nil
	}
	path = filepath.Join(c.Crio.RunDir, "criu.conf")
	return path, fsx.WriteFile(path, []byte(checkpoint.CRIUConfig), 0o600, fsx.Process)
}

// monitorEnv is the environment of monitors and the runtimes that they run, which look
// for their own helpers (criu) in PATH.
func monitorEnv(env []string) []string {
	for _, e := range env {
		if strings.HasPrefix(e, "PATH=") {
			return env
		}
	}
	return append([]string{"PATH=" + os.Getenv("PATH")}, env...)
}

// newPlugins sets up the node resource interface, or what stands for it when it is
// off.
func newPlugins(c *config.Config, now *current, log *slog.Logger) (*nri.Plugins, error) {
	n := c.NRI
	if !n.Enable {
		return nri.None(), nil
	}
	o := nri.Options{Socket: n.Listen, PluginDir: n.PluginDir, ConfigDir: n.PluginConfigDir, NoConnections: n.DisableConnections,
		Registration: time.Duration(n.RegistrationTimeout), Request: time.Duration(n.RequestTimeout),
		Version: version.Version, InjectCDI: now.InjectCDI, BlockIO: now.blockIO, RDT: now.rdt, Log: log}
	if v := c.Validator; v.Enable {
		o.Rules = &nri.Rules{Enable: true, RejectOCIHookAdjustment: v.RejectHooks, RejectRuntimeDefaultSeccompAdjustment: v.RejectSeccompDefault,
			RejectUnconfinedSeccompAdjustment: v.RejectSeccompNone, RejectCustomSeccompAdjustment: v.RejectSeccompCustom,
			RejectNamespaceAdjustment: v.RejectNamespaces, RejectSysctlAdjustment: v.RejectSysctls,
			RequiredPlugins: v.RequiredPlugins, TolerateMissingAnnotation: v.TolerateMissing}
	}
	return nri.New(o)
}

// close lets go of everything. Pods and containers go on.
func (p *parts) close() (err error) {
	if p.streams != nil {
		err = p.streams.Close()
	}
	if p.plugins != nil {
		p.plugins.Stop()
	}
	if p.stats != nil {
		p.stats.Close()
	}
	if p.refused != nil {
		err = errors.Join(err, p.refused.Close())
	}
	if p.pods != nil {
		p.pods.Close()
	}
	if p.network != nil {
		err = errors.Join(err, p.network.Close())
	}
	if p.images != nil {
		p.images.Close()
		p.preloaded.Close()
	}
	if p.store != nil {
		err = errors.Join(err, p.store.Close())
	}
	p.observers.Tracer.Close()
	return err
}

// Teardown unmounts and deletes what the daemon keeps of its own between runs:
// bridges without ports, empty packet filter tables, the store's mounts. It is for
// machines that must be left as they were found. No pod may be left.
func Teardown(ctx context.Context, c *config.Config, log *slog.Logger) error {
	p, err := build(c, log)
	if err != nil {
		return err
	}
	if err := p.pods.Recover(ctx); err != nil {
		return errors.Join(err, p.close())
	}
	if n := len(p.pods.Pods()); n > 0 {
		return errors.Join(errs.Precondition("cannot tear down: %d pods are left; remove them first", n), p.close())
	}
	p.pods.Close()
	if driver, err := cgroupDriver(c); err == nil {
		cgroups{driver}.removeParent()
	}
	return errors.Join(p.refused.Close(), p.network.Teardown(ctx), p.network.Close(), p.store.Teardown())
}
