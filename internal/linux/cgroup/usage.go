package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// NoLimit stands for "max" wherever a limit is read.
const NoLimit = math.MaxUint64

// Usage is what a cgroup and all below it have consumed. Sizes are in bytes,
// times in microseconds. Numbers the host does not keep are zero, pressure nil.
type Usage struct {
	Time   time.Time // when it was read
	CPU    CPUUsage
	Memory MemoryUsage
	Pids   PidsUsage
	IO     []IOUsage
	// IOPressure is io.pressure.
	IOPressure *Pressure
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
	WorkingSet  uint64
	RSS         uint64 // anonymous pages
	Limit       uint64 // the tightest of all levels on v1, its own on v2; NoLimit
	Swap        uint64
	SwapLimit   uint64 // of swap alone; NoLimit
	PageFaults  uint64
	MajorFaults uint64
	Pressure    *Pressure
}

// PidsUsage counts tasks.
type PidsUsage struct{ Current, Limit uint64 }

// IOUsage is traffic with one block device.
type IOUsage struct {
	Major, Minor          uint32
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
}

// Pressure is the kernel's stall information (PSI): shares of time in percent and
// total stall time.
type Pressure struct{ Some, Full Stall }

// Stall is one line of it.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Stats reads a cgroup's counters; KindNotFound if it does not exist.
func Stats(path string) (*Usage, error) {
	path, err := clean(path)
	if err != nil {
		return nil, err
	}
	if Unified() {
		return StatsV2(Root + path)
	}
	return statsV1(path)
}

// StatsV2 reads a version 2 cgroup by its whole path.
func StatsV2(dir string) (*Usage, error) {
	var buf [8192]byte
	cpu, err := read(buf[:], dir, "cpu.stat")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound("cgroup", dir)
	}
	u := &Usage{Time: time.Now()}
	eachField(cpu, func(key, value []byte) {
		switch string(key) {
		case "usage_usec":
			u.CPU.Total = number(value)
		case "user_usec":
			u.CPU.User = number(value)
		case "system_usec":
			u.CPU.System = number(value)
		case "nr_periods":
			u.CPU.Periods = number(value)
		case "nr_throttled":
			u.CPU.Throttled = number(value)
		case "throttled_usec":
			u.CPU.ThrottledMicro = number(value)
		}
	})
	memory, _ := read(buf[:], dir, "memory.stat")
	var inactive uint64
	eachField(memory, func(key, value []byte) {
		switch string(key) {
		case "anon":
			u.Memory.RSS = number(value)
		case "inactive_file":
			inactive = number(value)
		case "pgfault":
			u.Memory.PageFaults = number(value)
		case "pgmajfault":
			u.Memory.MajorFaults = number(value)
		}
	})
	u.Memory.Usage = value(buf[:], dir, "memory.current")
	u.Memory.WorkingSet = u.Memory.Usage - min(inactive, u.Memory.Usage)
	u.Memory.Limit = limit(buf[:], dir, "memory.max")
	u.Memory.Swap = value(buf[:], dir, "memory.swap.current")
	u.Memory.SwapLimit = limit(buf[:], dir, "memory.swap.max")
	u.Pids = PidsUsage{value(buf[:], dir, "pids.current"), limit(buf[:], dir, "pids.max")}
	u.IO = ioV2(buf[:], dir)
	u.CPU.Pressure = pressure(buf[:], dir, "cpu.pressure")
	u.Memory.Pressure = pressure(buf[:], dir, "memory.pressure")
	u.IOPressure = pressure(buf[:], dir, "io.pressure")
	return u, nil
}

// ioV2 reads lines such as "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func ioV2(buf []byte, dir string) (list []IOUsage) {
	data, _ := read(buf, dir, "io.stat")
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
		for _, f := range fields[1:] {
			key, val, _ := bytes.Cut(f, []byte{'='})
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
		}
		list = append(list, u)
	}
	return list
}

func statsV1(path string) (*Usage, error) {
	if !Exists(path) {
		return nil, errs.NotFound("cgroup", path)
	}
	var buf [8192]byte
	u := &Usage{Time: time.Now()}
	if dir := dirFor("cpuacct", path); dir != "" {
		u.CPU.Total = value(buf[:], dir, "cpuacct.usage") / 1000
		u.CPU.User = value(buf[:], dir, "cpuacct.usage_user") / 1000
		u.CPU.System = value(buf[:], dir, "cpuacct.usage_sys") / 1000
	}
	if dir := dirFor("cpu", path); dir != "" {
		data, _ := read(buf[:], dir, "cpu.stat")
		eachField(data, func(key, value []byte) {
			switch string(key) {
			case "nr_periods":
				u.CPU.Periods = number(value)
			case "nr_throttled":
				u.CPU.Throttled = number(value)
			case "throttled_time":
				u.CPU.ThrottledMicro = number(value) / 1000
			}
		})
	}
	if dir := dirFor("memory", path); dir != "" {
		memoryV1(buf[:], dir, &u.Memory)
	}
	if dir := dirFor("pids", path); dir != "" {
		u.Pids = PidsUsage{value(buf[:], dir, "pids.current"), limit(buf[:], dir, "pids.max")}
	}
	if dir := dirFor("blkio", path); dir != "" {
		u.IO = ioV1(buf[:], dir)
	}
	return u, nil
}

// unlimitedV1 is the smallest number version 1 means "no limit" by: the largest
// multiple of a page that fits; pages have up to 64 KiB.
const unlimitedV1 = math.MaxInt64 &^ (1<<16 - 1)

func memoryV1(buf []byte, dir string, m *MemoryUsage) {
	var inactive uint64
	memsw := uint64(NoLimit)
	m.Limit, m.SwapLimit = NoLimit, NoLimit
	data, _ := read(buf, dir, "memory.stat")
	eachField(data, func(key, value []byte) {
		n := number(value)
		switch string(key) {
		case "hierarchical_memory_limit":
			if n < unlimitedV1 {
				m.Limit = n
			}
		case "hierarchical_memsw_limit":
			if n < unlimitedV1 {
				memsw = n
			}
		case "total_rss":
			m.RSS = n
		case "total_inactive_file":
			inactive = n
		case "total_pgfault":
			m.PageFaults = n
		case "total_pgmajfault":
			m.MajorFaults = n
		}
	})
	m.Usage = value(buf, dir, "memory.usage_in_bytes")
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	if both := value(buf, dir, "memory.memsw.usage_in_bytes"); both > m.Usage {
		m.Swap = both - m.Usage
	}
	if memsw != NoLimit && m.Limit != NoLimit {
		m.SwapLimit = memsw - min(m.Limit, memsw)
	}
}

// ioV1 reads lines such as "8:0 Read 4096"; without a recursive file (old
// kernels) the plain one counts.
func ioV1(buf []byte, dir string) (list []IOUsage) {
	entry := func(major, minor uint32) *IOUsage {
		for i := range list {
			if list[i].Major == major && list[i].Minor == minor {
				return &list[i]
			}
		}
		list = append(list, IOUsage{Major: major, Minor: minor})
		return &list[len(list)-1]
	}
	for _, file := range [...]string{"blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"} {
		data, err := read(buf, dir, file+"_recursive")
		if err != nil {
			data, _ = read(buf, dir, file)
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
			switch file + " " + string(f[1]) {
			case "blkio.throttle.io_service_bytes Read":
				u.ReadBytes = n
			case "blkio.throttle.io_service_bytes Write":
				u.WriteBytes = n
			case "blkio.throttle.io_serviced Read":
				u.ReadOps = n
			case "blkio.throttle.io_serviced Write":
				u.WriteOps = n
			}
		}
	}
	return list
}

// OOMKills counts the processes that the kernel killed in a cgroup, or below it
// on version 2, for want of memory. Read it before the cgroup goes.
func OOMKills(path string) (uint64, error) {
	path, err := clean(path)
	if err != nil {
		return 0, err
	}
	dir, file := dirFor("memory", path), "memory.oom_control"
	if Unified() {
		file = "memory.events"
	}
	if dir == "" {
		return 0, errs.Unimplemented("cannot count out-of-memory kills: no memory controller")
	}
	var buf [1024]byte
	data, err := read(buf[:], dir, file)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return 0, errs.NotFound("cgroup", path)
		}
		return 0, err
	}
	var n uint64
	eachField(data, func(key, value []byte) {
		if string(key) == "oom_kill" {
			n = number(value)
		}
	})
	return n, nil
}

func pressure(buf []byte, dir, file string) *Pressure {
	data, err := read(buf, dir, file)
	if err != nil || len(data) == 0 {
		return nil
	}
	p := &Pressure{}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		stall := &p.Some
		if string(f[0]) == "full" {
			stall = &p.Full
		}
		for _, part := range f[1:] {
			key, val, _ := bytes.Cut(part, []byte{'='})
			switch string(key) {
			case "avg10":
				stall.Avg10, _ = strconv.ParseFloat(string(val), 64)
			case "avg60":
				stall.Avg60, _ = strconv.ParseFloat(string(val), 64)
			case "avg300":
				stall.Avg300, _ = strconv.ParseFloat(string(val), 64)
			case "total":
				stall.Total = number(val)
			}
		}
	}
	return p
}

// read reads a control file into buf, which it grows if it must. One open, one
// read, one close: statistics of hundreds of containers are made of this.
func read(buf []byte, dir, file string) ([]byte, error) {
	path := filepath.Join(dir, file)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n := 0
	for {
		if n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		m, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case m == 0:
			return buf[:n], nil
		}
		n += m
	}
}

func value(buf []byte, dir, file string) uint64 {
	data, err := read(buf, dir, file)
	if err != nil {
		return 0
	}
	return number(bytes.TrimSpace(data))
}

func limit(buf []byte, dir, file string) uint64 {
	data, err := read(buf, dir, file)
	if data = bytes.TrimSpace(data); err != nil || string(data) == "max" {
		return NoLimit
	}
	return number(data)
}

// number reads a decimal; anything else is 0.
func number(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(b), 10, 64)
	return n
}

func device(b []byte) (major, minor uint32, ok bool) {
	a, c, ok := bytes.Cut(b, []byte{':'})
	x, err := strconv.ParseUint(string(a), 10, 32)
	y, err2 := strconv.ParseUint(string(c), 10, 32)
	return uint32(x), uint32(y), ok && err == nil && err2 == nil
}

func eachField(data []byte, f func(key, value []byte)) {
	for line := range bytes.Lines(data) {
		if key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '}); ok {
			f(key, value)
		}
	}
}
