package nri

import (
	"cmp"
	"path/filepath"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// toPod tells a pod in the plugins' words.
func toPod(v *state.PodView) *adaptation.PodSandbox {
	c := v.Request.Config
	md, linux := c.GetMetadata(), c.GetLinux()
	overhead, resources := linux.GetOverhead(), linux.GetResources()
	if r := v.Status.Overhead; r != nil {
		overhead = r.LinuxContainerResources
	}
	if r := v.Status.Resources; r != nil {
		resources = r.LinuxContainerResources
	}
	out := &adaptation.PodSandbox{
		Id: v.ID, Name: md.GetName(), Uid: md.GetUid(), Namespace: md.GetNamespace(),
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), RuntimeHandler: v.Request.Handler, Ips: v.Status.IPs,
		Linux: &adaptation.LinuxPodSandbox{
			PodOverhead: toResources(overhead), PodResources: toResources(resources),
			CgroupParent: cmp.Or(linux.GetCgroupParent(), v.Request.Cgroup), CgroupsPath: v.Request.Cgroup,
		},
	}
	for _, kind := range v.Request.Namespaces() {
		out.Linux.Namespaces = append(out.Linux.Namespaces, &adaptation.LinuxNamespace{Type: ociNamespace(string(kind))})
	}
	if p := v.Status.Infra; p != nil {
		out.Pid = uint32(p.Init.Pid)
	}
	return out
}

// ociNamespace is the runtime specification's word for a namespace.
func ociNamespace(kind string) string {
	switch kind {
	case "net":
		return string(specs.NetworkNamespace)
	default:
		return kind
	}
}

// toContainer tells a container in the plugins' words, with its specification as it
// is or will be.
func toContainer(v *state.ContainerView, s *specs.Spec) *adaptation.Container {
	c, st := v.Request.Config, v.Status
	out := &adaptation.Container{
		Id: v.ID, PodSandboxId: v.Request.Pod, Name: c.GetMetadata().GetName(), State: toState(&st),
		Labels: c.GetLabels(), Annotations: s.Annotations, Mounts: api.FromOCIMounts(s.Mounts), Hooks: api.FromOCIHooks(s.Hooks),
		CreatedAt: st.CreatedAt, StartedAt: st.StartedAt, FinishedAt: st.FinishedAt,
		ExitCode: st.ExitCode, StatusReason: st.Reason, StatusMessage: st.Message,
		Image: &adaptation.Image{Name: v.Request.Image.Name, Digest: digestOf(v.Request.Image.Ref), ConfigDigest: "sha256:" + filepath.Base(v.Request.Image.ID)},
		Linux: toLinux(s),
	}
	out.Linux.SeccompProfile = toProfile(c.GetLinux().GetSecurityContext().GetSeccomp())
	for _, d := range c.GetCDIDevices() {
		out.CDIDevices = append(out.CDIDevices, &adaptation.CDIDevice{Name: d.GetName()})
	}
	if p := st.Process; p != nil {
		out.Pid = uint32(p.Init.Pid)
	}
	p := s.Process
	if p == nil {
		return out
	}
	out.Args, out.Env = p.Args, p.Env
	out.User = &adaptation.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
	for _, l := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, &adaptation.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
	}
	out.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
	out.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
	out.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
	return out
}

func toLinux(s *specs.Spec) *adaptation.LinuxContainer {
	l := s.Linux
	if l == nil {
		return &adaptation.LinuxContainer{}
	}
	out := &adaptation.LinuxContainer{
		Namespaces: api.FromOCILinuxNamespaces(l.Namespaces), Devices: api.FromOCILinuxDevices(l.Devices),
		Resources: api.FromOCILinuxResources(l.Resources, s.Annotations), CgroupsPath: l.CgroupsPath, Sysctl: l.Sysctl,
		NetDevices: api.FromOCILinuxNetDevices(l.NetDevices),
	}
	if l.Seccomp != nil {
		out.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
	}
	return out
}

// toProfile tells which seccomp profile was asked for: validators judge by it. Nil is
// none, and unconfined.
func toProfile(p *cri.SecurityProfile) *api.SecurityProfile {
	switch {
	case p == nil:
		return nil
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_RUNTIME_DEFAULT}
	case p.GetProfileType() == cri.SecurityProfile_Localhost:
		return &api.SecurityProfile{ProfileType: api.SecurityProfile_LOCALHOST, LocalhostRef: p.GetLocalhostRef()}
	}
	return &api.SecurityProfile{ProfileType: api.SecurityProfile_UNCONFINED}
}

func toState(s *state.ContainerStatus) adaptation.ContainerState {
	switch s.State() {
	case cri.ContainerState_CONTAINER_CREATED:
		return adaptation.ContainerState_CONTAINER_CREATED
	case cri.ContainerState_CONTAINER_RUNNING:
		return adaptation.ContainerState_CONTAINER_RUNNING
	case cri.ContainerState_CONTAINER_EXITED:
		return adaptation.ContainerState_CONTAINER_STOPPED
	}
	return adaptation.ContainerState_CONTAINER_UNKNOWN
}

// digestOf is the part of a reference behind @; "" if it has none.
func digestOf(ref string) string {
	for i := range ref {
		if ref[i] == '@' {
			return ref[i+1:]
		}
	}
	return ""
}

// toResources tells limits of the CRI in the plugins' words; nil is nil.
func toResources(r *cri.LinuxContainerResources) *adaptation.LinuxResources {
	if r == nil {
		return nil
	}
	out := &adaptation.LinuxResources{
		Cpu:     &adaptation.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()},
		Memory:  &adaptation.LinuxMemory{},
		Unified: r.GetUnified(),
	}
	if v := r.GetCpuShares(); v != 0 {
		out.Cpu.Shares = api.UInt64(uint64(v))
	}
	if v := r.GetCpuQuota(); v != 0 {
		out.Cpu.Quota = api.Int64(v)
	}
	if v := r.GetCpuPeriod(); v != 0 {
		out.Cpu.Period = api.UInt64(uint64(v))
	}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		out.Memory.Limit = api.Int64(v)
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 {
		out.Memory.Swap = api.Int64(v)
	}
	for _, h := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &adaptation.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

// fromResources is what of the plugins' limits the CRI has words for.
func fromResources(r *adaptation.LinuxResources) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{
		CpuShares: int64(r.GetCpu().GetShares().GetValue()), CpuQuota: r.GetCpu().GetQuota().GetValue(), CpuPeriod: int64(r.GetCpu().GetPeriod().GetValue()),
		CpusetCpus: r.GetCpu().GetCpus(), CpusetMems: r.GetCpu().GetMems(),
		MemoryLimitInBytes: r.GetMemory().GetLimit().GetValue(), MemorySwapLimitInBytes: r.GetMemory().GetSwap().GetValue(),
		Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		out.HugepageLimits = append(out.HugepageLimits, &cri.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}
