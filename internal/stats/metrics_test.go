package stats

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet's /metrics/cadvisor has, as conformance tests list it, with the labels
// besides id, name, image, namespace, pod and container.
const cadvisor = `
container_blkio_device_usage_total device major minor operation
container_cpu_cfs_periods_total
container_cpu_cfs_throttled_periods_total
container_cpu_cfs_throttled_seconds_total
container_cpu_system_seconds_total
container_cpu_usage_seconds_total cpu
container_cpu_user_seconds_total
container_file_descriptors
container_fs_inodes_free device
container_fs_inodes_total device
container_fs_limit_bytes device
container_fs_reads_bytes_total device
container_fs_reads_total device
container_fs_usage_bytes device
container_fs_writes_bytes_total device
container_fs_writes_total device
container_hugetlb_max_usage_bytes pagesize
container_hugetlb_usage_bytes pagesize
container_last_seen
container_memory_cache
container_memory_failcnt
container_memory_failures_total failure_type scope
container_memory_kernel_usage
container_memory_mapped_file
container_memory_max_usage_bytes
container_memory_rss
container_memory_swap
container_memory_usage_bytes
container_memory_working_set_bytes
container_network_receive_bytes_total interface
container_network_receive_errors_total interface
container_network_receive_packets_dropped_total interface
container_network_receive_packets_total interface
container_network_transmit_bytes_total interface
container_network_transmit_errors_total interface
container_network_transmit_packets_dropped_total interface
container_network_transmit_packets_total interface
container_oom_events_total
container_pressure_cpu_stalled_seconds_total
container_pressure_cpu_waiting_seconds_total
container_pressure_io_stalled_seconds_total
container_pressure_io_waiting_seconds_total
container_pressure_memory_stalled_seconds_total
container_pressure_memory_waiting_seconds_total
container_processes
container_sockets
container_spec_cpu_period
container_spec_cpu_quota
container_spec_cpu_shares
container_spec_memory_limit_bytes
container_spec_memory_reservation_limit_bytes
container_spec_memory_swap_limit_bytes
container_start_time_seconds
container_threads
container_threads_max
container_ulimits_soft ulimit`

// isCounter tells whether a value only grows; all others are gauges.
func isCounter(name string) bool {
	return strings.HasSuffix(name, "_total") && name != "container_fs_inodes_total" || name == "container_memory_failcnt"
}

// collected calls Metrics and returns the pods' messages.
func collected(t *testing.T, c *Collector) []*cri.PodSandboxMetrics {
	t.Helper()
	all, err := c.Metrics(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(all)
}

// TestMetricNames: every name is described and told, with as many label values as keys.
func TestMetricNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		c, _ := collector(t, m, nil)
		labels := map[string][]string{}
		for _, d := range c.Descriptors() {
			if d.GetHelp() == "" || labels[d.GetName()] != nil {
				t.Errorf("%s has no help or is there twice", d.GetName())
			}
			labels[d.GetName()] = d.GetLabelKeys()
		}
		told := map[string]bool{}
		for _, p := range collected(t, c) {
			all := p.GetMetrics()
			for _, x := range p.GetContainerMetrics() {
				all = append(all, x.GetMetrics()...)
			}
			seen := map[string]bool{}
			for _, x := range all {
				told[x.GetName()] = true
				if len(x.GetLabelValues()) != len(labels[x.GetName()]) {
					t.Errorf("%s has values %q for keys %q", x.GetName(), x.GetLabelValues(), labels[x.GetName()])
				}
				if (x.GetMetricType() == cri.MetricType_COUNTER) != isCounter(x.GetName()) {
					t.Errorf("%s is a %s", x.GetName(), x.GetMetricType())
				}
				if x.GetTimestamp() != 0 {
					t.Errorf("%s was read for this call and has the time %d", x.GetName(), x.GetTimestamp())
				}
				key := x.GetName() + strings.Join(x.GetLabelValues(), "\x00")
				if seen[key] {
					t.Errorf("%s %q is there twice", x.GetName(), x.GetLabelValues())
				}
				seen[key] = true
			}
		}
		lines := strings.Split(strings.TrimSpace(cadvisor), "\n")
		for _, line := range lines {
			f := strings.Fields(line)
			if want := append(slices.Clone(baseLabels[:]), f[1:]...); !slices.Equal(labels[f[0]], want) {
				t.Errorf("%s has the labels %q, want %q", f[0], labels[f[0]], want)
			}
			if !told[f[0]] {
				t.Errorf("%s is not told", f[0])
			}
		}
		if len(labels) != len(lines) {
			t.Errorf("%d names are described, %d are known", len(labels), len(lines))
		}
	})
}

// find returns the value of a metric with these labels of its own.
func find(t *testing.T, list []*cri.Metric, name string, own ...string) *cri.Metric {
	t.Helper()
	for _, x := range list {
		if x.GetName() == name && slices.Equal(x.GetLabelValues()[len(baseLabels):], own) {
			return x
		}
	}
	t.Errorf("there is no %s %q", name, own)
	return nil
}

func TestMetricValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		m.cpu = func(path string) uint64 {
			return map[string]uint64{"/pods/a": 9_999_999, "/pods/a/ctr-x": 2_000_000}[path]
		}
		c, _ := collector(t, m, nil)
		p := collected(t, c)[0]
		ctr := p.GetContainerMetrics()[0]
		if p.GetPodSandboxId() != "pod-a" || ctr.GetContainerId() != "ctr-x" {
			t.Errorf("ids %q, %q", p.GetPodSandboxId(), ctr.GetContainerId())
		}
		for _, want := range []struct {
			list  []*cri.Metric
			value uint64
			name  string
			own   []string
		}{
			{p.GetMetrics(), 9, "container_cpu_usage_seconds_total", []string{"total"}},
			{ctr.GetMetrics(), 2, "container_cpu_usage_seconds_total", []string{"total"}},
			{p.GetMetrics(), 2, "container_network_receive_bytes_total", []string{"eth0"}},
			{p.GetMetrics(), 3, "container_network_transmit_bytes_total", []string{"eth1"}},
			{ctr.GetMetrics(), 100, "container_memory_usage_bytes", nil},
			{ctr.GetMetrics(), 100, "container_fs_usage_bytes", []string{"/dev/sda1"}},
			{ctr.GetMetrics(), 20, "container_blkio_device_usage_total", []string{"/dev/b8-1", "8", "1", "Write"}},
			{ctr.GetMetrics(), 2, "container_fs_writes_total", []string{"/dev/b8-1"}},
			{ctr.GetMetrics(), 8192, "container_hugetlb_max_usage_bytes", []string{"2MB"}},
			{ctr.GetMetrics(), 3, "container_processes", nil},
			{ctr.GetMetrics(), 12, "container_file_descriptors", nil},
			{ctr.GetMetrics(), 3, "container_sockets", nil},
			{ctr.GetMetrics(), 0, "container_threads_max", nil},
			{ctr.GetMetrics(), 1024, "container_ulimits_soft", []string{"max_open_files"}},
			{ctr.GetMetrics(), 20000, "container_spec_cpu_quota", nil},
			{ctr.GetMetrics(), 0, "container_spec_memory_swap_limit_bytes", nil},
			{ctr.GetMetrics(), 2e9, "container_start_time_seconds", nil},
			{p.GetMetrics(), 1e9, "container_start_time_seconds", nil},
		} {
			if x := find(t, want.list, want.name, want.own...); x.GetValue().GetValue() != want.value {
				t.Errorf("%s %q is %d, want %d", want.name, want.own, x.GetValue().GetValue(), want.value)
			}
		}
		base := find(t, ctr.GetMetrics(), "container_memory_rss").GetLabelValues()
		if want := []string{"/pods/a/ctr-x", "k8s_x_a_ns_uid-a_0", "image:1", "ns", "a", "x"}; !slices.Equal(base, want) {
			t.Errorf("labels %q, want %q", base, want)
		}
		base = find(t, p.GetMetrics(), "container_memory_rss").GetLabelValues()
		if want := []string{"/pods/a", "", "", "ns", "a", ""}; !slices.Equal(base, want) {
			t.Errorf("a pod's labels %q, want %q", base, want)
		}
		for _, x := range p.GetMetrics() {
			if strings.HasSuffix(x.GetName(), "_bytes_total") && slices.Contains(x.GetLabelValues(), "lo") {
				t.Error("loopback is told")
			}
		}
	})
}

// TestMetricTimes: what was not read for the call has its own time.
func TestMetricTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		c, _ := collector(t, m, func(o *Options) { o.Period = 20 * time.Second })
		first := time.Now()
		collected(t, c)
		time.Sleep(15 * time.Second)
		list := collected(t, c)[0].GetContainerMetrics()[0].GetMetrics()
		if x := find(t, list, "container_memory_rss"); x.GetTimestamp() != first.UnixNano() {
			t.Errorf("the time is %d, want %d", x.GetTimestamp(), first.UnixNano())
		}
		if x := find(t, list, "container_last_seen"); x.GetTimestamp() != 0 || x.GetValue().GetValue() != uint64(time.Now().Unix()) {
			t.Errorf("%+v", x)
		}
	})
}

// TestMetricGroups: only wanted groups are told.
func TestMetricGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		for _, want := range []struct {
			groups []string
			names  int
		}{{nil, 1}, {[]string{"all"}, 56}, {[]string{"cpu"}, 7}, {[]string{"network", "oom"}, 10}, {[]string{"disk"}, 5}, {[]string{"diskIO"}, 6}} {
			c, _ := collector(t, m, func(o *Options) { o.Metrics = want.groups })
			if n := len(c.Descriptors()); n != want.names {
				t.Errorf("%q: %d names, want %d", want.groups, n, want.names)
			}
			names := map[string]bool{}
			for _, d := range c.Descriptors() {
				names[d.GetName()] = true
			}
			for _, p := range collected(t, c) {
				for _, x := range append(p.GetMetrics(), p.GetContainerMetrics()[0].GetMetrics()...) {
					if !names[x.GetName()] {
						t.Errorf("%q: %s is told", want.groups, x.GetName())
					}
				}
			}
		}
	})
}

// TestLeftOut: a host that does not keep a number does not tell zero.
func TestLeftOut(t *testing.T) {
	s := sample{Container: &Container{Usage: &cgroup.Usage{}}, more: &cgroup.Usage{Hugetlb: []cgroup.HugetlbUsage{{PageSize: "2MB"}}},
		limits: &limits{Limits: cgroup.Limits{CPUQuota: cgroup.NoLimit}}, block: func(uint32, uint32) string { return "" }}
	for _, m := range allMetrics() {
		n := 0
		if m.values != nil {
			m.values(&s, func(uint64, time.Time, ...string) { n++ })
		}
		out := m.group == "pressure" || m.group == "diskIO" || m.group == "disk" || m.group == "network" || strings.Contains(m.name, "_cfs_") ||
			slices.Contains([]string{"container_hugetlb_max_usage_bytes", "container_memory_max_usage_bytes", "container_spec_cpu_quota",
				"container_ulimits_soft", "container_file_descriptors", "container_sockets", "container_processes"}, m.name)
		if out != (n == 0) {
			t.Errorf("%s is told %d times", m.name, n)
		}
	}
	s = sample{Container: &Container{}} // nothing could be read yet
	for _, m := range allMetrics() {
		if m.values != nil {
			m.values(&s, func(uint64, time.Time, ...string) {
				if m.name != "container_last_seen" && m.name != "container_start_time_seconds" {
					t.Errorf("%s is told of a container that could not be read", m.name)
				}
			})
		}
	}
}
