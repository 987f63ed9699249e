package stats

import (
	"strconv"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	counter = cri.MetricType_COUNTER
	gauge   = cri.MetricType_GAUGE
)

// allMetrics is everything that can be told: names, labels and meanings are cAdvisor's.
// The CRI has whole numbers only, so seconds are rounded down. What the host does not
// keep (pressure without PSI, the peak of huge pages on cgroup v2) is left out rather
// than told as zero.
func allMetrics() []metric {
	var all []metric
	for _, rows := range [][]metric{cpuMetrics(), memoryMetrics(), hugetlbMetrics(), diskMetrics(), ioMetrics(), networkMetrics(),
		processMetrics(), specMetrics(), pressureMetrics()} {
		all = append(all, rows...)
	}
	return append(all, metric{name: "container_last_seen", help: "When the container was seen last, seconds since 1970", kind: gauge,
		values: func(_ *sample, e emit) { e(uint64(time.Now().Unix()), time.Time{}) }})
}

// ofUsage makes the two functions of a metric that containers and pods have.
func ofUsage(value func(*cgroup.Usage) uint64) (func(*sample, emit), func(*podSample, emit)) {
	return func(s *sample, e emit) {
			if s.Usage != nil {
				e(value(s.Usage), s.Usage.Time)
			}
		}, func(p *podSample, e emit) {
			if p.Usage != nil {
				e(value(p.Usage), p.Usage.Time)
			}
		}
}

// ofMore makes the function of a metric that only containers have.
func ofMore(value func(*cgroup.Usage) uint64) func(*sample, emit) {
	return func(s *sample, e emit) {
		if s.more != nil {
			e(value(s.more), s.more.Time)
		}
	}
}

const microPerSecond = 1e6

func cpuMetrics() []metric {
	usage := func(u *cgroup.Usage, e emit) {
		if u != nil {
			e(u.CPU.Total/microPerSecond, u.Time, "total")
		}
	}
	times := func(value func(*cgroup.CPUUsage) uint64) func(*sample, emit) {
		return func(s *sample, e emit) {
			switch {
			case s.Usage != nil && s.Usage.CPU.User+s.Usage.CPU.System > 0:
				e(value(&s.Usage.CPU)/microPerSecond, s.Usage.Time)
			case s.more != nil:
				e(value(&s.more.CPU)/microPerSecond, s.more.Time)
			}
		}
	}
	quota := func(value func(*cgroup.CPUUsage) uint64) func(*sample, emit) {
		return func(s *sample, e emit) {
			if s.more != nil && s.limits != nil && s.limits.CPUQuota != cgroup.NoLimit {
				e(value(&s.more.CPU), s.more.Time)
			}
		}
	}
	return []metric{
		{group: "cpu", name: "container_cpu_user_seconds_total", help: "Processor time spent in user mode, seconds", kind: counter,
			values: times(func(c *cgroup.CPUUsage) uint64 { return c.User })},
		{group: "cpu", name: "container_cpu_system_seconds_total", help: "Processor time spent in the kernel, seconds", kind: counter,
			values: times(func(c *cgroup.CPUUsage) uint64 { return c.System })},
		{group: "cpu", name: "container_cpu_usage_seconds_total", help: "Processor time consumed, seconds", kind: counter, labels: []string{"cpu"},
			values: func(s *sample, e emit) { usage(s.Usage, e) }, podValues: func(p *podSample, e emit) { usage(p.Usage, e) }},
		{group: "cpu", name: "container_cpu_cfs_periods_total", help: "Periods of the processor quota that have passed", kind: counter,
			values: quota(func(c *cgroup.CPUUsage) uint64 { return c.Periods })},
		{group: "cpu", name: "container_cpu_cfs_throttled_periods_total", help: "Periods in which the processor quota was used up", kind: counter,
			values: quota(func(c *cgroup.CPUUsage) uint64 { return c.Throttled })},
		{group: "cpu", name: "container_cpu_cfs_throttled_seconds_total", help: "Time spent waiting for the next period of the processor quota, seconds", kind: counter,
			values: quota(func(c *cgroup.CPUUsage) uint64 { return c.ThrottledMicro / microPerSecond })},
	}
}

func memoryMetrics() []metric {
	both := func(name, help string, value func(*cgroup.Usage) uint64) metric {
		m := metric{group: "memory", name: "container_memory_" + name, help: help, kind: gauge}
		m.values, m.podValues = ofUsage(value)
		return m
	}
	faults := func(u *cgroup.Usage, e emit) {
		if u != nil {
			e(u.Memory.OwnPageFaults, u.Time, "pgfault", "container")
			e(u.Memory.OwnMajorFaults, u.Time, "pgmajfault", "container")
			e(u.Memory.PageFaults, u.Time, "pgfault", "hierarchy")
			e(u.Memory.MajorFaults, u.Time, "pgmajfault", "hierarchy")
		}
	}
	return []metric{
		both("cache", "Page cache, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.Cache }),
		both("rss", "Anonymous memory, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.RSS }),
		both("mapped_file", "Files mapped into memory, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.MappedFile }),
		both("swap", "Swap in use, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.Swap }),
		both("usage_bytes", "Memory in use, whenever it was touched last, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.Usage }),
		both("working_set_bytes", "Memory in use without file pages that were not touched for long, bytes", func(u *cgroup.Usage) uint64 { return u.Memory.WorkingSet }),
		{group: "memory", name: "container_memory_kernel_usage", help: "Memory that the kernel keeps for the processes, bytes", kind: gauge,
			values: func(s *sample, e emit) {
				if s.Usage != nil && s.more != nil { // version 1 has it in a file of its own
					e(max(s.Usage.Memory.Kernel, s.more.Memory.Kernel), s.Usage.Time)
				}
			}},
		{group: "memory", name: "container_memory_failcnt", help: "How often the memory limit was met", kind: counter,
			values: ofMore(func(u *cgroup.Usage) uint64 { return u.Memory.LimitHits })},
		{group: "memory", name: "container_memory_max_usage_bytes", help: "Largest memory use so far, bytes", kind: gauge,
			values: func(s *sample, e emit) {
				if s.more != nil && s.more.Memory.Peak > 0 {
					e(s.more.Memory.Peak, s.more.Time)
				}
			}},
		{group: "memory", name: "container_memory_failures_total", help: "Page faults", kind: counter, labels: []string{"failure_type", "scope"},
			values: func(s *sample, e emit) { faults(s.Usage, e) }},
		{group: "oom", name: "container_oom_events_total", help: "Processes killed for want of memory", kind: counter,
			values: ofMore(func(u *cgroup.Usage) uint64 { return u.OOMKills })},
	}
}

func hugetlbMetrics() []metric {
	size := []string{"pagesize"}
	return []metric{
		{group: "hugetlb", name: "container_hugetlb_usage_bytes", help: "Huge pages in use, bytes", kind: gauge, labels: size,
			values: func(s *sample, e emit) {
				for i := range s.huge() {
					e(s.more.Hugetlb[i].Usage, s.more.Time, s.more.Hugetlb[i].PageSize)
				}
			}},
		{group: "hugetlb", name: "container_hugetlb_max_usage_bytes", help: "Most huge pages in use so far, bytes", kind: gauge, labels: size,
			values: func(s *sample, e emit) {
				for i := range s.huge() {
					if h := s.more.Hugetlb[i]; h.PeakKept {
						e(h.Peak, s.more.Time, h.PageSize)
					}
				}
			}},
	}
}

func (s *sample) huge() []cgroup.HugetlbUsage {
	if s.more == nil {
		return nil
	}
	return s.more.Hugetlb
}

func diskMetrics() []metric {
	row := func(name, help string, value func(s *sample) (uint64, time.Time)) metric {
		return metric{group: "disk", name: "container_fs_" + name, help: help, kind: gauge, labels: []string{"device"}, values: func(s *sample, e emit) {
			if s.disk == nil {
				return
			}
			if v, at := value(s); !at.IsZero() {
				e(v, at, s.disk.Source)
			}
		}}
	}
	return []metric{
		row("inodes_free", "Files that can still be made on the file system", func(s *sample) (uint64, time.Time) { return s.disk.FreeInodes, s.diskAt }),
		row("inodes_total", "Files that the file system can hold", func(s *sample) (uint64, time.Time) { return s.disk.Inodes, s.diskAt }),
		row("limit_bytes", "Size of the file system of the writable layer, bytes", func(s *sample) (uint64, time.Time) { return s.disk.Bytes, s.diskAt }),
		row("usage_bytes", "What the writable layer takes, bytes", func(s *sample) (uint64, time.Time) {
			if s.Layer == nil {
				return 0, time.Time{}
			}
			return s.Layer.Bytes, s.LayerTime
		}),
	}
}

func ioMetrics() []metric {
	row := func(name, help string, value func(*cgroup.IOUsage) uint64) metric {
		return metric{group: "diskIO", name: "container_fs_" + name, help: help, kind: counter, labels: []string{"device"}, values: func(s *sample, e emit) {
			for i := range s.io() {
				u := &s.more.IO[i]
				e(value(u), s.more.Time, s.block(u.Major, u.Minor))
			}
		}}
	}
	return []metric{
		row("reads_total", "Reads from the device", func(u *cgroup.IOUsage) uint64 { return u.ReadOps }),
		row("writes_total", "Writes to the device", func(u *cgroup.IOUsage) uint64 { return u.WriteOps }),
		row("reads_bytes_total", "Bytes read from the device", func(u *cgroup.IOUsage) uint64 { return u.ReadBytes }),
		row("writes_bytes_total", "Bytes written to the device", func(u *cgroup.IOUsage) uint64 { return u.WriteBytes }),
		{group: "diskIO", name: "container_blkio_device_usage_total", help: "Bytes moved by the block device", kind: counter,
			labels: []string{"device", "major", "minor", "operation"}, values: func(s *sample, e emit) {
				for i := range s.io() {
					u := &s.more.IO[i]
					name, major, minor := s.block(u.Major, u.Minor), strconv.Itoa(int(u.Major)), strconv.Itoa(int(u.Minor))
					e(u.ReadBytes, s.more.Time, name, major, minor, "Read")
					e(u.WriteBytes, s.more.Time, name, major, minor, "Write")
				}
			}},
	}
}

func (s *sample) io() []cgroup.IOUsage {
	if s.more == nil {
		return nil
	}
	return s.more.IO
}

func networkMetrics() []metric {
	row := func(name, help string, value func(*netstat.Interface) uint64) metric {
		return metric{group: "network", name: "container_network_" + name + "_total", help: help, kind: counter, labels: []string{"interface"},
			podValues: func(p *podSample, e emit) {
				for i := range p.Interfaces {
					e(value(&p.Interfaces[i]), p.NetworkTime, p.Interfaces[i].Name)
				}
			}}
	}
	return []metric{
		row("receive_bytes", "Bytes received", func(i *netstat.Interface) uint64 { return i.RxBytes }),
		row("receive_packets", "Packets received", func(i *netstat.Interface) uint64 { return i.RxPackets }),
		row("receive_packets_dropped", "Received packets that were dropped", func(i *netstat.Interface) uint64 { return i.RxDropped }),
		row("receive_errors", "Errors in receiving", func(i *netstat.Interface) uint64 { return i.RxErrors }),
		row("transmit_bytes", "Bytes sent", func(i *netstat.Interface) uint64 { return i.TxBytes }),
		row("transmit_packets", "Packets sent", func(i *netstat.Interface) uint64 { return i.TxPackets }),
		row("transmit_packets_dropped", "Packets that were dropped instead of sent", func(i *netstat.Interface) uint64 { return i.TxDropped }),
		row("transmit_errors", "Errors in sending", func(i *netstat.Interface) uint64 { return i.TxErrors }),
	}
}

func processMetrics() []metric {
	of := func(value func(*files) uint64) func(*sample, emit) {
		return func(s *sample, e emit) {
			if s.files != nil {
				e(value(s.files), s.filesAt)
			}
		}
	}
	return []metric{
		{group: "process", name: "container_processes", help: "Processes", kind: gauge, values: of(func(f *files) uint64 { return f.processes })},
		{group: "process", name: "container_file_descriptors", help: "Open files of all processes", kind: gauge, values: of(func(f *files) uint64 { return f.open })},
		{group: "process", name: "container_sockets", help: "Open sockets of all processes", kind: gauge, values: of(func(f *files) uint64 { return f.sockets })},
		{group: "process", name: "container_threads", help: "Threads of all processes", kind: gauge,
			values: ofMore(func(u *cgroup.Usage) uint64 { return u.Pids.Current })},
		{group: "process", name: "container_threads_max", help: "Threads that are allowed; 0: any number", kind: gauge,
			values: func(s *sample, e emit) {
				if s.limits != nil {
					e(orZero(s.limits.Tasks), time.Time{})
				}
			}},
		{group: "process", name: "container_ulimits_soft", help: "Soft limits of the first process", kind: gauge, labels: []string{"ulimit"},
			values: func(s *sample, e emit) {
				if s.limits != nil && s.limits.maxFiles > 0 {
					e(s.limits.maxFiles, time.Time{}, "max_open_files")
				}
			}},
	}
}

// orZero tells a missing limit as cAdvisor does.
func orZero(limit uint64) uint64 {
	if limit == cgroup.NoLimit {
		return 0
	}
	return limit
}

func specMetrics() []metric {
	row := func(name, help string, value func(*limits) (uint64, bool)) metric {
		return metric{group: "spec", name: "container_spec_" + name, help: help, kind: gauge, values: func(s *sample, e emit) {
			if s.limits == nil {
				return
			}
			if v, ok := value(s.limits); ok {
				e(v, time.Time{})
			}
		}}
	}
	return []metric{
		row("cpu_period", "Period of the processor quota, microseconds", func(l *limits) (uint64, bool) { return l.CPUPeriod, true }),
		row("cpu_quota", "Processor quota in each period, microseconds", func(l *limits) (uint64, bool) { return l.CPUQuota, l.CPUQuota != cgroup.NoLimit }),
		row("cpu_shares", "Processor shares", func(l *limits) (uint64, bool) { return l.CPUShares, true }),
		row("memory_limit_bytes", "Memory limit, bytes; 0: none", func(l *limits) (uint64, bool) { return orZero(l.Memory), true }),
		row("memory_reservation_limit_bytes", "Memory reservation, bytes; 0: none", func(l *limits) (uint64, bool) { return orZero(l.MemoryReservation), true }),
		row("memory_swap_limit_bytes", "Swap limit, bytes (on cgroup v1 of memory and swap together); 0: none", func(l *limits) (uint64, bool) { return orZero(l.MemorySwap), true }),
		{group: "spec", name: "container_start_time_seconds", help: "When it was started, seconds since 1970", kind: gauge,
			values:    func(s *sample, e emit) { e(uint64(s.View.Status.StartedAt)/uint64(time.Second), time.Time{}) },
			podValues: func(p *podSample, e emit) { e(uint64(p.View.Status.CreatedAt)/uint64(time.Second), time.Time{}) }},
	}
}

func pressureMetrics() []metric {
	var rows []metric
	for _, r := range []struct {
		what string
		of   func(*cgroup.Usage) *cgroup.Pressure
	}{
		{"cpu", func(u *cgroup.Usage) *cgroup.Pressure { return u.CPU.Pressure }},
		{"memory", func(u *cgroup.Usage) *cgroup.Pressure { return u.Memory.Pressure }},
		{"io", func(u *cgroup.Usage) *cgroup.Pressure { return u.IOPressure }},
	} {
		for _, k := range []struct {
			name, help string
			of         func(*cgroup.Pressure) uint64
		}{
			{"waiting", "some task waited", func(p *cgroup.Pressure) uint64 { return p.Some.Total }},
			{"stalled", "no task could go on", func(p *cgroup.Pressure) uint64 { return p.Full.Total }},
		} {
			tell := func(u *cgroup.Usage, e emit) {
				if u != nil && r.of(u) != nil {
					e(k.of(r.of(u))/microPerSecond, u.Time)
				}
			}
			rows = append(rows, metric{group: "pressure", name: "container_pressure_" + r.what + "_" + k.name + "_seconds_total",
				help: "Time in which " + k.help + " because of " + r.what + " congestion, seconds", kind: counter,
				values: func(s *sample, e emit) { tell(s.Usage, e) }, podValues: func(p *podSample, e emit) { tell(p.Usage, e) }})
		}
	}
	return rows
}
