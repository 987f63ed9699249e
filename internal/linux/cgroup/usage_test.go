package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// fake writes files, and in each folder the list of processes that every cgroup has, named "hierarchy/file", of cgroup /a/b below a folder and
// returns that folder.
func fake(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.Dir(name), "a/b", filepath.Base(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), "cgroup.procs"), []byte("10\n11\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const partsAll = PartsCounted | PartMemoryMore | PartProcesses | PartHugetlb

func check(t *testing.T, tree Tree, want *Usage) {
	t.Helper()
	got, err := tree.Read("/a/b", partsAll)
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(got.Time) > time.Hour {
		t.Errorf("it was read %v", got.Time)
	}
	got.Time = time.Time{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for _, path := range []string{"/a/absent", "/absent"} {
		if _, err := tree.Read(path, partsAll); !errs.Is(err, errs.KindNotFound) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := tree.Read("/a/../b", partsAll); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a path that leaves the tree: %v", err)
	}
}

// As Linux 6.18 writes them, shortened.
var filesV2 = map[string]string{
	"u/cpu.stat":            "usage_usec 1000\nuser_usec 600\nsystem_usec 400\nnice_usec 0\nnr_periods 3\nnr_throttled 2\nthrottled_usec 50\nnr_bursts 0\n",
	"u/memory.current":      "5000\n",
	"u/memory.stat":         "anon 3000\nfile 2000\nkernel 700\nkernel_stack 300\nfile_mapped 44\ninactive_file 1500\npgfault 11\npgmajfault 2\n",
	"u/memory.max":          "max\n",
	"u/memory.peak":         "6000\n",
	"u/memory.events":       "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n",
	"u/memory.swap.current": "7\n",
	"u/memory.swap.max":     "100\n",
	"u/pids.current":        "4\n",
	"u/pids.max":            "max\n",
	"u/io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n253:1 \n8:16 rbytes=9\n",
	"u/cpu.pressure":        "some avg10=1.50 avg60=2.00 avg300=0.10 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
	"u/memory.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=2\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
	"u/hugetlb.2MB.current": "4194304\n",
	"u/cpu.weight":          "100\n",
	"u/cpu.max":             "20000 100000\n",
	"u/memory.min":          "0\n",
}

func TestReadV2(t *testing.T) {
	root := fake(t, filesV2)
	tree := Tree{Mode: V2, Mounts: map[string]string{"": root + "/u"}, HugePageSizes: []string{"2MB", "1GB"}}
	check(t, tree, &Usage{
		CPU: CPUUsage{Total: 1000, User: 600, System: 400, Periods: 3, Throttled: 2, ThrottledMicro: 50, Pressure: &Pressure{
			Some: Stall{1.5, 2, 0.1, 12345}, Full: Stall{Total: 1},
		}},
		Memory: MemoryUsage{Usage: 5000, WorkingSet: 3500, RSS: 3000, Cache: 2000, MappedFile: 44, Kernel: 700, Peak: 6000, LimitHits: 5, Limit: NoLimit,
			SwapCounted: true, Swap: 7, SwapLimit: 100, PageFaults: 11, OwnPageFaults: 11, MajorFaults: 2, OwnMajorFaults: 2,
			Pressure: &Pressure{Some: Stall{Total: 2}, Full: Stall{Total: 3}}},
		Pids:     PidsUsage{Current: 4, Limit: NoLimit, Processes: 2},
		IO:       []IOUsage{{Major: 8, ReadBytes: 1, WriteBytes: 2, ReadOps: 3, WriteOps: 4}, {Major: 8, Minor: 16, ReadBytes: 9}},
		Hugetlb:  []HugetlbUsage{{PageSize: "2MB", Usage: 4194304}},
		OOMKills: 1,
	})
	h, err := tree.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l, err := h.Limits()
	if err != nil {
		t.Fatal(err)
	}
	if WeightOf(l.CPUShares) != 100 || WeightOf(l.CPUShares-1) == 100 {
		t.Errorf("%d shares do not give the weight 100, or are not the fewest", l.CPUShares)
	}
	l.CPUShares = 0
	if want := (Limits{CPUPeriod: 100000, CPUQuota: 20000, Memory: NoLimit, MemorySwap: 100, Tasks: NoLimit}); l != want {
		t.Errorf("limits %+v, want %+v", l, want)
	}
}

func filesV1() map[string]string {
	return map[string]string{
		"cpuacct/cpuacct.usage":                           "5000000\n",
		"cpuacct/cpuacct.usage_user":                      "3000000\n",
		"cpuacct/cpuacct.usage_sys":                       "2000000\n",
		"cpu/cpu.stat":                                    "nr_periods 3\nnr_throttled 2\nthrottled_time 50000\n",
		"cpu/cpu.shares":                                  "1024\n",
		"cpu/cpu.cfs_period_us":                           "100000\n",
		"cpu/cpu.cfs_quota_us":                            "-1\n",
		"memory/memory.usage_in_bytes":                    "5000\n",
		"memory/memory.max_usage_in_bytes":                "6000\n",
		"memory/memory.failcnt":                           "5\n",
		"memory/memory.kmem.usage_in_bytes":               "700\n",
		"memory/memory.oom_control":                       "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"memory/memory.limit_in_bytes":                    "67108864\n",
		"memory/memory.memsw.limit_in_bytes":              "9223372036854771712\n",
		"memory/memory.soft_limit_in_bytes":               "9223372036854771712\n",
		"memory/memory.stat":                              "cache 1\nrss 2\nmapped_file 3\nswap 4\npgfault 5\npgmajfault 6\ninactive_file 7\nhierarchical_memory_limit 4000000\nhierarchical_memsw_limit 4000100\ntotal_cache 2000\ntotal_rss 3000\ntotal_mapped_file 44\ntotal_swap 7\ntotal_pgfault 11\ntotal_pgmajfault 2\ntotal_inactive_file 1500\n",
		"pids/pids.current":                               "4\n",
		"pids/pids.max":                                   "100\n",
		"blkio/blkio.throttle.io_service_bytes":           "8:0 Read 77\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 3\n8:16 Read 9\nTotal 12\n",
		"blkio/blkio.throttle.io_serviced":                "8:0 Read 3\n8:0 Write 4\n8:0 Total 7\nTotal 7\n",
		"hugetlb/hugetlb.2MB.usage_in_bytes":              "4194304\n",
		"hugetlb/hugetlb.2MB.max_usage_in_bytes":          "8388608\n",
	}
}

func mountsBelow(root string, names ...string) map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = filepath.Join(root, n)
	}
	return m
}

func TestReadV1(t *testing.T) {
	root := fake(t, filesV1())
	tree := Tree{Mode: V1, Mounts: mountsBelow(root, "cpuacct", "cpu", "memory", "pids", "blkio", "hugetlb"), HugePageSizes: []string{"2MB", "1GB"}}
	want := &Usage{
		CPU: CPUUsage{Total: 5000, User: 3000, System: 2000, Periods: 3, Throttled: 2, ThrottledMicro: 50},
		Memory: MemoryUsage{Usage: 5000, WorkingSet: 3500, RSS: 3000, Cache: 2000, MappedFile: 44, Kernel: 700, Peak: 6000, LimitHits: 5, Limit: 4000000,
			SwapCounted: true, Swap: 7, SwapLimit: 100, PageFaults: 11, OwnPageFaults: 5, MajorFaults: 2, OwnMajorFaults: 6},
		Pids:     PidsUsage{Current: 4, Limit: 100, Processes: 2},
		IO:       []IOUsage{{Major: 8, ReadBytes: 1, WriteBytes: 2, ReadOps: 3, WriteOps: 4}, {Major: 8, Minor: 16, ReadBytes: 9}},
		Hugetlb:  []HugetlbUsage{{PageSize: "2MB", Usage: 4194304, Peak: 8388608, PeakKept: true}},
		OOMKills: 1,
	}
	check(t, tree, want)
	h, err := tree.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l, err := h.Limits()
	if w := (Limits{CPUShares: 1024, CPUPeriod: 100000, CPUQuota: NoLimit, Memory: 64 << 20, MemorySwap: NoLimit, MemoryReservation: NoLimit, Tasks: 100}); err != nil || l != w {
		t.Errorf("limits %+v, want %+v, %v", l, w, err)
	}
	// A controller that is not mounted leaves zeros.
	delete(tree.Mounts, "blkio")
	delete(tree.Mounts, "hugetlb")
	want.IO, want.Hugetlb = nil, nil
	check(t, tree, want)
}

// TestReadHybrid: pressure is in the version 2 tree, and counts only if the processes
// are in there.
func TestReadHybrid(t *testing.T) {
	files := filesV1()
	for _, name := range []string{"cpu.stat", "cpu.pressure", "memory.pressure"} {
		files["unified/"+name] = filesV2["u/"+name]
	}
	root := fake(t, files)
	tree := Tree{Mode: Hybrid, Mounts: mountsBelow(root, "cpuacct", "memory")}
	tree.Mounts[""] = root + "/unified"
	u, err := tree.Read("/a/b", PartCPU|PartMemory|PartPressure)
	if err != nil || u.CPU.Total != 1000 || u.CPU.Pressure == nil || u.CPU.Pressure.Some.Total != 12345 || u.Memory.Pressure == nil || u.IOPressure != nil {
		t.Errorf("%+v, %v", u, err)
	}
	empty := "usage_usec 0\nuser_usec 0\n"
	if err := os.WriteFile(root+"/unified/a/b/cpu.stat", []byte(empty), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := tree.Read("/a/b", PartCPU|PartPressure); err != nil || u.CPU.Total != 5000 || u.CPU.Pressure != nil {
		t.Errorf("of a cgroup that nobody is in: %+v, %v", u, err)
	}
}

// TestVanishing: a cgroup that goes away while it is read gives no zeros, and one that is
// made again is found.
func TestVanishing(t *testing.T) {
	root := fake(t, filesV1())
	tree := Tree{Mode: V1, Mounts: mountsBelow(root, "cpuacct", "memory")}
	h, err := tree.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	read := func() (*Usage, error) { return h.Read(PartCPU | PartMemory) }
	if _, err := read(); err != nil {
		t.Fatal(err)
	}
	os.Remove(root + "/memory/a/b/memory.stat")
	if u, err := read(); err != nil || u.CPU.Total != 5000 || u.Memory.Usage != 5000 {
		t.Errorf("a cgroup without one file: %+v, %v", u, err)
	}
	// The folders are open when the cgroup is removed: nothing is found in them.
	for _, c := range []string{"/cpuacct", "/memory"} {
		os.Rename(root+c, root+c+"-old")
		os.RemoveAll(root + c + "-old/a/b")
	}
	if u, err := read(); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("a cgroup that was removed: %+v, %v", u, err)
	}
	os.MkdirAll(root+"/cpuacct/a/b", 0o700)
	for name, text := range map[string]string{"cpuacct.usage": "7000\n", "cgroup.procs": ""} {
		if err := os.WriteFile(root+"/cpuacct/a/b/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := read(); err != nil || u.CPU.Total != 7 || u.Memory.Usage != 0 {
		t.Errorf("a cgroup that was made again without the memory controller: %+v, %v", u, err)
	}
}

func TestProcessesOfSubtree(t *testing.T) {
	root := fake(t, map[string]string{"pids/pids.max": "max\n"})
	if err := os.WriteFile(root+"/pids/a/b/cgroup.procs", []byte("10\n0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(root, "pids/a/b/c/d")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sub+"/cgroup.procs", []byte("12\n13\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := Tree{Mode: V1, Mounts: mountsBelow(root, "pids")}
	open := func(path string) *Handle {
		h, err := tree.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(h.Close)
		return h
	}
	pids, err := open("/a/b").Processes()
	if slices.Sort(pids); err != nil || !slices.Equal(pids, []int{10, 12, 13}) {
		t.Errorf("%v, %v", pids, err)
	}
	if u, err := tree.Read("/a/b", PartProcesses); err != nil || u.Pids.Processes != 4 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := open("/absent").Processes(); !errs.Is(err, errs.KindNotFound) {
		t.Error(err)
	}
}

// TestHandleStuck: a reading that hangs keeps neither another reading nor Close, and the
// descriptors go when it ends.
func TestHandleStuck(t *testing.T) {
	root := fake(t, filesV2)
	if err := os.Remove(root + "/u/a/b/cpu.stat"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(root+"/u/a/b/cpu.stat", 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := Tree{Mode: V2, Mounts: map[string]string{"": root + "/u"}}.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	stuck := make(chan uint64)
	go func() {
		u, err := h.Read(PartCPU)
		if err != nil {
			t.Error(err)
			close(stuck)
			return
		}
		stuck <- u.CPU.Total
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		n := h.users
		h.mu.Unlock()
		if n > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the reading does not begin")
		}
	}
	if u, err := h.Read(PartMemory); err != nil || u.Memory.Usage != 5000 {
		t.Errorf("beside a reading that hangs: %+v, %v", u, err)
	}
	h.Close()
	if err := os.WriteFile(root+"/u/a/b/cpu.stat", []byte("usage_usec 9\n"), 0); err != nil { // frees the reader
		t.Fatal(err)
	}
	if got := <-stuck; got != 9 {
		t.Errorf("it read %d", got)
	}
	if h.folders != [hierarchies]int{} {
		t.Errorf("descriptors %v are left", h.folders)
	}
}

// TestManyProcesses: a list of several pages, of a real cgroup.
func TestManyProcesses(t *testing.T) {
	path := fresh(t)
	if err := CreateParent(context.Background(), Cgroupfs, path, nil); err != nil {
		t.Fatal(err)
	}
	// One shell in the cgroup begets many, which end with their input: pids of mostly
	// four digits, more than a page of them.
	const many = 1100
	cmd := exec.Command("sh", "-c", fmt.Sprintf("read x; exec 3<&0; i=1; while [ $i -lt %d ]; do (read y <&3) & i=$((i+1)); done; wait", many))
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if err := Place(cmd.Process.Pid, path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in)
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		h, err := Host().Open(path)
		if err != nil {
			t.Fatal(err)
		}
		pids, err := h.Processes()
		u, err2 := h.Read(PartProcesses)
		h.Close()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if slices.Sort(pids); len(slices.Compact(pids)) != len(pids) {
			t.Fatal("a process is counted twice")
		}
		if len(pids) == many && u.Pids.Processes == many {
			return
		}
		if len(pids) > many || time.Now().After(end) {
			t.Fatalf("%d processes, then %d; there are %d", len(pids), u.Pids.Processes, many)
		}
	}
}

// TestKeeper: files that are kept open tell what is in them now; so many and no more are
// kept, and none when the handle rests or its cgroup is gone.
func TestKeeper(t *testing.T) {
	root := fake(t, filesV2)
	tree := Tree{Mode: V2, Mounts: map[string]string{"": root + "/u"}}
	keeper := NewKeeper(5)
	h, err := tree.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	const parts = PartCPU | PartMemory | PartProcesses
	h.Keep(keeper, parts)
	read := func(p Parts, cpu uint64) {
		t.Helper()
		if u, err := h.Read(p); err != nil || u.CPU.Total != cpu {
			t.Errorf("%+v, %v, want %d", u, err, cpu)
		}
	}
	kept := func(n int) {
		t.Helper()
		if len(h.files) != n || keeper.open.Load() != int64(n) {
			t.Errorf("%d files are kept, the keeper knows %d, want %d", len(h.files), keeper.open.Load(), n)
		}
	}
	read(PartCPU|PartTasks, 1000)
	kept(0) // the tasks were not to be kept
	read(PartCPU, 1000)
	kept(1)
	if err := os.WriteFile(root+"/u/a/b/cpu.stat", []byte("usage_usec 2000000\nuser_usec 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	read(PartCPU, 2000000)
	read(parts, 2000000)
	kept(5) // of seven
	other, err := tree.Open("/a/b")
	if err != nil {
		t.Fatal(err)
	}
	other.Keep(keeper, parts)
	if u, err := other.Read(parts); err != nil || u.Memory.Usage != 5000 || u.Pids.Processes != 2 || len(other.files) != 0 {
		t.Errorf("when the keeper is full: %+v, %v, %d files", u, err, len(other.files))
	}
	h.Rest()
	kept(0)
	if h.folders != [hierarchies]int{} {
		t.Errorf("folders %v are open", h.folders)
	}
	read(parts, 2000000)
	kept(5)
	os.RemoveAll(root + "/u/a/b")
	if _, err := h.Read(PartProcesses | PartTasks); !errs.Is(err, errs.KindNotFound) {
		t.Error(err)
	}
	kept(0)
	h.Close()
	other.Close()
}

// FuzzFiles: no text of a control file makes the parsers fail, and none gives a
// working set above the usage or a share of time that is no percentage.
func FuzzFiles(f *testing.F) {
	for _, text := range filesV2 {
		f.Add([]byte(text))
	}
	for _, text := range filesV1() {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c CPUUsage
		cpuV2(data, &c)
		throttledV1(data, &c)
		for _, read := range []func([]byte, *MemoryUsage){memoryV1, memoryV2} {
			m := MemoryUsage{Usage: 100}
			read(data, &m)
			if m.WorkingSet > m.Usage {
				t.Errorf("working set %d of %d", m.WorkingSet, m.Usage)
			}
		}
		if list := ioV1(data, true, nil); len(ioV1(data, false, list)) != len(list) {
			t.Error("the same devices are counted twice")
		}
		ioV2(data)
		limitOf(data)
		field(data, "oom_kill")
		if p := pressure(data); p != nil {
			for _, a := range []float64{p.Some.Avg10, p.Some.Avg60, p.Some.Avg300, p.Full.Avg10, p.Full.Avg60, p.Full.Avg300} {
				if !(a >= 0 && a <= 100) {
					t.Errorf("%v percent", a)
				}
			}
		}
	})
}
