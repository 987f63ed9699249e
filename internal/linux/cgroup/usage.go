package cgroup

import (
	"math"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

// NoLimit stands for "max" wherever a limit is read.
const NoLimit = math.MaxUint64

// Parts says what of a cgroup is read. A part is one to five files, a file some
// microseconds, and lists of statistics read hundreds of cgroups.
type Parts uint16

// The parts.
const (
	PartCPU        Parts = 1 << iota // CPU.Total; the other times where they come with it
	PartCPUTimes                     // CPU.User and System
	PartQuota                        // what the processor quota did
	PartMemory                       // what is charged now, faults, the limit
	PartMemoryMore                   // Memory.Peak, LimitHits and Kernel; OOMKills
	PartTasks                        // Pids.Current
	PartTasksLimit                   // Pids.Limit
	PartProcesses                    // Pids.Processes
	PartIO                           // IO
	PartHugetlb                      // Hugetlb
	PartPressure                     // the three pressures

	// PartsCounted is what the verb stats of an OCI runtime tells.
	PartsCounted = PartCPU | PartCPUTimes | PartQuota | PartMemory | PartTasks | PartTasksLimit | PartIO | PartPressure
)

// Usage is what a cgroup and all below it have consumed. Sizes are in bytes,
// times in microseconds. Numbers the host does not keep are zero, pressure nil.
type Usage struct {
	Time    time.Time // when it was read
	CPU     CPUUsage
	Memory  MemoryUsage
	Pids    PidsUsage
	IO      []IOUsage
	Hugetlb []HugetlbUsage // by page size, those of the host
	// IOPressure is io.pressure.
	IOPressure *Pressure
	// OOMKills counts processes killed for want of memory; on v1 without those of
	// cgroups below.
	OOMKills uint64
}

// CPUUsage is processor time since the cgroup was made.
type CPUUsage struct {
	Total, User, System                uint64
	Periods, Throttled, ThrottledMicro uint64 // of the quota
	Pressure                           *Pressure
}

// MemoryUsage is memory charged now.
type MemoryUsage struct {
	Usage uint64
	// WorkingSet is Usage without inactive file pages, never below zero: what the
	// kubelet evicts by.
	WorkingSet uint64
	RSS        uint64 // anonymous pages
	Cache      uint64 // file pages
	MappedFile uint64 // of Cache, what is mapped
	Kernel     uint64 // the kernel's own, for these processes
	Peak       uint64 // largest Usage so far; 0: not kept (v2 before Linux 5.19)
	LimitHits  uint64 // how often the limit was met
	Limit      uint64 // the tightest of all levels on v1, its own on v2; NoLimit
	// SwapCounted says that swap is accounted here; Swap and SwapLimit are of swap
	// alone, the latter NoLimit without one.
	SwapCounted     bool
	Swap, SwapLimit uint64
	// Faults include those of cgroups below; OwnFaults do not on v1.
	PageFaults, MajorFaults       uint64
	OwnPageFaults, OwnMajorFaults uint64
	Pressure                      *Pressure
}

// PidsUsage counts tasks (threads) against the limit, and processes.
type PidsUsage struct{ Current, Limit, Processes uint64 }

// IOUsage is traffic with one block device.
type IOUsage struct {
	Major, Minor          uint32
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// HugetlbUsage is what huge pages of one size take. Version 2 keeps no peak.
type HugetlbUsage struct {
	PageSize    string // as "2MB"
	Usage, Peak uint64
	PeakKept    bool
}

// Pressure is the kernel's stall information (PSI): shares of time in percent and
// total stall time.
type Pressure struct{ Some, Full Stall }

// Stall is one line of it.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Tree is where cgroups are mounted.
type Tree struct {
	Mode Version
	// Mounts has the mount point of each version 1 controller, and of version 2
	// under "".
	Mounts map[string]string
	// HugePageSizes are the sizes that the host counts, as "2MB".
	HugePageSizes []string
}

// membership is a hierarchy that tells who is in a cgroup.
func (t Tree) membership() hierarchy {
	if t.Mode != V2 {
		for _, h := range [...]hierarchy{hPids, hMemory, hCPUAcct, hCPU} {
			if t.Mounts[h.mounted()] != "" {
				return h
			}
		}
	}
	return unified
}

// Host is the tree of this machine.
func Host() Tree {
	h := host()
	return Tree{Mode: h.mode, Mounts: h.mounts, HugePageSizes: h.controllers.HugePageSizes}
}

// Stats reads a cgroup's counters, as an OCI runtime tells them; KindNotFound if
// it does not exist.
func Stats(path string) (*Usage, error) { return Host().Read(path, PartsCounted) }

// Read is Open, Read and Close.
func (t Tree) Read(path string, parts Parts) (*Usage, error) {
	h, err := t.Open(path)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.Read(parts)
}

// Limits are the settings of a cgroup that metrics show. NoLimit where there is
// none.
type Limits struct {
	// CPUShares is the version 1 number; on version 2 the smallest that gives the
	// weight which is set.
	CPUShares           uint64
	CPUPeriod, CPUQuota uint64 // microseconds; without a quota it is NoLimit
	Memory              uint64
	// MemorySwap is of swap alone on version 2, with memory on version 1.
	MemorySwap        uint64
	MemoryReservation uint64 // the soft limit, memory.min
	Tasks             uint64
}

// OOMKills counts the processes that the kernel killed in a cgroup, or below it
// on version 2, for want of memory. Read it before the cgroup goes.
func OOMKills(path string) (uint64, error) {
	in, file := hMemory, "memory.oom_control"
	if Unified() {
		in, file = unified, "memory.events"
	}
	if Host().Mounts[in.mounted()] == "" {
		return 0, errs.Unimplemented("cannot count out-of-memory kills: no memory controller")
	}
	h, err := Host().Open(path)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	var n uint64
	err = h.scan(false, func(s *scan) {
		s.in(in, func(g *group) { n = field(g.text(file), "oom_kill") })
	})
	return n, err
}
