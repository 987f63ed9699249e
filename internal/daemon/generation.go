package daemon

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/perf"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/qos"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// generation is what follows from one configuration and is made anew by a reload. A
// request that has begun with one ends with it.
type generation struct {
	conf     *config.Config
	handlers handlers
	specs    *specMaker
	classes  *qos.Classes
}

// newGeneration checks and builds; nothing is in force yet.
func (p *parts) newGeneration(c *config.Config) (*generation, error) {
	bin := filepath.Join(c.Crio.RunDir, "bin")
	criu, err := criuConfig(c)
	if err != nil {
		return nil, err
	}
	hs, err := newHandlers(c, bin, p.driver, p.log)
	if err != nil {
		return nil, err
	}
	sm, err := newSpecMaker(c, hs, filepath.Join(bin, "pause"), criu, p.log)
	if err != nil {
		return nil, err
	}
	sm.ids, sm.tuner = p.ids, p.tuner // what is taken stays so
	for _, list := range []map[string]*process.Handler{hs.byName, hs.platforms} {
		for _, h := range list {
			h.Runtime = perf.Runtime{Runtime: h.Runtime, Tuner: p.tuner}
		}
	}
	if c.Runtime.SELinux && lsm.SELinuxEnabled() {
		sm.labels = p.labels
	}
	if p.artifacts != nil {
		sm.artifacts = p.artifacts
	}
	if sm.classes, err = qos.Read(c.Runtime.BlockIOConfigFile, c.Runtime.BlockIOReload, c.Runtime.RDTConfigFile); err != nil {
		return nil, err
	}
	return &generation{conf: c, handlers: hs, specs: sm, classes: sm.classes}, nil
}

// current is the generation in force. It stands where package pod wants handlers and
// specs, and where the CRI's face wants facts.
type current struct{ atomic.Pointer[generation] }

// Handler implements pod.Handlers.
func (c *current) Handler(name string) (*process.Handler, error) {
	return c.Load().handlers.Handler(name)
}

// Pod implements pod.Specs.
func (c *current) Pod(id string, r *state.PodRequest, others func() []state.PodView) (func(), error) {
	return c.Load().specs.Pod(id, r, others)
}

// Admit implements pod.Specs.
func (c *current) Admit(p *state.PodRequest, r *state.ContainerRequest) error {
	return c.Load().specs.Admit(p, r)
}

// Container implements pod.Specs.
func (c *current) Container(ctx context.Context, r pod.SpecRequest) (*specs.Spec, *state.User, error) {
	return c.Load().specs.Container(ctx, r)
}

// Infra implements pod.Specs.
func (c *current) Infra(ctx context.Context, r pod.SpecRequest) (*specs.Spec, error) {
	return c.Load().specs.Infra(ctx, r)
}

// Check implements pod.Specs.
func (c *current) Check(r *api.LinuxContainerResources) error { return c.Load().specs.Check(r) }

// Limits implements pod.Specs.
func (c *current) Limits(list ...*api.LinuxContainerResources) *specs.LinuxResources {
	return c.Load().specs.Limits(list...)
}

// InjectCDI is what NRI plugins ask for.
func (c *current) InjectCDI(s *specs.Spec, names []string) error {
	return c.Load().specs.cdi.Inject(s, names)
}

// blockIO and rdt are classes that NRI plugins name.
func (c *current) blockIO(class string) (*specs.LinuxBlockIO, error) {
	io, _, err := c.Load().classes.BlockIO.Class(class)
	return io, err
}

func (c *current) rdt(class string) (*specs.LinuxIntelRdt, error) {
	return c.Load().classes.RDT.Class(class, false, false)
}

// rdtGroups is the file that lists which RDT groups are ours.
func rdtGroups(c *config.Config) string { return filepath.Join(c.Crio.RunDir, "rdt.json") }

func (c *current) handlerList() []*api.RuntimeHandler { return c.Load().handlers.list() }

// keepsUsed refuses a generation in which a handler lacks, or keeps its state elsewhere,
// while pods use it: they could not be ended any more.
func (g *generation) keepsUsed(old *generation, used map[string]int) error {
	for name, n := range used {
		if name == "" {
			continue
		}
		base := handlerName(name)
		was, kind := old.conf.Runtime.Effective(base)
		now, kindNow := g.conf.Runtime.Effective(base)
		if _, err := g.handlers.Handler(name); base != name && err != nil {
			return errs.Precondition("[crio.runtime.runtimes.%s] platform_runtime_paths lacks %s, and %d containers use it: remove them first, or keep it", base, name[len(base)+1:], n)
		}
		if _, ok := g.conf.Runtime.Runtimes[base]; !ok {
			return errs.Precondition("[crio.runtime.runtimes.%s] is gone, and %d pods use it: remove them first, or keep it", name, n)
		}
		if kind != kindNow || was.Root != now.Root || was.Type != now.Type {
			return errs.Precondition("[crio.runtime.runtimes.%s] has another runtime_root or runtime_type, and %d pods use it: remove them first, or restore it", name, n)
		}
	}
	return nil
}

// imageRules are the rules of the image service.
func imageRules(c *config.Config) image.Rules {
	return image.Rules{AuthFile: c.Image.GlobalAuthFile, AuthDir: c.Image.NamespacedAuthDir, Policy: c.Image.SignaturePolicy, PolicyDir: c.Image.SignaturePolicyDir,
		ShortNames:     c.Image.ShortNameMode,
		RegistriesConf: c.Image.RegistriesConf, RegistriesConfDir: c.Image.RegistriesConfDir, CertsDir: c.Image.CertsDir,
		ProgressTimeout: time.Duration(c.Image.PullProgressTimeout), Pinned: c.Image.PinnedImages, Artifacts: c.Image.ArtifactMounts, KeysDir: c.Runtime.DecryptionKeysPath, Offline: c.Image.Offline}
}
