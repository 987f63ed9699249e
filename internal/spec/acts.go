package spec

import (
	"encoding/base64"
	"maps"
	"math"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// acting does what annotations and the handler say about the process and its cgroup.
func (b *builder) acting() error {
	if v, ok := b.acts.Get(annotation.Umask, b.name); ok {
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o777 {
			return errs.Invalid("annotation %s = %q: a number from 0 to 0777, octal, is needed", annotation.Umask, v)
		}
		b.spec.Process.User.Umask = new(uint32(n))
	}
	if err := b.unified(); err != nil {
		return err
	}
	return b.cpus()
}

// unified sets files of the container's cgroup.
func (b *builder) unified() error {
	v, ok := b.acts.Get(annotation.UnifiedCgroup, b.name)
	if !ok {
		return nil
	}
	set := map[string]string{}
	for pair := range strings.SplitSeq(v, ";") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" || strings.ContainsAny(key, "/\x00") || !strings.Contains(key, ".") {
			return errs.Invalid("annotation %s: %q: write KEY=VALUE with the name of a cgroup file, for example memory.high=100000000; entries are parted by semicolons", annotation.UnifiedCgroup, pair)
		}
		set[key] = plainText(value)
	}
	if !b.in.Node.CgroupV2 {
		b.notes = append(b.notes, "annotation "+annotation.UnifiedCgroup+" has no effect: this node has cgroup v1")
		return nil
	}
	r := b.spec.Linux.Resources
	r.Unified = maps.Clone(r.Unified)
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	maps.Copy(r.Unified, set)
	return nil
}

// plainText decodes base64, which is needed for values with semicolons or line ends. What
// is no printable text when decoded was none: "1000" is meant as it stands.
func plainText(v string) string {
	data, err := base64.StdEncoding.DecodeString(v)
	if err != nil || len(data) == 0 {
		return v
	}
	for _, c := range data {
		if (c < ' ' || c > '~') && c != '\n' && c != '\t' {
			return v
		}
	}
	return string(data)
}

// cpus adds shared processors, and names the one on which exec'd processes begin.
func (b *builder) cpus() error {
	cpu := b.spec.Linux.Resources.CPU
	from := "" // where exec'd processes begin: shared processors, rather than the container's own
	if v, ok := b.acts.Get(annotation.CPUShared, b.name); ok {
		switch {
		case v != "enable":
			return errs.Invalid("annotation %s = %q: only enable is known", annotation.CPUShared, v)
		case b.in.Node.SharedCPUs == "":
			return errs.Precondition("annotation %s: this node shares no processors: set shared_cpuset in [crio.runtime]", annotation.CPUShared)
		case cpu == nil || cpu.Cpus == "":
			return errs.Invalid("annotation %s: the container has no processors of its own (cpuset_cpus) to add shared ones to", annotation.CPUShared)
		}
		b.spec.Process.Env = append(b.spec.Process.Env, "OPENSHIFT_ISOLATED_CPUS="+cpu.Cpus, "OPENSHIFT_SHARED_CPUS="+b.in.Node.SharedCPUs)
		cpu.Cpus += "," + b.in.Node.SharedCPUs
		from = b.in.Node.SharedCPUs
	}
	if cpu != nil && from == "" {
		from = cpu.Cpus
	}
	if b.in.Node.ExecFirstCPU && from != "" {
		first := strings.FieldsFunc(from, func(r rune) bool { return r == ',' || r == '-' })[0]
		b.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: first, Final: first} // kernels before 6.2 forget the first of them
	}
	return nil
}

// gomaxprocs is what Go programs of burstable and best-effort pods are told: as many
// processors as they ask for, and not fewer than the node says; 0: nothing.
func (b *builder) gomaxprocs() int64 {
	least := b.in.Node.MinGOMAXPROCS
	// The kubelet names the class of a pod nowhere else.
	if least <= 0 || !strings.Contains(b.in.Pod.CgroupParent, "burstable") && !strings.Contains(b.in.Pod.CgroupParent, "besteffort") {
		return 0
	}
	if b.acts.Is(annotation.SkipGOMAXPROCS, b.name, "true") {
		return 0
	}
	shares := b.in.Config.GetLinux().GetResources().GetCpuShares()
	return max(least, int64(math.Ceil(float64(shares)/1024)))
}

// extraMounts are the node's own: a time zone, secrets, a kernel without FIPS mode.
func (b *builder) extraMounts(asked map[string]bool) (list []specs.Mount) {
	bind := func(dst, src string) {
		if src != "" && !asked[dst] {
			list = append(list, specs.Mount{Destination: dst, Type: "bind", Source: src, Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", "ro"}})
		}
	}
	bind("/etc/localtime", b.in.Node.Localtime)
	if b.acts.Is(annotation.DisableFIPS, b.name, "true") {
		bind("/proc/sys/crypto/fips_enabled", b.in.FIPSFile)
	}
	for _, s := range b.in.Node.Secrets {
		if !asked[s.Path] {
			list = append(list, specs.Mount{Destination: s.Path, Type: "bind", Source: s.Source, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "rw"}})
		}
	}
	return list
}

// sandboxSize tells runtimes that make a virtual machine for the pod how large it must be.
func (b *builder) sandboxSize() {
	for name, r := range map[string]*cri.LinuxContainerResources{annotation.PodOverhead: b.in.Pod.Overhead, annotation.PodResources: b.in.Pod.Resources} {
		if v := text(r); v != "" && r != nil {
			b.spec.Annotations[name] = v
		}
	}
	for old, name := range map[string]string{"PodLinuxOverhead": annotation.PodOverhead, "PodLinuxResources": annotation.PodResources} {
		if v := b.spec.Annotations[name]; v != "" {
			b.spec.Annotations[noted+old] = v
		}
	}
}

// CPU is what a workload says of a container's processors; zero values say nothing.
type CPU struct {
	Shares, Quota, Period int64
	Cpuset                string
	Limit                 int64 // thousandths of a processor; becomes a quota
}

// over returns the resources with what the workload says.
func (c CPU) over(r *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	if c == (CPU{}) {
		return r
	}
	score := r.GetOomScoreAdj()
	if r = sum([]*cri.LinuxContainerResources{r}); r == nil { // a copy: the request's must stay
		r = &cri.LinuxContainerResources{}
	}
	r.OomScoreAdj = score
	for _, f := range []struct {
		to   *int64
		from int64
	}{{&r.CpuShares, c.Shares}, {&r.CpuPeriod, c.Period}, {&r.CpuQuota, c.Quota}} {
		if f.from != 0 {
			*f.to = f.from
		}
	}
	if c.Cpuset != "" {
		r.CpusetCpus = c.Cpuset
	}
	if c.Limit > 0 {
		if r.CpuPeriod == 0 {
			r.CpuPeriod = defaultPeriod
		}
		r.CpuQuota = max(c.Limit*r.CpuPeriod/1000, minQuota)
	}
	return r
}

// In microseconds: the kernel's period, and the least quota that it takes.
const (
	defaultPeriod = 100000
	minQuota      = 1000
)
