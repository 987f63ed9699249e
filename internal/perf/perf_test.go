package perf

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// node is a tree of files that stands for a node of eight processors, two threads each
// core.
type node struct {
	t *testing.T
	*Tuner
	root    string
	rereads int
	v2      bool
}

func newNode(t *testing.T, v2 bool) *node {
	n := &node{t: t, root: t.TempDir(), v2: v2}
	for i := range 8 {
		n.set(cpuFile(i, "power/pm_qos_resume_latency_us"), "0")
		n.set(cpuFile(i, "cpufreq/scaling_governor"), "powersave")
		n.set(cpuFile(i, "cpufreq/scaling_available_governors"), "performance powersave")
		n.set(cpuFile(i, "topology/thread_siblings_list"), cpus{i &^ 1, i | 1}.String())
	}
	n.set("/proc/irq/default_smp_affinity", "ff")
	n.set("/proc/irq/1/smp_affinity", "ff")
	n.set("/proc/irq/2/smp_affinity", "0f")
	n.set("/proc/irq/3/smp_affinity", "03")
	n.set("/proc/irq/4/smp_affinity", "04") // the first of the containers' processors alone
	n.set("/etc/irqbalance", "# own\nIRQBALANCE_ARGS=x\n")
	for _, d := range []string{"/cg/pod/a", "/cg/pod/b", "/cg/pod", "/cg"} {
		if v2 {
			n.set(d+"/cpu.max", map[bool]string{true: "50000 100000", false: "max 100000"}[d == "/cg/pod"])
			if d != "/cg" {
				n.set(d+"/cpuset.cpus.exclusive", "")
				n.set(d+"/cpuset.cpus.partition", "member")
			}
		} else {
			n.set(d+"/cpu.cfs_quota_us", map[bool]string{true: "50000", false: "-1"}[d == "/cg/pod"])
			n.set(d+"/cpuset.sched_load_balance", "1")
		}
	}
	n.Tuner = New(n.options())
	return n
}

func (n *node) options() Options {
	return Options{Root: n.root, Bundles: filepath.Join(n.root, "bundles"), Unified: n.v2, IRQBalance: "/etc/irqbalance", Restore: "/etc/before",
		Cgroup: func(_, path string) (string, error) { return path, nil }, Reread: func() error { n.rereads++; return nil }, Log: slog.New(slog.DiscardHandler)}
}

func (n *node) set(path, text string) {
	n.t.Helper()
	path = n.root + path
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text+"\n"), 0o644)); err != nil {
		n.t.Fatal(err)
	}
}

// tree is all that is in the node's files.
func (n *node) tree() map[string]string {
	out := map[string]string{}
	for _, top := range []string{"/proc", "/sys", "/etc/irqbalance", "/cg"} {
		err := filepath.WalkDir(n.root+top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				data, e := os.ReadFile(path)
				out[strings.TrimPrefix(path, n.root)], err = strings.TrimSpace(string(data)), e
			}
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
	}
	return out
}

// differ lists files that are not as in before.
func (n *node) differ(before map[string]string) []string {
	var out []string
	for path, v := range n.tree() {
		if before[path] != v {
			out = append(out, path+" = "+v)
		}
	}
	slices.Sort(out)
	return out
}

func everything(irq string) map[string]string {
	return map[string]string{annotation.CPULoad: "disable", annotation.CPUQuota: "disable", annotation.IRQLoad: irq,
		annotation.CPUCStates: "max_latency:7", annotation.CPUGovernor: "performance"}
}

func acting(m map[string]string) annotation.Acting {
	return annotation.Allowed(slices.Collect(maps.Keys(m))).Acting(m)
}

// create prepares a container and writes its bundle.
func (n *node) create(id, list string, want map[string]string) *specs.Spec {
	n.t.Helper()
	s := &specs.Spec{Root: &specs.Root{Path: n.root}, Process: &specs.Process{}, Linux: &specs.Linux{CgroupsPath: "/cg/pod/" + id,
		Resources: &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: list, Quota: new(int64(20000))}}}}
	if err := n.Prepare(id, acting(want), "main", "", s); err != nil {
		n.t.Fatal(err)
	}
	dir := filepath.Join(n.o.Bundles, id)
	if err := errors.Join(os.MkdirAll(dir, 0o700), oci.WriteBundle(dir, s)); err != nil {
		n.t.Fatal(err)
	}
	return s
}

// inner stands for the runtime below.
type inner struct {
	oci.Runtime
	fail  error
	limit *specs.LinuxResources
}

func (i *inner) Start(context.Context, string) error        { return i.fail }
func (i *inner) Delete(context.Context, string, bool) error { return i.fail }
func (i *inner) Update(_ context.Context, _ string, l *specs.LinuxResources) error {
	i.limit = l
	return i.fail
}

func TestLifeV1(t *testing.T) { testLife(t, false) }
func TestLifeV2(t *testing.T) { testLife(t, true) }

// What one container gets, and that nothing of it is left.
func testLife(t *testing.T, v2 bool) {
	n := newNode(t, v2)
	before := n.tree()
	if s := n.create("a", "2-3", everything(Disable)); *s.Linux.Resources.CPU.Quota != -1 {
		t.Error("the quota stays in the specification")
	}
	r := Runtime{&inner{}, n.Tuner}
	if d := n.differ(before); len(d) > 0 {
		t.Errorf("changed before the start: %v", d)
	}
	if err := r.Start(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	want := []string{"/proc/irq/1/smp_affinity = f3", "/proc/irq/2/smp_affinity = 03", "/proc/irq/4/smp_affinity = f3", "/proc/irq/default_smp_affinity = f3",
		cpuFile(2, "cpufreq/scaling_governor") + " = performance", cpuFile(2, "power/pm_qos_resume_latency_us") + " = 7",
		cpuFile(3, "cpufreq/scaling_governor") + " = performance", cpuFile(3, "power/pm_qos_resume_latency_us") + " = 7",
		"/etc/irqbalance = # own\nIRQBALANCE_ARGS=x\n\n" + ours + "IRQBALANCE_BANNED_CPUS=\"c\""}
	if v2 {
		want = append(want, "/cg/pod/cpu.max = max 100000", "/cg/pod/cpuset.cpus.exclusive = 2-3", "/cg/pod/a/cpuset.cpus.exclusive = 2-3", "/cg/pod/a/cpuset.cpus.partition = isolated")
	} else {
		want = append(want, "/cg/pod/cpu.cfs_quota_us = -1", "/cg/pod/a/cpuset.sched_load_balance = 0")
	}
	slices.Sort(want)
	if d := n.differ(before); !slices.Equal(d, want) {
		t.Errorf("while it runs:\n%s\nwant\n%s", strings.Join(d, "\n"), strings.Join(want, "\n"))
	}
	n.Tuner = New(n.options()) // the daemon was restarted
	r.Tuner = n.Tuner
	r.Runtime.(*inner).fail = errors.New("it runs")
	if err := r.Delete(t.Context(), "a", false); err == nil || len(n.differ(before)) != len(want) {
		t.Error("a container that goes on has lost what it asked for")
	}
	r.Runtime.(*inner).fail = nil
	for range 2 {
		if err := r.Delete(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
	}
	if d := n.differ(before); len(d) > 0 {
		t.Errorf("after its end: %v", d)
	}
	if set, _, err := n.banned(); err != nil || len(set) > 0 || n.rereads != 2 {
		t.Errorf("irqbalance: %v %v, told %d times", set, err, n.rereads)
	}
}

// Containers that want the same: what the first has found is there after the last, in
// whatever order they end.
func TestOverlap(t *testing.T) {
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		n := newNode(t, true)
		before := n.tree()
		for id, list := range map[string]string{"a": "2-3", "b": "3-4"} {
			n.create(id, list, map[string]string{annotation.IRQLoad: Disable, annotation.CPUQuota: Disable, annotation.CPUCStates: Disable})
		}
		for _, id := range []string{"a", "b"} {
			if err := n.start(id); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.stop(order[0]); err != nil {
			t.Fatal(err)
		}
		mask := map[string]string{"a": "f3", "b": "e7"}[order[1]]
		if got, _ := n.read("/proc/irq/default_smp_affinity"); got != mask {
			t.Errorf("%v: interrupts after the first end go to %s, want %s", order, got, mask)
		}
		if got, _ := n.read("/cg/pod/cpu.max"); got != "max 100000" {
			t.Errorf("%v: the pod's quota after the first end: %s", order, got)
		}
		if got, _ := n.read(cpuFile(3, "power/pm_qos_resume_latency_us")); got != "n/a" {
			t.Errorf("%v: a shared processor's latency after the first end: %s", order, got)
		}
		if err := n.stop(order[1]); err != nil {
			t.Fatal(err)
		}
		if d := n.differ(before); len(d) > 0 {
			t.Errorf("%v: left: %v", order, d)
		}
	}
}

func TestHousekeeping(t *testing.T) {
	n := newNode(t, true)
	s := n.create("a", "2-6", map[string]string{annotation.IRQLoad: Housekeeping})
	if !slices.Contains(s.Process.Env, "OPENSHIFT_HOUSEKEEPING_CPUS=2-3") {
		t.Errorf("environment: %v", s.Process.Env)
	}
	if err := n.start("a"); err != nil {
		t.Fatal(err)
	}
	if got, _ := n.read("/proc/irq/default_smp_affinity"); got != "8f" {
		t.Errorf("interrupts go to %s", got)
	}
}

// Killed anywhere between the record and the last file, the undo leaves what was.
func TestKilledMidway(t *testing.T) {
	for done := range 20 {
		n := newNode(t, true)
		before := n.tree()
		n.create("a", "2-3", everything(Disable))
		r, err := n.load("a")
		if err != nil {
			t.Fatal(err)
		}
		own, _ := parseList("2-3")
		if r.Changes, _, err = n.plan(r.Want, own, "/cg/pod/a"); err != nil {
			t.Fatal(err)
		}
		if err := n.save(r); err != nil {
			t.Fatal(err)
		}
		for i, c := range r.Changes {
			if i < done {
				if err := c.do(n.Tuner); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := New(n.options()).stop("a"); err != nil {
			t.Fatal(err)
		}
		if d := n.differ(before); len(d) > 0 {
			t.Errorf("after %d of %d changes: %v", done, len(r.Changes), d)
		}
	}
}

// A change that fails undoes those before it; what others have changed since is left.
func TestFailures(t *testing.T) {
	n := newNode(t, true)
	before := n.tree()
	n.create("a", "2-3", everything(Disable))
	if err := os.Remove(n.root + "/cg/pod/a/cpuset.cpus.exclusive"); err != nil {
		t.Fatal(err)
	}
	if err := n.start("a"); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), "6.7") {
		t.Errorf("a kernel without remote partitions: %v", err)
	}
	if d := n.differ(before); len(d) > 0 {
		t.Errorf("left after a refusal: %v", d)
	}
	n.set("/cg/pod/a/cpuset.cpus.exclusive", "")
	if err := n.start("a"); err != nil {
		t.Fatal(err)
	}
	n.set(cpuFile(2, "cpufreq/scaling_governor"), "schedutil")
	if err := n.stop("a"); err != nil {
		t.Fatal(err)
	}
	if got, _ := n.read(cpuFile(2, "cpufreq/scaling_governor")); got != "schedutil" {
		t.Errorf("an administrator's governor became %s", got)
	}
	for _, c := range []struct {
		list string
		want map[string]string
		says string
	}{
		{"", everything(Disable), "cpuset_cpus"},
		{"0-7", map[string]string{annotation.IRQLoad: Disable}, "no processor would be left"},
		{"2", map[string]string{annotation.CPUGovernor: "turbo"}, "performance powersave"},
		{"9", map[string]string{annotation.CPUCStates: Disable}, "processor 9"},
	} {
		n.create("b", c.list, c.want)
		if err := n.start("b"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s %v: %v", c.list, c.want, err)
		}
	}
	if err := os.WriteFile(filepath.Join(n.o.Bundles, "b", recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.stop("a"); err == nil || !strings.Contains(err.Error(), recordFile) {
		t.Errorf("beside a damaged record: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	n := newNode(t, true)
	n.create("a", "2-3", everything(Disable))
	r := Runtime{&inner{}, n.Tuner}
	if err := r.Start(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	l := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(5)), Cpus: "4-5"}}
	if err := r.Update(t.Context(), "a", l); err != nil || *r.Runtime.(*inner).limit.CPU.Quota != -1 {
		t.Errorf("a quota came back: %v", err)
	}
	for i, want := range map[int]string{2: "powersave", 3: "powersave", 4: "performance", 5: "performance"} {
		if got, _ := n.read(cpuFile(i, "cpufreq/scaling_governor")); got != want {
			t.Errorf("processor %d after the move: %s", i, got)
		}
	}
	if got, _ := n.read("/proc/irq/default_smp_affinity"); got != "cf" {
		t.Errorf("interrupts after the move go to %s", got)
	}
}

// irqbalance's mask is what it was before there were containers, also after a reboot.
func TestIRQBalance(t *testing.T) {
	n := newNode(t, true)
	n.set("/etc/irqbalance", "IRQBALANCE_BANNED_CPUS=\"00000001\"\nX=1")
	if err := n.Recover(); err != nil {
		t.Fatal(err)
	}
	n.create("a", "2-3", map[string]string{annotation.IRQLoad: Disable})
	if err := n.start("a"); err != nil {
		t.Fatal(err)
	}
	text := func() string { data, _ := n.read("/etc/irqbalance"); return data }
	if want := "IRQBALANCE_BANNED_CPUS=\"0000000d\"\nX=1"; text() != want {
		t.Errorf("with a container: %q", text())
	}
	if err := n.Recover(); err != nil || !strings.Contains(text(), "0000000d") {
		t.Errorf("after a restart: %v %q", err, text())
	}
	if err := os.RemoveAll(n.o.Bundles); err != nil { // a reboot
		t.Fatal(err)
	}
	if err := n.Recover(); err != nil || !strings.Contains(text(), "\"00000001\"") {
		t.Errorf("after a reboot: %v %q", err, text())
	}
	o := n.options()
	o.Restore = KeepNone
	n.set("/etc/irqbalance", "IRQBALANCE_BANNED_CPUS=ff")
	if err := New(o).Recover(); err != nil || text() != "IRQBALANCE_BANNED_CPUS=ff" {
		t.Errorf("nothing is to be restored: %v %q", err, text())
	}
}

func TestParse(t *testing.T) {
	for name, values := range map[string][]string{
		annotation.CPULoad: {"disabled", ""}, annotation.CPUQuota: {"no"}, annotation.IRQLoad: {"off"}, annotation.CPUGovernor: {"", "a b"},
		annotation.CPUCStates: {"", "max_latency:", "max_latency:-1", "max_latency:x", "5"},
	} {
		for _, v := range values {
			if _, err := Parse(acting(map[string]string{name: v}), "main"); !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=%q: %v", name, v, err)
			}
		}
	}
	w, err := Parse(acting(map[string]string{annotation.CPUCStates: "enable", annotation.IRQLoad: "enable"}), "main")
	if data, _ := json.Marshal(w); err != nil || string(data) != `{"latency":"0"}` {
		t.Errorf("%s %v", data, err)
	}
	if err := New(Options{}).Prepare("x", acting(nil), "main", "", nil); err != nil {
		t.Errorf("a container that wants nothing: %v", err)
	}
}

func TestSets(t *testing.T) {
	for _, c := range []struct{ list, mask string }{{"", "0"}, {"0", "1"}, {"0-3,8", "10f"}, {"31-32", "1,80000000"}, {"0,64", "1,00000000,00000001"}} {
		set, err := parseList(c.list)
		if err != nil || set.String() != c.list || set.mask(0) != c.mask {
			t.Errorf("%s: %v %s %v", c.list, set, set.mask(0), err)
		}
		if back, digits, err := parseMask(c.mask); err != nil || !slices.Equal(back, set) || back.mask(digits) != c.mask {
			t.Errorf("%s: %v %v", c.mask, back, err)
		}
	}
	for _, bad := range []string{"a", "3-1", "-1", "1-", "99999999"} {
		if _, err := parseList(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if _, _, err := parseMask("xyz"); err == nil {
		t.Error("a mask that is none is accepted")
	}
}
