package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (b *builder) resources() error {
	r := b.in.Config.GetLinux().GetResources()
	for _, w := range b.in.CPU {
		r = w.over(r)
	}
	if err := CheckResources(r); err != nil {
		return err
	}
	score := int(r.GetOomScoreAdj())
	b.spec.Process.OOMScoreAdj = &score
	out, notes := Limits(b.in.Node, r)
	b.notes = append(b.notes, notes...)
	if n := b.in.Node.PidsLimit; n > 0 && out.Pids == nil {
		out.Pids = &specs.LinuxPids{Limit: &n}
	}
	out.Devices = b.spec.Linux.Resources.Devices // set by devices
	b.spec.Linux.Resources = out
	return nil
}

// CheckResources refuses limits that cannot be meant; nil is fine.
func CheckResources(r *cri.LinuxContainerResources) error {
	mem, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case mem < 0:
		return errs.Invalid("memory_limit_in_bytes %d: a limit cannot be negative", mem)
	case swap > 0 && mem > 0 && swap < mem:
		return errs.Invalid("memory_swap_limit_in_bytes %d is below memory_limit_in_bytes %d: it counts memory and swap together", swap, mem)
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return errs.Invalid("oom_score_adj %d: -1000 to 1000 are allowed", r.GetOomScoreAdj())
	case r.GetCpuPeriod() < 0 || r.GetCpuShares() < 0:
		return errs.Invalid("cpu_period %d, cpu_shares %d: they cannot be negative", r.GetCpuPeriod(), r.GetCpuShares())
	}
	for _, l := range []struct{ key, list string }{{"cpuset_cpus", r.GetCpusetCpus()}, {"cpuset_mems", r.GetCpusetMems()}} {
		if strings.Trim(l.list, "0123456789-,") != "" {
			return errs.Invalid("%s %q: write a list such as 0-3,8", l.key, l.list)
		}
	}
	return nil
}

// Limits turns the CRI's resources into the specification's. Several are added up
// (a pod's resources and its overhead). Notes tell what this node cannot limit.
func Limits(node Node, list ...*cri.LinuxContainerResources) (out *specs.LinuxResources, notes []string) {
	out = &specs.LinuxResources{}
	r := sum(list)
	if r == nil {
		return out, nil
	}
	cpu := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := uint64(r.GetCpuShares()); v != 0 {
		cpu.Shares = &v
	}
	if v := r.GetCpuQuota(); v != 0 {
		cpu.Quota = &v
	}
	if v := uint64(r.GetCpuPeriod()); v != 0 {
		cpu.Period = &v
	}
	if *cpu != (specs.LinuxCPU{}) {
		out.CPU = cpu
	}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory = &specs.LinuxMemory{Limit: &v}
		if node.SwapAccounting { // no swap beyond the limit unless it is asked for
			swap := v
			if s := r.GetMemorySwapLimitInBytes(); s != 0 {
				swap = s
			}
			out.Memory.Swap = &swap
		} else if r.GetMemorySwapLimitInBytes() > 0 && r.GetMemorySwapLimitInBytes() != v {
			notes = append(notes, "memory_swap_limit_in_bytes has no effect: the kernel does not account for swap")
		}
	}
	for _, h := range r.GetHugepageLimits() {
		if !slices.Contains(node.HugePages, h.GetPageSize()) {
			if h.GetLimit() != 0 {
				notes = append(notes, fmt.Sprintf("the limit for huge pages of %s has no effect: the kernel limits none of that size", h.GetPageSize()))
			}
			continue
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	if len(r.GetUnified()) > 0 {
		if node.CgroupV2 {
			out.Unified = r.GetUnified()
		} else {
			notes = append(notes, "the unified resources have no effect: this node has cgroup v1")
		}
	}
	return out, notes
}

// sum adds resources; nil if there are none. What cannot be added (sets, keys) is
// taken from the first that has it.
func sum(list []*cri.LinuxContainerResources) *cri.LinuxContainerResources {
	var total *cri.LinuxContainerResources
	for _, r := range list {
		switch {
		case r == nil:
		case total == nil:
			total = &cri.LinuxContainerResources{
				CpuPeriod: r.GetCpuPeriod(), CpuQuota: r.GetCpuQuota(), CpuShares: r.GetCpuShares(),
				MemoryLimitInBytes: r.GetMemoryLimitInBytes(), MemorySwapLimitInBytes: r.GetMemorySwapLimitInBytes(),
				CpusetCpus: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
				HugepageLimits: r.GetHugepageLimits(), Unified: r.GetUnified(),
			}
		default:
			total.CpuShares += r.GetCpuShares()
			if total.CpuQuota > 0 && r.GetCpuQuota() > 0 && total.CpuPeriod == r.GetCpuPeriod() {
				total.CpuQuota += r.GetCpuQuota()
			}
			if total.MemoryLimitInBytes > 0 {
				total.MemoryLimitInBytes += r.GetMemoryLimitInBytes()
			}
			if total.MemorySwapLimitInBytes > 0 {
				total.MemorySwapLimitInBytes += r.GetMemorySwapLimitInBytes()
			}
		}
	}
	return total
}
