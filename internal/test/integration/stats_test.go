package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func ctrStats(w *world.World, id string) *cri.ContainerStats {
	w.T.Helper()
	r, err := w.ContainerStats(w.Ctx(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetStats()
}

func podStats(w *world.World, id string) *cri.LinuxPodSandboxStats {
	w.T.Helper()
	r, err := w.PodSandboxStats(w.Ctx(), &cri.PodSandboxStatsRequest{PodSandboxId: id})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetStats().GetLinux()
}

func listCtrStats(w *world.World, f *cri.ContainerStatsFilter) map[string]*cri.ContainerStats {
	w.T.Helper()
	r, err := w.ListContainerStats(w.Ctx(), &cri.ListContainerStatsRequest{Filter: f})
	if err != nil {
		w.T.Fatal(err)
	}
	return byID(w, r.GetStats(), func(s *cri.ContainerStats) string { return s.GetAttributes().GetId() })
}

func listPodStats(w *world.World, f *cri.PodSandboxStatsFilter) map[string]*cri.PodSandboxStats {
	w.T.Helper()
	r, err := w.ListPodSandboxStats(w.Ctx(), &cri.ListPodSandboxStatsRequest{Filter: f})
	if err != nil {
		w.T.Fatal(err)
	}
	return byID(w, r.GetStats(), func(s *cri.PodSandboxStats) string { return s.GetAttributes().GetId() })
}

// byID maps a list; nothing may be in it twice.
func byID[T any](w *world.World, list []T, id func(T) string) map[string]T {
	w.T.Helper()
	m := map[string]T{}
	for _, x := range list {
		if _, twice := m[id(x)]; twice {
			w.T.Errorf("%s is in the list twice", id(x))
		}
		m[id(x)] = x
	}
	return m
}

// limited gives a container limits as the kubelet does.
func limited(c *cri.ContainerConfig) {
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 1024, MemoryLimitInBytes: 256 << 20, MemorySwapLimitInBytes: 256 << 20}
}

// TestStatsCPUAndMemory: what a container is known to use is seen.
func TestStatsCPUAndMemory(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	begin := time.Now().UnixNano()
	pod := w.Pod("p", nil)
	ctr := w.Ctr(pod, "c", "exec sleep 1000", limited)
	first, whole := ctrStats(w, ctr), podStats(w, pod)
	for what, ts := range map[string]int64{"cpu": first.GetCpu().GetTimestamp(), "memory": first.GetMemory().GetTimestamp(), "io": first.GetIo().GetTimestamp(),
		"layer": first.GetWritableLayer().GetTimestamp(), "pod cpu": whole.GetCpu().GetTimestamp(), "network": whole.GetNetwork().GetTimestamp(),
		"process": whole.GetProcess().GetTimestamp()} {
		if ts < begin || ts > time.Now().UnixNano() {
			t.Errorf("%s was read at %d, between %d and now", what, ts, begin)
		}
	}
	a := first.GetAttributes()
	if a.GetId() != ctr || a.GetMetadata().GetName() != "c" || first.GetCpu().GetUsageNanoCores() != nil {
		t.Errorf("%v", first)
	}
	// PSI is there where the kernel has it; the files are those of the root.
	_, v2 := os.Stat("/sys/fs/cgroup/cpu.pressure")
	_, hybrid := os.Stat("/sys/fs/cgroup/unified/cpu.pressure")
	if has := v2 == nil || hybrid == nil; (first.GetCpu().GetPsi() != nil) != has || (first.GetMemory().GetPsi() != nil) != has || (first.GetIo().GetPsi() != nil) != has {
		t.Errorf("the host has PSI: %v; %v", has, first)
	}

	memory := func() *cri.MemoryUsage { return ctrStats(w, ctr).GetMemory() }
	const size = 30 << 20
	was := memory()
	w.Exec(ctr, "head -c 31457280 /dev/zero > /dev/shm/block")
	// What the runtime took in there may have gone meanwhile.
	if m := memory(); m.GetWorkingSetBytes().GetValue() < size || m.GetWorkingSetBytes().GetValue() > was.GetWorkingSetBytes().GetValue()+2*size {
		t.Errorf("30 MiB of shared memory took the working set from %d to %d", was.GetWorkingSetBytes().GetValue(), m.GetWorkingSetBytes().GetValue())
	}
	const anonymous = 8 << 20
	w.Exec(ctr, `(x=$(head -c 8388608 /dev/zero | tr '\0' x); sleep 1000) >/dev/null 2>&1 </dev/null &`)
	w.Eventually("8 MiB of a process show", func() bool {
		m := memory()
		return m.GetRssBytes().GetValue() > anonymous-1<<20 && m.GetUsageBytes().GetValue() >= m.GetWorkingSetBytes().GetValue() &&
			m.GetPageFaults().GetValue() > was.GetPageFaults().GetValue() && podStats(w, pod).GetMemory().GetRssBytes().GetValue() > anonymous-1<<20
	})
	if m := memory(); m.GetAvailableBytes().GetValue() != 256<<20-m.GetWorkingSetBytes().GetValue() {
		t.Errorf("%d available beside a working set of %d", m.GetAvailableBytes().GetValue(), m.GetWorkingSetBytes().GetValue())
	}

	w.Exec(ctr, "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
	used := func() uint64 { return ctrStats(w, ctr).GetCpu().GetUsageCoreNanoSeconds().GetValue() }
	after := used()
	if after < first.GetCpu().GetUsageCoreNanoSeconds().GetValue()+2e6 {
		t.Errorf("a loop of 30000 took %d ns", after-first.GetCpu().GetUsageCoreNanoSeconds().GetValue())
	}
	if p := podStats(w, pod).GetCpu().GetUsageCoreNanoSeconds().GetValue(); p < after {
		t.Errorf("the pod used %d ns, its container %d", p, after)
	}
	w.Exec(ctr, "(while :; do :; done) >/dev/null 2>&1 </dev/null &")
	w.Eventually("a loop shows as use of a processor", func() bool {
		s := ctrStats(w, ctr)
		n, p := s.GetCpu().GetUsageNanoCores().GetValue(), podStats(w, pod).GetCpu().GetUsageNanoCores().GetValue()
		return n > 50e6 && n < 800e6 && p > 50e6 // its quota is half of one
	})
}

func TestStatsNetwork(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	a, b := w.Pod("a", nil), w.Pod("b", nil)
	host := w.Pod("host", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	w.Ctr(a, "a", "mkdir /www; head -c 2000000 /dev/zero > /www/big; exec busybox httpd -f -p 80 -h /www", nil)
	client := w.Ctr(b, "b", "sleep 1000", nil)
	before := podStats(w, a).GetNetwork()
	w.Eventually("the page is fetched", func() bool {
		out, _ := w.Exec(client, "wget -q -O - http://"+w.IP(a)+"/big | wc -c")
		return out == "2000000"
	})
	na, nb := podStats(w, a).GetNetwork(), podStats(w, b).GetNetwork()
	if na.GetDefaultInterface().GetName() != "eth0" || len(na.GetInterfaces()) != 0 {
		t.Errorf("interfaces: %v", na)
	}
	sent := na.GetDefaultInterface().GetTxBytes().GetValue() - before.GetDefaultInterface().GetTxBytes().GetValue()
	if got := nb.GetDefaultInterface().GetRxBytes().GetValue(); sent < 2e6 || sent > 20e6 || got < 2e6 || na.GetDefaultInterface().GetRxErrors() == nil {
		t.Errorf("2 MB show as %d sent, %d received", sent, got)
	}
	if n := podStats(w, host).GetNetwork(); n != nil {
		t.Errorf("a pod in the node's network has %v", n)
	}
	// A namespace that is read must end with its pod.
	held := func() (n int) {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", w.Pid()))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && strings.Contains(to, "/net/dev") {
				n++
			}
		}
		return n
	}
	if n := held(); n != 2 {
		t.Errorf("%d namespaces are held for two pods", n)
	}
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: a}); err != nil {
		t.Fatal(err)
	}
	if n := held(); n != 1 {
		t.Errorf("%d namespaces are held for one pod", n)
	}
}

func TestStatsLayer(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	ctr := w.Ctr(w.Pod("p", nil), "c", "sleep 1000", nil)
	first := ctrStats(w, ctr).GetWritableLayer()
	if fi, err := os.Stat(first.GetFsId().GetMountpoint()); err != nil || !fi.IsDir() { // or the kubelet has no statistics at all
		t.Errorf("the file system is named by %q: %v", first.GetFsId().GetMountpoint(), err)
	}
	w.Exec(ctr, "head -c 5000000 /dev/zero > /big; mkdir /many; i=0; while [ $i -lt 100 ]; do : > /many/$i; i=$((i+1)); done; sync")
	w.Eventually("the files show", func() bool {
		l := ctrStats(w, ctr).GetWritableLayer()
		return l.GetUsedBytes().GetValue() >= first.GetUsedBytes().GetValue()+5000000 && l.GetInodesUsed().GetValue() >= first.GetInodesUsed().GetValue()+102 &&
			l.GetTimestamp() > first.GetTimestamp()
	})
}

func TestStatsProcesses(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	own := w.Pod("own", nil)
	shared := w.Pod("shared", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	for _, pod := range []string{own, shared} {
		w.Ctr(pod, "a", "sleep 1000 & sleep 1000 & exec sleep 1000", nil)
		w.Ctr(pod, "b", "exec sleep 1000", nil)
	}
	w.Eventually("all processes show", func() bool {
		a, b := podStats(w, own).GetProcess().GetProcessCount().GetValue(), podStats(w, shared).GetProcess().GetProcessCount().GetValue()
		return a == 4 && b == 5 // and the one that holds the PID namespace
	})
}

// TestStatsOfStates: only running containers and ready pods are listed; others can be
// asked for.
func TestStatsOfStates(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("p", nil)
	running := w.Ctr(pod, "r", "sleep 1000", nil)
	created := w.Create(pod, "c", "true", nil)
	exited := w.Ctr(pod, "e", "echo > /file", nil)
	w.WaitExit(exited)
	if got := slices.Collect(maps.Keys(listCtrStats(w, nil))); !slices.Equal(got, []string{running}) {
		t.Errorf("listed are %v", got)
	}
	if s := listPodStats(w, nil)[pod]; len(s.GetLinux().GetContainers()) != 1 || s.GetLinux().GetContainers()[0].GetAttributes().GetId() != running {
		t.Errorf("in the pod are %v", s.GetLinux().GetContainers())
	}
	for _, id := range []string{created, exited} {
		if s := ctrStats(w, id); s.GetAttributes().GetId() != id || s.GetCpu() != nil || s.GetMemory() != nil || s.GetWritableLayer().GetUsedBytes() == nil {
			t.Errorf("of one that does not run: %v", s)
		}
	}
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if got := listPodStats(w, nil); len(got) != 0 {
		t.Errorf("a stopped pod is listed: %v", got)
	}
	if s := podStats(w, pod); len(s.GetContainers()) != 0 || s.GetNetwork() != nil {
		t.Errorf("of a stopped pod: %v", s)
	}
	_, err := w.ContainerStats(w.Ctx(), &cri.ContainerStatsRequest{ContainerId: "absent"})
	_, err2 := w.PodSandboxStats(w.Ctx(), &cri.PodSandboxStatsRequest{PodSandboxId: "absent"})
	if status.Code(err) != codes.NotFound || status.Code(err2) != codes.NotFound {
		t.Errorf("of what there is not: %v, %v", err, err2)
	}
}

func TestStatsFilters(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	podA, podB := w.Pod("a", nil), w.Pod("b", nil)
	label := func(k, v string) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { c.Labels = map[string]string{k: v, "all": "yes"} }
	}
	a1, a2, b1 := w.Ctr(podA, "1", "sleep 1000", label("x", "1")), w.Ctr(podA, "2", "sleep 1000", label("x", "2")), w.Ctr(podB, "1", "sleep 1000", label("x", "1"))
	for _, c := range []struct {
		f    *cri.ContainerStatsFilter
		want []string
	}{
		{nil, []string{a1, a2, b1}}, {&cri.ContainerStatsFilter{}, []string{a1, a2, b1}},
		{&cri.ContainerStatsFilter{Id: a1}, []string{a1}}, {&cri.ContainerStatsFilter{Id: a1[:13]}, []string{a1}},
		{&cri.ContainerStatsFilter{PodSandboxId: podA}, []string{a1, a2}}, {&cri.ContainerStatsFilter{Id: b1, PodSandboxId: podA}, nil},
		{&cri.ContainerStatsFilter{LabelSelector: map[string]string{"x": "1"}}, []string{a1, b1}},
		{&cri.ContainerStatsFilter{LabelSelector: map[string]string{"x": "1", "all": "yes"}, PodSandboxId: podB}, []string{b1}},
		{&cri.ContainerStatsFilter{LabelSelector: map[string]string{"x": "3"}}, nil}, {&cri.ContainerStatsFilter{LabelSelector: map[string]string{"y": ""}}, nil},
	} {
		got := slices.Sorted(maps.Keys(listCtrStats(w, c.f)))
		if slices.Sort(c.want); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.f, got, c.want)
		}
	}
	for _, c := range []struct {
		f    *cri.PodSandboxStatsFilter
		want []string
	}{
		{nil, []string{podA, podB}}, {&cri.PodSandboxStatsFilter{Id: podB}, []string{podB}},
		{&cri.PodSandboxStatsFilter{LabelSelector: map[string]string{"app": "a"}}, []string{podA}},
		{&cri.PodSandboxStatsFilter{Id: podB, LabelSelector: map[string]string{"app": "a"}}, nil},
	} {
		got := slices.Sorted(maps.Keys(listPodStats(w, c.f)))
		if slices.Sort(c.want); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.f, got, c.want)
		}
	}
}

// notHere are metrics that a host may have nothing to tell for: a file system without a
// block device, a kernel without PSI or huge pages.
func notHere(name string) bool {
	return strings.HasPrefix(name, "container_blkio") || strings.HasPrefix(name, "container_fs_reads") || strings.HasPrefix(name, "container_fs_writes") ||
		strings.HasPrefix(name, "container_pressure") || strings.HasPrefix(name, "container_hugetlb")
}

// TestMetrics: every metric that is described is told right after the start, for the
// default configuration, with the labels that are described.
func TestMetrics(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("p", nil)
	ctr := w.Ctr(pod, "c", "head -c 100000 /dev/zero > /file; exec sleep 1000", limited)
	d, err := w.ListMetricDescriptors(w.Ctx(), &cri.ListMetricDescriptorsRequest{})
	if err != nil || len(d.GetDescriptors()) != 56 {
		t.Fatalf("%d descriptors, %v", len(d.GetDescriptors()), err)
	}
	r, err := w.ListPodSandboxMetrics(w.Ctx(), &cri.ListPodSandboxMetricsRequest{})
	if err != nil || len(r.GetPodMetrics()) != 1 || len(r.GetPodMetrics()[0].GetContainerMetrics()) != 1 || r.GetPodMetrics()[0].GetContainerMetrics()[0].GetContainerId() != ctr {
		t.Fatalf("%v, %v", r, err)
	}
	told := map[string]*cri.Metric{}
	for _, m := range append(r.GetPodMetrics()[0].GetMetrics(), r.GetPodMetrics()[0].GetContainerMetrics()[0].GetMetrics()...) {
		told[m.GetName()] = m
	}
	for _, d := range d.GetDescriptors() {
		m := told[d.GetName()]
		if m == nil {
			if !notHere(d.GetName()) {
				t.Errorf("%s is not told", d.GetName())
			}
			continue
		}
		labels := map[string]string{}
		for i, k := range d.GetLabelKeys() {
			labels[k] = m.GetLabelValues()[i]
		}
		if len(m.GetLabelValues()) != len(d.GetLabelKeys()) || labels["namespace"] != "default" || labels["pod"] != "p" ||
			labels["container"] == "c" && (labels["image"] != w.Image || !strings.Contains(labels["id"], ctr) || labels["name"] != "k8s_c_p_default_uid-p_0") {
			t.Errorf("%s has the labels %v", d.GetName(), labels)
		}
	}
	value := func(name string) uint64 { return told[name].GetValue().GetValue() }
	if value("container_spec_memory_limit_bytes") != 256<<20 || value("container_spec_cpu_quota") != 50000 || value("container_spec_cpu_period") != 100000 ||
		value("container_processes") == 0 || value("container_threads") == 0 || value("container_file_descriptors") == 0 || value("container_ulimits_soft") == 0 ||
		value("container_memory_usage_bytes") == 0 || value("container_memory_max_usage_bytes") < value("container_memory_usage_bytes") ||
		value("container_fs_limit_bytes") == 0 || value("container_fs_inodes_total") == 0 {
		t.Errorf("%v", told)
	}
	if at := time.Unix(int64(value("container_start_time_seconds")), 0); time.Since(at) > time.Hour || time.Since(at) < 0 {
		t.Errorf("started at %v", at)
	}
}

// Options: crio.stats.included_pod_metrics, crio.stats.collection_period
func TestMetricsConfiguration(t *testing.T) {
	w := world.New(t, world.Options{Extra: "[crio.stats]\nincluded_pod_metrics = [\"network\"]\ncollection_period = 3600\n"})
	w.Pull()
	pod := w.Pod("p", nil)
	ctr := w.Ctr(pod, "c", "sleep 1000", nil)
	d, err := w.ListMetricDescriptors(w.Ctx(), &cri.ListMetricDescriptorsRequest{})
	if err != nil || len(d.GetDescriptors()) != 9 {
		t.Errorf("%v, %v", d, err)
	}
	first := ctrStats(w, ctr).GetMemory().GetTimestamp()
	if again := listCtrStats(w, nil)[ctr].GetMemory().GetTimestamp(); again != first {
		t.Errorf("read at %d and, within the period, at %d", first, again)
	}
}

// collect receives a stream to its end.
func collect[M any](t testing.TB, recv func() (M, error), items func(M) int) (messages int) {
	t.Helper()
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return messages
		}
		if err != nil {
			t.Fatal(err)
		}
		if items(m) == 0 {
			t.Error("a message without items")
		}
		messages++
	}
}

// streamed is what the streaming lists tell: ids, in their order.
func streamed(w *world.World) map[string][]string {
	w.T.Helper()
	ids := map[string][]string{}
	add := func(list, id string) { ids[list] = append(ids[list], id) }
	fatal := func(err error) {
		w.T.Helper()
		if err != nil {
			w.T.Fatal(err)
		}
	}
	p, err := w.StreamPodSandboxes(w.Ctx(), &cri.StreamPodSandboxesRequest{})
	fatal(err)
	collect(w.T, p.Recv, func(m *cri.StreamPodSandboxesResponse) int {
		for _, x := range m.GetPodSandboxes() {
			add("pods", x.GetId())
		}
		return len(m.GetPodSandboxes())
	})
	c, err := w.StreamContainers(w.Ctx(), &cri.StreamContainersRequest{})
	fatal(err)
	collect(w.T, c.Recv, func(m *cri.StreamContainersResponse) int {
		for _, x := range m.GetContainers() {
			add("containers", x.GetId())
		}
		return len(m.GetContainers())
	})
	cs, err := w.StreamContainerStats(w.Ctx(), &cri.StreamContainerStatsRequest{})
	fatal(err)
	collect(w.T, cs.Recv, func(m *cri.StreamContainerStatsResponse) int {
		for _, x := range m.GetContainerStats() {
			add("container stats", x.GetAttributes().GetId())
		}
		return len(m.GetContainerStats())
	})
	ps, err := w.StreamPodSandboxStats(w.Ctx(), &cri.StreamPodSandboxStatsRequest{})
	fatal(err)
	collect(w.T, ps.Recv, func(m *cri.StreamPodSandboxStatsResponse) int {
		for _, x := range m.GetPodSandboxStats() {
			add("pod stats", x.GetAttributes().GetId())
		}
		return len(m.GetPodSandboxStats())
	})
	pm, err := w.StreamPodSandboxMetrics(w.Ctx(), &cri.StreamPodSandboxMetricsRequest{})
	fatal(err)
	collect(w.T, pm.Recv, func(m *cri.StreamPodSandboxMetricsResponse) int {
		for _, x := range m.GetPodSandboxMetrics() {
			add("pod metrics", x.GetPodSandboxId())
		}
		return len(m.GetPodSandboxMetrics())
	})
	im, err := w.Images.StreamImages(w.Ctx(), &cri.StreamImagesRequest{})
	fatal(err)
	collect(w.T, im.Recv, func(m *cri.StreamImagesResponse) int {
		for _, x := range m.GetImages() {
			add("images", x.GetId())
		}
		return len(m.GetImages())
	})
	return ids
}

// listed is the same of the plain lists.
func listed(w *world.World) map[string][]string {
	w.T.Helper()
	ids := map[string][]string{}
	fatal := func(err error) {
		w.T.Helper()
		if err != nil {
			w.T.Fatal(err)
		}
	}
	p, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	fatal(err)
	for _, x := range p.GetItems() {
		ids["pods"] = append(ids["pods"], x.GetId())
	}
	c, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{})
	fatal(err)
	for _, x := range c.GetContainers() {
		ids["containers"] = append(ids["containers"], x.GetId())
	}
	cs, err := w.ListContainerStats(w.Ctx(), &cri.ListContainerStatsRequest{})
	fatal(err)
	for _, x := range cs.GetStats() {
		ids["container stats"] = append(ids["container stats"], x.GetAttributes().GetId())
	}
	ps, err := w.ListPodSandboxStats(w.Ctx(), &cri.ListPodSandboxStatsRequest{})
	fatal(err)
	for _, x := range ps.GetStats() {
		ids["pod stats"] = append(ids["pod stats"], x.GetAttributes().GetId())
	}
	pm, err := w.ListPodSandboxMetrics(w.Ctx(), &cri.ListPodSandboxMetricsRequest{})
	fatal(err)
	for _, x := range pm.GetPodMetrics() {
		ids["pod metrics"] = append(ids["pod metrics"], x.GetPodSandboxId())
	}
	im, err := w.Images.ListImages(w.Ctx(), &cri.ListImagesRequest{})
	fatal(err)
	for _, x := range im.GetImages() {
		ids["images"] = append(ids["images"], x.GetId())
	}
	return ids
}

// TestStreamLists: with nothing they end at once; with thirty pods they tell what the
// lists tell, also after a restart of the daemon.
func TestStreamLists(t *testing.T) {
	w := world.New(t, world.Options{})
	if got := streamed(w); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	w.Pull()
	const pods = 30
	want := map[string]int{"pods": pods, "containers": 2 * pods, "container stats": pods, "pod stats": pods, "pod metrics": pods, "images": 1}
	for i := range pods {
		pod := w.Pod(fmt.Sprint("p", i), nil)
		w.Ctr(pod, "runs", "exec sleep 1000", nil)
		w.Create(pod, "waits", "true", nil)
	}
	for range 2 {
		plain, stream := listed(w), streamed(w)
		for list, n := range want {
			if len(plain[list]) != n || !slices.Equal(plain[list], stream[list]) {
				t.Errorf("%s: %d are listed, %d streamed, want %d", list, len(plain[list]), len(stream[list]), n)
			}
		}
		if s := listPodStats(w, nil); len(s) == pods {
			for id, p := range s {
				if p.GetLinux().GetCpu() == nil || p.GetLinux().GetMemory() == nil || p.GetLinux().GetNetwork() == nil ||
					len(p.GetLinux().GetContainers()) != 1 || p.GetLinux().GetContainers()[0].GetCpu() == nil {
					t.Errorf("%s: %v", id, p)
				}
			}
		}
		w.Restart()
	}
	f, err := w.StreamContainers(w.Ctx(), &cri.StreamContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_CREATED}}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	collect(t, f.Recv, func(m *cri.StreamContainersResponse) int { n += len(m.GetContainers()); return len(m.GetContainers()) })
	if n != pods {
		t.Errorf("%d containers wait", n)
	}
}

// TestStatsChurn: while pods come and go no list fails, tells something twice, or loses
// a pod that stays; and nothing of the gone ones is held.
func TestStatsChurn(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	stays := map[string]bool{}
	for i := range 5 {
		pod := w.Pod(fmt.Sprint("stays", i), nil)
		w.Ctr(pod, "c", "exec sleep 1000", nil)
		stays[pod] = true
	}
	listed(w)
	files := w.FDs()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				if err := cycle(w, fmt.Sprintf("comes-%d-%d", k, i)); err != nil {
					t.Errorf("a pod that comes and goes: %v", err)
					return
				}
			}
		})
	}
	for range 40 {
		for _, lists := range []map[string][]string{listed(w), streamed(w)} {
			for list, ids := range lists {
				if len(slices.Compact(slices.Sorted(slices.Values(ids)))) != len(ids) {
					t.Errorf("%s: something is there twice: %v", list, ids)
				}
				if strings.HasPrefix(list, "pod") {
					n := 0
					for _, id := range ids {
						if stays[id] {
							n++
						}
					}
					if n != len(stays) {
						t.Errorf("%s: %d of %d that stay", list, n, len(stays))
					}
				}
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	w.Eventually("the daemon has as many files open as before", func() bool {
		listed(w)
		return w.FDs() <= files+5
	})
}

// cycle runs a pod with a container and removes it.
func cycle(w *world.World, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p, err := w.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.PodConfig(name)})
	if err != nil {
		return err
	}
	c, err := w.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.GetPodSandboxId(), Config: w.CtrConfig("c", "sleep 1000"), SandboxConfig: w.PodConfig(name)})
	if err == nil {
		_, err = w.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.GetContainerId()})
	}
	if err != nil {
		return err
	}
	_, err = w.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.GetPodSandboxId()})
	return err
}
