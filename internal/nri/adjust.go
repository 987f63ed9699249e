package nri

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// adjust changes a specification as plugins agreed.
func adjust(s *specs.Spec, a *adaptation.ContainerAdjustment, o *Options) error {
	if a == nil {
		return nil
	}
	g := generate.SpecGenerator(&generator{s}, generate.WithCDIDeviceInjector(o.InjectCDI),
		generate.WithBlockIOResolver(o.BlockIO), generate.WithRdtResolver(o.RDT),
		generate.WithResourceChecker(func(r *specs.LinuxResources) error {
			if r != nil && r.Memory != nil && !cgroup.Available().Swap {
				r.Memory.Swap = nil // a limit of memory alone: the kernel does not account for swap
			}
			return nil
		}))
	return g.Adjust(a)
}

// dropEnv removes variables that plugins took out of the environment which they were
// told: the library applies removals to that, and does not hand them on.
func dropEnv(s *specs.Spec, left []string) {
	if s.Process == nil {
		return
	}
	s.Process.Env = slices.DeleteFunc(s.Process.Env, func(e string) bool {
		key, _, _ := strings.Cut(e, "=")
		return !slices.ContainsFunc(left, func(l string) bool { return l == key || strings.HasPrefix(l, key+"=") })
	})
}

// generator changes a specification in small steps, as the library's wrapper wants
// it. The names are those of runtime-tools' generator, which drags in a JSON schema
// validator and is not linked for that.
type generator struct{ s *specs.Spec }

func (g *generator) Spec() *specs.Spec { return g.s }

func (g *generator) process() *specs.Process {
	if g.s.Process == nil {
		g.s.Process = &specs.Process{}
	}
	return g.s.Process
}

func (g *generator) linux() *specs.Linux {
	if g.s.Linux == nil {
		g.s.Linux = &specs.Linux{}
	}
	return g.s.Linux
}

func (g *generator) resources() *specs.LinuxResources {
	if g.linux().Resources == nil {
		g.linux().Resources = &specs.LinuxResources{}
	}
	return g.linux().Resources
}

func (g *generator) cpu() *specs.LinuxCPU {
	if g.resources().CPU == nil {
		g.resources().CPU = &specs.LinuxCPU{}
	}
	return g.resources().CPU
}

func (g *generator) memory() *specs.LinuxMemory {
	if g.resources().Memory == nil {
		g.resources().Memory = &specs.LinuxMemory{}
	}
	return g.resources().Memory
}

func (g *generator) hooks() *specs.Hooks {
	if g.s.Hooks == nil {
		g.s.Hooks = &specs.Hooks{}
	}
	return g.s.Hooks
}

func (g *generator) AddAnnotation(k, v string) {
	if g.s.Annotations == nil {
		g.s.Annotations = map[string]string{}
	}
	g.s.Annotations[k] = v
}

func (g *generator) RemoveAnnotation(k string) { delete(g.s.Annotations, k) }

func (g *generator) AddDevice(d specs.LinuxDevice) {
	g.RemoveDevice(d.Path)
	g.linux().Devices = append(g.linux().Devices, d)
}

func (g *generator) RemoveDevice(path string) {
	g.linux().Devices = slices.DeleteFunc(g.linux().Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (g *generator) AddLinuxResourcesDevice(allow bool, typ string, major, minor *int64, access string) {
	r := g.resources()
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: typ, Major: major, Minor: minor, Access: access})
}

func (g *generator) AddOrReplaceLinuxNamespace(kind, path string) error {
	if err := g.RemoveLinuxNamespace(kind); err != nil {
		return err
	}
	g.linux().Namespaces = append(g.linux().Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
	return nil
}

func (g *generator) RemoveLinuxNamespace(kind string) error {
	switch t := specs.LinuxNamespaceType(kind); t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		g.linux().Namespaces = slices.DeleteFunc(g.linux().Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
		return nil
	}
	return fmt.Errorf("there is no namespace of type %q", kind)
}

func (g *generator) AddPreStartHook(h specs.Hook) {
	g.hooks().Prestart = append(g.hooks().Prestart, h) //nolint:staticcheck // deprecated, and plugins may ask for it
}

func (g *generator) AddPostStartHook(h specs.Hook) {
	g.hooks().Poststart = append(g.hooks().Poststart, h)
}

func (g *generator) AddPostStopHook(h specs.Hook) { g.hooks().Poststop = append(g.hooks().Poststop, h) }

func (g *generator) AddProcessEnv(name, value string) {
	p, prefix := g.process(), name+"="
	if i := slices.IndexFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, prefix) }); i >= 0 {
		p.Env[i] = prefix + value
		return
	}
	p.Env = append(p.Env, prefix+value)
}

func (g *generator) ClearProcessEnv()             { g.process().Env = nil }
func (g *generator) SetProcessArgs(args []string) { g.process().Args = args }
func (g *generator) SetProcessOOMScoreAdj(n int)  { g.process().OOMScoreAdj = &n }

func (g *generator) AddMount(m specs.Mount) {
	g.RemoveMount(m.Destination)
	g.s.Mounts = append(g.s.Mounts, m)
}

func (g *generator) RemoveMount(dest string) {
	g.s.Mounts = slices.DeleteFunc(g.s.Mounts, func(m specs.Mount) bool { return m.Destination == dest })
}

func (g *generator) ClearMounts()          { g.s.Mounts = nil }
func (g *generator) Mounts() []specs.Mount { return g.s.Mounts }

func (g *generator) AddLinuxSysctl(k, v string) {
	if g.linux().Sysctl == nil {
		g.linux().Sysctl = map[string]string{}
	}
	g.linux().Sysctl[k] = v
}

func (g *generator) RemoveLinuxSysctl(k string)      { delete(g.linux().Sysctl, k) }
func (g *generator) SetLinuxCgroupsPath(path string) { g.linux().CgroupsPath = path }

func (g *generator) SetLinuxRootPropagation(p string) error {
	switch p {
	case "", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
		g.linux().RootfsPropagation = p
		return nil
	}
	return fmt.Errorf("there is no mount propagation %q", p)
}

func (g *generator) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := g.resources()
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(l specs.LinuxHugepageLimit) bool { return l.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (g *generator) AddLinuxResourcesUnified(k, v string) {
	if g.resources().Unified == nil {
		g.resources().Unified = map[string]string{}
	}
	g.resources().Unified[k] = v
}

func (g *generator) SetLinuxResourcesCPUCpus(s string)           { g.cpu().Cpus = s }
func (g *generator) SetLinuxResourcesCPUMems(s string)           { g.cpu().Mems = s }
func (g *generator) SetLinuxResourcesCPUPeriod(n uint64)         { g.cpu().Period = &n }
func (g *generator) SetLinuxResourcesCPUQuota(n int64)           { g.cpu().Quota = &n }
func (g *generator) SetLinuxResourcesCPURealtimePeriod(n uint64) { g.cpu().RealtimePeriod = &n }
func (g *generator) SetLinuxResourcesCPURealtimeRuntime(n int64) { g.cpu().RealtimeRuntime = &n }
func (g *generator) SetLinuxResourcesCPUShares(n uint64)         { g.cpu().Shares = &n }
func (g *generator) SetLinuxResourcesMemoryLimit(n int64)        { g.memory().Limit = &n }
func (g *generator) SetLinuxResourcesMemorySwap(n int64)         { g.memory().Swap = &n }
