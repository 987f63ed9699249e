package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
)

func TestParentPath(t *testing.T) {
	for _, c := range []struct {
		d          Driver
		parent     string
		want, kind string
	}{
		{Cgroupfs, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1", ""},
		{Cgroupfs, "kubepods//pod1/", "/kubepods/pod1", ""},
		{Cgroupfs, "", "/", ""},
		{Cgroupfs, "kubepods.slice", "", "invalid"},
		{Cgroupfs, "/a/../../b", "", "invalid"},
		{Cgroupfs, "/a/./b", "", "invalid"},
		{Cgroupfs, "/a:b", "", "invalid"},
		{Cgroupfs, "/a\nb", "", "invalid"},
		{Cgroupfs, "/" + strings.Repeat("x", 256), "", "invalid"},
		{Systemd, "kubepods-burstable-pod1.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice", ""},
		{Systemd, "/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice", ""},
		{Systemd, "/other.slice/kubepods-pod1.slice", "", "invalid"},
		{Systemd, "-.slice", "/", ""},
		{Systemd, "", "/system.slice", ""},
		{Systemd, "/kubepods/pod1", "", "invalid"},
		{Systemd, "a--b.slice", "", "invalid"},
		{Systemd, ".slice", "", "invalid"},
		{Systemd, "../x.slice", "", "invalid"},
	} {
		got, err := ParentPath(c.d, c.parent)
		if got != c.want && c.kind == "" || (c.kind != "") != errs.Is(err, errs.KindInvalid) {
			t.Errorf("%v %q: %q, %v", c.d, c.parent, got, err)
		}
	}
}

func TestContainerPath(t *testing.T) {
	for _, c := range []struct {
		d                        Driver
		parent, oci, path, other string
	}{
		{Cgroupfs, "/pods/p", "/pods/p/crio-id", "/pods/p/crio-id", ""},
		{Cgroupfs, "/", "/crio-id", "/crio-id", ""},
		{Systemd, "/a.slice/a-b.slice", "a-b.slice:crio:id", "/a.slice/a-b.slice/crio-id.scope", ""},
		{Systemd, "/", "-.slice:crio:id", "/crio-id.scope", ""},
	} {
		got := ContainerPath(c.d, c.parent, "crio", "id")
		path, err := Path(c.d, got)
		if got != c.oci || path != c.path || err != nil {
			t.Errorf("%v %q: %q, %q, %v", c.d, c.parent, got, path, err)
		}
	}
	for _, bad := range []string{"", "a:b", "x:y:z", "a.slice:b:", "a.slice:b:../c"} {
		if p, err := Path(Systemd, bad); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%q: %q, %v", bad, p, err)
		}
	}
}

func TestDriver(t *testing.T) {
	for _, d := range []Driver{Cgroupfs, Systemd} {
		if got, err := ParseDriver(d.String()); got != d || err != nil {
			t.Errorf("%v: %v, %v", d, got, err)
		}
	}
	if _, err := ParseDriver("Systemd"); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("%v", err)
	}
}

// TestBadPaths: nothing may touch the root or leave the tree.
func TestBadPaths(t *testing.T) {
	ctx := context.Background()
	for _, p := range []string{"", "/", "a", "/a/../b", "/..", "/a/", "//a", "/a\x00"} {
		for name, err := range map[string]error{
			"create": CreateParent(ctx, Cgroupfs, p, nil), "remove": Remove(ctx, Cgroupfs, p),
			"kill": KillAll(ctx, p), "place": Place(os.Getpid(), p),
		} {
			if !errs.Is(err, errs.KindInvalid) {
				t.Errorf("%s %q: %v", name, p, err)
			}
		}
	}
	if err := KillDir(ctx, "/etc"); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("%v", err)
	}
}

func TestMerge(t *testing.T) {
	limit, shares, pids := int64(100), uint64(1024), int64(7)
	r := cgroups.Resources{CpuQuota: 5, CpusetCpus: "0", Memory: 50}
	Merge(&r, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Shares: &shares}, Pids: &specs.LinuxPids{Limit: &pids},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}, Unified: map[string]string{"memory.high": "1"},
	})
	if r.Memory != 100 || r.CpuShares != 1024 || r.CpuWeight == 0 || r.CpuQuota != 5 || r.CpusetCpus != "0" ||
		*r.PidsLimit != 7 || len(r.HugetlbLimit) != 0 || r.Unified["memory.high"] != "1" {
		t.Errorf("%+v", r)
	}
	unlimited := int64(-1)
	Merge(&r, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &unlimited}})
	if r.Memory != -1 || r.MemorySwap != -1 {
		t.Errorf("unlimited memory: %+v", r)
	}
}

var count atomic.Int32

// fresh returns the path of a cgroup that is removed when the test ends.
func fresh(t *testing.T) string {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	// Pid namespaces repeat pids, cgroups see them all: the name is random.
	path := fmt.Sprintf("/monocrio-test-%s-%d", ident.Short(ident.New()), count.Add(1))
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(KillAll(ctx, path), Remove(ctx, Cgroupfs, path)); err != nil {
			t.Error(err)
		}
		if Exists(path) {
			t.Errorf("%s is left", path)
		}
	})
	return path
}

// member starts a shell that makes two children and waits, inside a cgroup.
func member(t *testing.T, path string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", "read x; sleep 1000 & sleep 1000 & wait")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := Place(cmd.Process.Pid, path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		pids, err := Processes(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 3 && slices.Contains(pids, cmd.Process.Pid) {
			return cmd
		}
		if time.Now().After(end) {
			t.Fatalf("processes are %v", pids)
		}
	}
}

func TestLife(t *testing.T) {
	ctx := context.Background()
	path := fresh(t)
	if pids, err := Processes(path); len(pids) != 0 || err != nil {
		t.Errorf("before: %v, %v", pids, err)
	}
	if _, err := Stats(path); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("statistics of nothing: %v", err)
	}
	if err := errors.Join(Remove(ctx, Cgroupfs, path), KillAll(ctx, path)); err != nil {
		t.Errorf("removal of nothing: %v", err)
	}
	for range 2 { // the second time it exists
		if err := CreateParent(ctx, Cgroupfs, path, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range Dirs(path) {
		if _, err := os.Stat(dir); err != nil {
			if !strings.Contains(dir, "/unified/") {
				t.Error(err)
			}
		}
	}
	cmd := member(t, path+"/sub")
	if got, err := Of(cmd.Process.Pid); got != path+"/sub" || err != nil {
		t.Errorf("cgroup of the process: %q, %v", got, err)
	}
	if err := Remove(ctx, Cgroupfs, path); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("removal of an occupied cgroup: %v", err)
	}
	if err := KillAll(ctx, path); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process was not killed")
	}
	if err := Remove(ctx, Cgroupfs, path); err != nil || Exists(path) {
		t.Errorf("removal: %v", err)
	}
	if err := Remove(ctx, Cgroupfs, path); err != nil {
		t.Errorf("second removal: %v", err)
	}
}

func TestKillForks(t *testing.T) {
	path := fresh(t)
	// Each shell begets another and ends: a list of pids is always too old.
	cmd := exec.Command("sh", "-c", `read x; f() { f & exit; }; f`)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	if err := Place(cmd.Process.Pid, path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in)
	time.Sleep(50 * time.Millisecond)
	if err := KillAll(context.Background(), path); err != nil {
		t.Fatal(err)
	}
	if pids, _ := Processes(path); len(pids) > 0 {
		var left []int
		for _, p := range pids {
			if s := state(p); s != 'Z' && s != 0 {
				left = append(left, p)
			}
		}
		if len(left) > 0 {
			t.Errorf("%v live on", left)
		}
	}
}

func TestLimitsAndUsage(t *testing.T) {
	a := Available()
	if !a.Has("memory") || !a.Has("pids") {
		t.Skipf("this host's controllers are %v", a.Names)
	}
	ctx := context.Background()
	path := fresh(t)
	limit, pids := int64(32<<20), int64(20)
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Pids: &specs.LinuxPids{Limit: &pids}}
	if err := SetLimits(ctx, Cgroupfs, path, r); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("limits of nothing: %v", err)
	}
	if err := CreateParent(ctx, Cgroupfs, path, r); err != nil {
		t.Fatal(err)
	}
	cmd := member(t, path)
	u, err := Stats(path)
	if err != nil {
		t.Fatal(err)
	}
	if u.Memory.Limit != uint64(limit) || u.Pids.Limit != uint64(pids) || u.Pids.Current != 3 || u.Memory.Usage == 0 ||
		u.Memory.WorkingSet > u.Memory.Usage || time.Since(u.Time) > time.Minute {
		t.Errorf("%+v", u)
	}
	if n, err := OOMKills(path); n != 0 || err != nil {
		t.Errorf("out-of-memory kills: %d, %v", n, err)
	}
	if err := KillAll(ctx, path); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	limit = 4 << 20
	if err := SetLimits(ctx, Cgroupfs, path, r); err != nil {
		t.Fatal(err)
	}
	eater := exec.Command("sh", "-c", "read x; dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; exit $?")
	in, _ := eater.StdinPipe()
	if err := eater.Start(); err != nil {
		t.Fatal(err)
	}
	err = Place(eater.Process.Pid, path)
	fmt.Fprintln(in)
	if werr := eater.Wait(); err != nil || werr == nil {
		t.Fatalf("placing: %v; ended: %v", err, werr)
	}
	if n, err := OOMKills(path); n == 0 || err != nil {
		t.Errorf("out-of-memory kills: %d, %v", n, err)
	}
	if u, err = Stats(path); err != nil || u.CPU.Total == 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestOpenDir(t *testing.T) {
	path := fresh(t)
	if err := CreateParent(context.Background(), Cgroupfs, path, nil); err != nil {
		t.Fatal(err)
	}
	f, err := OpenDir(path)
	if !Unified() {
		if !errs.Is(err, errs.KindUnimplemented) {
			t.Errorf("%v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := OpenDir(path + "/absent"); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("%v", err)
	}
}

// TestV2 runs the tests above on a version 2 tree (see ocitest.Again).
func TestV2(t *testing.T) {
	if os.Geteuid() != 0 || Mode() != Hybrid {
		t.Skip("this needs root and a host with both versions")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t cgroup2 none /sys/fs/cgroup && exec "$@"`, "sh", self, "-test.run=Life|KillForks|OpenDir|Place").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func BenchmarkStats(b *testing.B) {
	path, err := Of(os.Getpid())
	if err != nil || path == "/" {
		b.Skip("this process is in no cgroup of its own")
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Stats(path); err != nil {
			b.Fatal(err)
		}
	}
}
