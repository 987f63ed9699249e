package cri

import (
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/stats"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func same(t *testing.T, what string, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("%s:\n%v\nwant\n%v", what, got, want)
	}
}

func TestTranslation(t *testing.T) {
	at := time.Unix(5, 6)
	cores := uint64(77)
	u := &cgroup.Usage{Time: at,
		CPU: cgroup.CPUUsage{Total: 3, Pressure: &cgroup.Pressure{Some: cgroup.Stall{Avg10: 1, Avg60: 2, Avg300: 3, Total: 4}}},
		Memory: cgroup.MemoryUsage{Usage: 100, WorkingSet: 70, RSS: 50, Limit: 90, PageFaults: 8, MajorFaults: 9,
			SwapCounted: true, Swap: 30, SwapLimit: 20}}
	n := func(v uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: v} }
	ts := at.UnixNano()
	same(t, "cpu", cpuUsage(u, &cores), &cri.CpuUsage{Timestamp: ts, UsageCoreNanoSeconds: n(3000), UsageNanoCores: n(77),
		Psi: &cri.PsiStats{Full: &cri.PsiData{}, Some: &cri.PsiData{Avg10: 1, Avg60: 2, Avg300: 3, Total: 4000}}})
	same(t, "memory", memoryUsage(u), &cri.MemoryUsage{Timestamp: ts, WorkingSetBytes: n(70), AvailableBytes: n(20), UsageBytes: n(100), RssBytes: n(50),
		PageFaults: n(8), MajorPageFaults: n(9)})
	same(t, "swap", swapUsage(u), &cri.SwapUsage{Timestamp: ts, SwapUsageBytes: n(30), SwapAvailableBytes: n(0)}) // the limit was lowered
	u.Memory.Limit, u.Memory.SwapLimit = cgroup.NoLimit, cgroup.NoLimit
	if m, s := memoryUsage(u), swapUsage(u); m.AvailableBytes != nil || s.SwapAvailableBytes != nil {
		t.Errorf("without limits: %v, %v", m, s)
	}
	u.Memory.SwapCounted = false
	if s := swapUsage(u); s != nil {
		t.Errorf("without accounting: %v", s)
	}
	if c := cpuUsage(u, nil); c.UsageNanoCores != nil {
		t.Errorf("without a rate: %v", c)
	}
}

func TestNetworkTranslation(t *testing.T) {
	at := time.Unix(5, 6)
	if u := networkUsage(nil, at); u != nil { // a kubelet would look for its default interface
		t.Errorf("without interfaces: %v", u)
	}
	a, b, c := netstat.Interface{Name: "a", RxBytes: 1, RxErrors: 2}, netstat.Interface{Name: "eth0", TxBytes: 3}, netstat.Interface{Name: "c"}
	for _, list := range [][]netstat.Interface{{a, b, c}, {b, a, c}} {
		u := networkUsage(list, at)
		if u.GetDefaultInterface().GetName() != "eth0" || len(u.GetInterfaces()) != 2 || u.GetInterfaces()[0].GetName() != "a" || u.GetTimestamp() != at.UnixNano() ||
			u.GetInterfaces()[0].GetRxBytes().GetValue() != 1 || u.GetInterfaces()[0].GetRxErrors().GetValue() != 2 || u.GetDefaultInterface().GetTxBytes().GetValue() != 3 {
			t.Errorf("%v", u)
		}
	}
	if u := networkUsage([]netstat.Interface{a, c}, at); u.GetDefaultInterface().GetName() != "a" || len(u.GetInterfaces()) != 1 {
		t.Errorf("without eth0: %v", u)
	}
}

// TestNothingRead: what could not be read is absent, not zero; who it is is there.
func TestNothingRead(t *testing.T) {
	var c stats.Container
	c.View.ID = "c"
	c.View.Request.Config = state.ContainerConfig{ContainerConfig: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "n"},
		Labels: map[string]string{"l": "v"}, Annotations: map[string]string{"a": "v"}}}
	attributes := &cri.ContainerAttributes{Id: "c", Metadata: &cri.ContainerMetadata{Name: "n"}, Labels: map[string]string{"l": "v"}, Annotations: map[string]string{"a": "v"}}
	same(t, "container", containerStats(&c), &cri.ContainerStats{Attributes: attributes})
	c.Layer, c.LayerTime, c.LayersPath = &stats.Layer{Bytes: 1, Inodes: 2}, time.Unix(5, 6), "/layers"
	same(t, "container with a layer", containerStats(&c), &cri.ContainerStats{Attributes: attributes, WritableLayer: &cri.FilesystemUsage{
		Timestamp: 5e9 + 6, FsId: &cri.FilesystemIdentifier{Mountpoint: "/layers"}, UsedBytes: &cri.UInt64Value{Value: 1}, InodesUsed: &cri.UInt64Value{Value: 2}}})
	var p stats.Pod
	p.View.ID = "p"
	p.View.Request.Config = state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "n"}}}
	same(t, "pod", podStats(&p), &cri.PodSandboxStats{Attributes: &cri.PodSandboxAttributes{Id: "p", Metadata: &cri.PodSandboxMetadata{Name: "n"}}, Linux: &cri.LinuxPodSandboxStats{}})
}
