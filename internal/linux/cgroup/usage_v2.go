package cgroup

import (
	"bytes"
	"math"

	"github.com/opencontainers/cgroups"
)

// readV2 reads a version 2 cgroup: everything is in one folder.
func (t Tree) readV2(g *group, u *Usage, parts Parts) {
	if parts&(PartCPU|PartCPUTimes|PartQuota) != 0 {
		cpuV2(g.text("cpu.stat"), &u.CPU)
	}
	if parts&PartMemory != 0 {
		m := &u.Memory
		m.Usage = g.value("memory.current")
		memoryV2(g.text("memory.stat"), m)
		m.Limit = g.limit("memory.max")
		m.SwapLimit = NoLimit
		if data := g.text("memory.swap.current"); data != nil {
			m.SwapCounted, m.Swap = true, number(data)
			m.SwapLimit = g.limit("memory.swap.max")
		}
	}
	if parts&PartMemoryMore != 0 {
		u.Memory.Peak = g.value("memory.peak")
		events := g.text("memory.events")
		u.Memory.LimitHits, u.OOMKills = field(events, "max"), field(events, "oom_kill")
	}
	if parts&PartTasks != 0 {
		u.Pids.Current = g.value("pids.current")
	}
	if parts&PartTasksLimit != 0 {
		u.Pids.Limit = g.limit("pids.max")
	}
	if parts&PartProcesses != 0 {
		g.processes(maxDepth, func(int) { u.Pids.Processes++ })
	}
	if parts&PartIO != 0 {
		u.IO = ioV2(g.text("io.stat"))
	}
	if parts&PartHugetlb != 0 {
		for _, size := range t.HugePageSizes {
			if data := g.text("hugetlb." + size + ".current"); data != nil {
				u.Hugetlb = append(u.Hugetlb, HugetlbUsage{PageSize: size, Usage: number(data)})
			}
		}
	}
	if parts&PartPressure != 0 {
		pressures(g, u)
	}
}

func pressures(g *group, u *Usage) {
	u.CPU.Pressure = pressure(g.text("cpu.pressure"))
	u.Memory.Pressure = pressure(g.text("memory.pressure"))
	u.IOPressure = pressure(g.text("io.pressure"))
}

func cpuV2(data []byte, c *CPUUsage) {
	eachField(data, func(key, value []byte) {
		switch string(key) {
		case "usage_usec":
			c.Total = number(value)
		case "user_usec":
			c.User = number(value)
		case "system_usec":
			c.System = number(value)
		case "nr_periods":
			c.Periods = number(value)
		case "nr_throttled":
			c.Throttled = number(value)
		case "throttled_usec":
			c.ThrottledMicro = number(value)
		}
	})
}

// memoryV2 reads memory.stat; m.Usage must be known.
func memoryV2(data []byte, m *MemoryUsage) {
	var inactive, parts uint64
	eachField(data, func(key, value []byte) {
		n := number(value)
		switch string(key) {
		case "anon":
			m.RSS = n
		case "file":
			m.Cache = n
		case "file_mapped":
			m.MappedFile = n
		case "kernel": // since Linux 5.18
			m.Kernel = n
		case "kernel_stack", "pagetables", "percpu", "slab":
			parts += n
		case "inactive_file":
			inactive = n
		case "pgfault":
			m.PageFaults, m.OwnPageFaults = n, n
		case "pgmajfault":
			m.MajorFaults, m.OwnMajorFaults = n, n
		}
	})
	if m.Kernel == 0 {
		m.Kernel = parts
	}
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
}

// ioV2 reads lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func ioV2(data []byte) (list []IOUsage) {
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		var u IOUsage
		var ok bool
		if u.Major, u.Minor, ok = device(fields[0]); !ok {
			continue
		}
		eachPair(fields[1:], func(key, val []byte) {
			switch string(key) {
			case "rbytes":
				u.ReadBytes = number(val)
			case "wbytes":
				u.WriteBytes = number(val)
			case "rios":
				u.ReadOps = number(val)
			case "wios":
				u.WriteOps = number(val)
			}
		})
		list = append(list, u)
	}
	return list
}

func limitsV2(g *group, l *Limits) {
	if data := bytes.Fields(g.text("cpu.max")); len(data) == 2 {
		l.CPUQuota, l.CPUPeriod = limitOf(data[0]), number(data[1])
	}
	l.CPUShares = sharesOf(g.value("cpu.weight"))
	l.Memory, l.MemorySwap, l.MemoryReservation = g.limit("memory.max"), g.limit("memory.swap.max"), g.limit("memory.min")
	l.Tasks = g.limit("pids.max")
}

// sharesOf finds the smallest number of CPU shares that the cgroup library turns into
// a weight; it does so with a curve that has no exact inverse.
func sharesOf(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	low, high := uint64(2), uint64(1<<18)
	for low < high {
		if mid := (low + high) / 2; cgroups.ConvertCPUSharesToCgroupV2Value(mid) < weight {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// WeightOf is the version 2 weight that stands for a number of CPU shares.
func WeightOf(shares uint64) uint64 { return cgroups.ConvertCPUSharesToCgroupV2Value(shares) }

// limitOf reads a limit: "max", or what version 1 means by that, is NoLimit.
func limitOf(data []byte) uint64 {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || data[0] == 'm' || data[0] == '-' {
		return NoLimit
	}
	if n := number(data); n < unlimitedV1 {
		return n
	}
	return NoLimit
}

// unlimitedV1 is the smallest number version 1 means "no limit" by: the largest
// multiple of a page that fits; pages have up to 64 KiB.
const unlimitedV1 = math.MaxInt64 &^ (1<<16 - 1)
