package cgroup

import "bytes"

// readV1 reads a cgroup of version 1 hierarchies, each part in its controller's. On
// a hybrid host the version 2 tree has pressure and, in one file, the processor times:
// both need no controller.
func (t Tree) readV1(s *scan, u *Usage, parts Parts) {
	if parts&(PartCPU|PartCPUTimes|PartPressure) != 0 && t.Mode == Hybrid {
		s.in(unified, func(g *group) { hybrid(g, u, parts) })
	}
	if parts&(PartCPU|PartCPUTimes) != 0 && u.CPU.Total == 0 {
		s.in(hCPUAcct, func(g *group) {
			u.CPU.Total = g.value("cpuacct.usage") / 1000
			if parts&PartCPUTimes != 0 {
				u.CPU.User, u.CPU.System = g.value("cpuacct.usage_user")/1000, g.value("cpuacct.usage_sys")/1000
			}
		})
	}
	if parts&PartQuota != 0 {
		s.in(hCPU, func(g *group) { throttledV1(g.text("cpu.stat"), &u.CPU) })
	}
	if parts&(PartMemory|PartMemoryMore) != 0 {
		s.in(hMemory, func(g *group) { readMemoryV1(g, u, parts) })
	}
	if parts&PartTasks != 0 {
		s.in(hPids, func(g *group) { u.Pids.Current = g.value("pids.current") })
	}
	if parts&PartTasksLimit != 0 {
		s.in(hPids, func(g *group) { u.Pids.Limit = g.limit("pids.max") })
	}
	if parts&PartProcesses != 0 {
		s.in(t.membership(), func(g *group) { g.processes(maxDepth, func(int) { u.Pids.Processes++ }) })
	}
	if parts&PartIO != 0 {
		s.in(hBlkio, func(g *group) { u.IO = readIOV1(g) })
	}
	if parts&PartHugetlb != 0 {
		s.in(hHugetlb, func(g *group) {
			for _, size := range t.HugePageSizes {
				if data := g.text("hugetlb." + size + ".usage_in_bytes"); data != nil {
					u.Hugetlb = append(u.Hugetlb, HugetlbUsage{PageSize: size, Usage: number(data), Peak: g.value("hugetlb." + size + ".max_usage_in_bytes"), PeakKept: true})
				}
			}
		})
	}
}

// hybrid reads the version 2 tree of a hybrid host. A runtime may have put nobody there:
// then no time has passed in it, and it says nothing.
func hybrid(g *group, u *Usage, parts Parts) {
	if cpuV2(g.text("cpu.stat"), &u.CPU); u.CPU.Total > 0 && parts&PartPressure != 0 {
		pressures(g, u)
	}
}

func throttledV1(data []byte, c *CPUUsage) {
	eachField(data, func(key, value []byte) {
		switch string(key) {
		case "nr_periods":
			c.Periods = number(value)
		case "nr_throttled":
			c.Throttled = number(value)
		case "throttled_time":
			c.ThrottledMicro = number(value) / 1000
		}
	})
}

func readMemoryV1(g *group, u *Usage, parts Parts) {
	if parts&PartMemory != 0 {
		u.Memory.Usage = g.value("memory.usage_in_bytes")
		memoryV1(g.text("memory.stat"), &u.Memory)
	}
	if parts&PartMemoryMore != 0 {
		u.Memory.Peak, u.Memory.LimitHits = g.value("memory.max_usage_in_bytes"), g.value("memory.failcnt")
		u.Memory.Kernel = g.value("memory.kmem.usage_in_bytes")
		u.OOMKills = field(g.text("memory.oom_control"), "oom_kill")
	}
}

// memoryV1 reads memory.stat; m.Usage must be known.
func memoryV1(data []byte, m *MemoryUsage) {
	var inactive uint64
	memsw := uint64(NoLimit)
	m.Limit, m.SwapLimit = NoLimit, NoLimit
	eachField(data, func(key, value []byte) {
		n := number(value)
		switch string(key) {
		case "hierarchical_memory_limit":
			m.Limit = limitOf(value)
		case "hierarchical_memsw_limit":
			memsw = limitOf(value)
		case "pgfault":
			m.OwnPageFaults = n
		case "pgmajfault":
			m.OwnMajorFaults = n
		case "total_rss":
			m.RSS = n
		case "total_cache":
			m.Cache = n
		case "total_mapped_file":
			m.MappedFile = n
		case "total_swap":
			m.SwapCounted, m.Swap = true, n
		case "total_inactive_file":
			inactive = n
		case "total_pgfault":
			m.PageFaults = n
		case "total_pgmajfault":
			m.MajorFaults = n
		}
	})
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	if memsw != NoLimit && m.Limit != NoLimit {
		m.SwapLimit = memsw - min(m.Limit, memsw)
	}
}

// readIOV1 prefers the recursive files; old kernels have the plain ones only.
func readIOV1(g *group) (list []IOUsage) {
	for i, file := range [...]string{"blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"} {
		data := g.text(file + "_recursive")
		if data == nil {
			data = g.text(file)
		}
		list = ioV1(data, i == 0, list)
	}
	return list
}

// ioV1 adds lines such as "8:0 Read 4096" to a list.
func ioV1(data []byte, inBytes bool, list []IOUsage) []IOUsage {
	entry := func(major, minor uint32) *IOUsage {
		for i := range list {
			if list[i].Major == major && list[i].Minor == minor {
				return &list[i]
			}
		}
		list = append(list, IOUsage{Major: major, Minor: minor})
		return &list[len(list)-1]
	}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) != 3 {
			continue
		}
		major, minor, ok := device(f[0])
		if !ok {
			continue
		}
		u, n := entry(major, minor), number(f[2])
		switch read := string(f[1]) == "Read"; {
		case !read && string(f[1]) != "Write":
		case read && inBytes:
			u.ReadBytes = n
		case read:
			u.ReadOps = n
		case inBytes:
			u.WriteBytes = n
		default:
			u.WriteOps = n
		}
	}
	return list
}

func limitsV1(s *scan, l *Limits) {
	s.in(hCPU, func(g *group) {
		l.CPUShares = g.value("cpu.shares")
		l.CPUPeriod, l.CPUQuota = g.value("cpu.cfs_period_us"), g.limit("cpu.cfs_quota_us")
	})
	s.in(hMemory, func(g *group) {
		l.Memory, l.MemorySwap = g.limit("memory.limit_in_bytes"), g.limit("memory.memsw.limit_in_bytes")
		l.MemoryReservation = g.limit("memory.soft_limit_in_bytes")
	})
	s.in(hPids, func(g *group) { l.Tasks = g.limit("pids.max") })
}
