package state

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// InForce are the limits of a container: what it was made with and the updates since.
func InForce(v *ContainerView) *cri.LinuxContainerResources {
	if r := v.Status.Resources; r != nil {
		return r.LinuxContainerResources
	}
	return v.Request.Config.GetLinux().GetResources()
}

// Update returns the limits that hold after want was applied to r. A field of want
// that is zero changes nothing; huge pages are replaced by size, unified keys by
// name.
func Update(r, want *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{}
	if r != nil {
		out = proto.CloneOf(r)
	}
	pages, unified := out.HugepageLimits, out.Unified
	proto.Merge(out, &cri.LinuxContainerResources{
		CpuPeriod: want.GetCpuPeriod(), CpuQuota: want.GetCpuQuota(), CpuShares: want.GetCpuShares(),
		MemoryLimitInBytes: want.GetMemoryLimitInBytes(), MemorySwapLimitInBytes: want.GetMemorySwapLimitInBytes(),
		CpusetCpus: want.GetCpusetCpus(), CpusetMems: want.GetCpusetMems(), OomScoreAdj: want.GetOomScoreAdj(),
	})
	for _, h := range want.GetHugepageLimits() {
		pages = slices.DeleteFunc(pages, func(old *cri.HugepageLimit) bool { return old.GetPageSize() == h.GetPageSize() })
		pages = append(pages, proto.CloneOf(h))
	}
	out.HugepageLimits = pages
	if len(want.GetUnified()) > 0 {
		if unified == nil {
			unified = map[string]string{}
		}
		maps.Copy(unified, want.GetUnified())
		out.Unified = unified
	}
	return out
}

// Changed are the limits to be set: what was asked for, and what must go with it. A
// quota means nothing without its period, and a swap limit counts memory too.
func Changed(next, want *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	set := Update(nil, want)
	if set.CpuQuota != 0 || set.CpuPeriod != 0 {
		set.CpuQuota, set.CpuPeriod = next.GetCpuQuota(), next.GetCpuPeriod()
	}
	if set.MemoryLimitInBytes != 0 || set.MemorySwapLimitInBytes != 0 {
		set.MemoryLimitInBytes, set.MemorySwapLimitInBytes = next.GetMemoryLimitInBytes(), next.GetMemorySwapLimitInBytes()
	}
	return set
}

// Newest is the newest of what is known of limits.
func Newest(want *cri.LinuxContainerResources, last *Resources, first *cri.LinuxContainerResources) *cri.LinuxContainerResources {
	switch {
	case want != nil:
		return want
	case last != nil:
		return last.LinuxContainerResources
	}
	return first
}

// Record is what is written down of limits.
func Record(r *cri.LinuxContainerResources) *Resources {
	if r == nil {
		return nil
	}
	return &Resources{LinuxContainerResources: r}
}
