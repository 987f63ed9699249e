package cri

import (
	"context"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/stats"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerStats tells what one container consumes; one that does not run has a
// writable layer only.
func (s *Server) ContainerStats(ctx context.Context, r *cri.ContainerStatsRequest) (*cri.ContainerStatsResponse, error) {
	c, err := s.d.Stats.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &cri.ContainerStatsResponse{Stats: containerStats(&c)}, nil
}

// ListContainerStats tells what running containers consume.
func (s *Server) ListContainerStats(ctx context.Context, r *cri.ListContainerStatsRequest) (*cri.ListContainerStatsResponse, error) {
	list, err := s.containerStats(ctx, r.GetFilter())
	return &cri.ListContainerStatsResponse{Stats: list}, err
}

func (s *Server) containerStats(ctx context.Context, f *cri.ContainerStatsFilter) ([]*cri.ContainerStats, error) {
	list, err := s.d.Stats.Containers(ctx, func(v *state.ContainerView) bool {
		return strings.HasPrefix(v.ID, f.GetId()) && strings.HasPrefix(v.Request.Pod, f.GetPodSandboxId()) && matches(v.Request.Config.GetLabels(), f.GetLabelSelector())
	})
	return containerStatsList(list), err
}

func containerStatsList(list []stats.Container) []*cri.ContainerStats {
	var out []*cri.ContainerStats
	for i := range list {
		out = append(out, containerStats(&list[i]))
	}
	return out
}

// PodSandboxStats tells what one pod consumes.
func (s *Server) PodSandboxStats(ctx context.Context, r *cri.PodSandboxStatsRequest) (*cri.PodSandboxStatsResponse, error) {
	p, err := s.d.Stats.Pod(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &cri.PodSandboxStatsResponse{Stats: podStats(&p)}, nil
}

// ListPodSandboxStats tells what ready pods consume.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *cri.ListPodSandboxStatsRequest) (*cri.ListPodSandboxStatsResponse, error) {
	list, err := s.podStats(ctx, r.GetFilter())
	return &cri.ListPodSandboxStatsResponse{Stats: list}, err
}

func (s *Server) podStats(ctx context.Context, f *cri.PodSandboxStatsFilter) (out []*cri.PodSandboxStats, err error) {
	list, err := s.d.Stats.Pods(ctx, func(v *state.PodView) bool {
		return strings.HasPrefix(v.ID, f.GetId()) && matches(v.Request.Config.GetLabels(), f.GetLabelSelector())
	})
	for i := range list {
		out = append(out, podStats(&list[i]))
	}
	return out, err
}

func containerStats(c *stats.Container) *cri.ContainerStats {
	cfg := c.View.Request.Config
	out := &cri.ContainerStats{Attributes: &cri.ContainerAttributes{Id: c.View.ID, Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()}}
	if l := c.Layer; l != nil {
		out.WritableLayer = &cri.FilesystemUsage{Timestamp: c.LayerTime.UnixNano(), FsId: &cri.FilesystemIdentifier{Mountpoint: c.LayersPath},
			UsedBytes: number(l.Bytes), InodesUsed: number(l.Inodes)}
	}
	if c.Usage != nil {
		out.Cpu, out.Memory, out.Swap, out.Io = cpuUsage(c.Usage, c.NanoCores), memoryUsage(c.Usage), swapUsage(c.Usage), ioUsage(c.Usage)
	}
	return out
}

func podStats(p *stats.Pod) *cri.PodSandboxStats {
	cfg := p.View.Request.Config
	linux := &cri.LinuxPodSandboxStats{Network: networkUsage(p.Interfaces, p.NetworkTime), Containers: containerStatsList(p.Containers)}
	if u := p.Usage; u != nil {
		linux.Cpu, linux.Memory, linux.Io = cpuUsage(u, p.NanoCores), memoryUsage(u), ioUsage(u)
		linux.Process = &cri.ProcessUsage{Timestamp: u.Time.UnixNano(), ProcessCount: number(p.Processes)}
	}
	return &cri.PodSandboxStats{Linux: linux,
		Attributes: &cri.PodSandboxAttributes{Id: p.View.ID, Metadata: cfg.GetMetadata(), Labels: cfg.GetLabels(), Annotations: cfg.GetAnnotations()}}
}

func number(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }

func cpuUsage(u *cgroup.Usage, cores *uint64) *cri.CpuUsage {
	out := &cri.CpuUsage{Timestamp: u.Time.UnixNano(), UsageCoreNanoSeconds: number(u.CPU.Total * 1000), Psi: psi(u.CPU.Pressure)}
	if cores != nil {
		out.UsageNanoCores = number(*cores)
	}
	return out
}

// left is what a limit leaves; nil without a limit.
func left(limit, used uint64) *cri.UInt64Value {
	if limit == cgroup.NoLimit {
		return nil
	}
	return number(limit - min(used, limit))
}

func memoryUsage(u *cgroup.Usage) *cri.MemoryUsage {
	m := &u.Memory
	return &cri.MemoryUsage{Timestamp: u.Time.UnixNano(), WorkingSetBytes: number(m.WorkingSet), AvailableBytes: left(m.Limit, m.WorkingSet),
		UsageBytes: number(m.Usage), RssBytes: number(m.RSS), PageFaults: number(m.PageFaults), MajorPageFaults: number(m.MajorFaults), Psi: psi(m.Pressure)}
}

func swapUsage(u *cgroup.Usage) *cri.SwapUsage {
	if !u.Memory.SwapCounted {
		return nil
	}
	return &cri.SwapUsage{Timestamp: u.Time.UnixNano(), SwapUsageBytes: number(u.Memory.Swap), SwapAvailableBytes: left(u.Memory.SwapLimit, u.Memory.Swap)}
}

func ioUsage(u *cgroup.Usage) *cri.IoUsage {
	return &cri.IoUsage{Timestamp: u.Time.UnixNano(), Psi: psi(u.IOPressure)}
}

// psi translates pressure; the CRI counts nanoseconds, the kernel microseconds.
func psi(p *cgroup.Pressure) *cri.PsiStats {
	if p == nil {
		return nil
	}
	data := func(s *cgroup.Stall) *cri.PsiData {
		return &cri.PsiData{Total: s.Total * 1000, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
	}
	return &cri.PsiStats{Full: data(&p.Full), Some: data(&p.Some)}
}

// networkUsage has the interface that pods are attached by as the default one, else the
// first. Kubelets expect a default one wherever there is network usage.
func networkUsage(list []netstat.Interface, at time.Time) *cri.NetworkUsage {
	if len(list) == 0 {
		return nil
	}
	def := 0
	for i := range list {
		if list[i].Name == "eth0" {
			def = i
		}
	}
	out := &cri.NetworkUsage{Timestamp: at.UnixNano()}
	for i := range list {
		u := &cri.NetworkInterfaceUsage{Name: list[i].Name, RxBytes: number(list[i].RxBytes), RxErrors: number(list[i].RxErrors),
			TxBytes: number(list[i].TxBytes), TxErrors: number(list[i].TxErrors)}
		if i == def {
			out.DefaultInterface = u
		} else {
			out.Interfaces = append(out.Interfaces, u)
		}
	}
	return out
}
