package seccomp

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestTable: names are in order, and no two calls of an architecture share a number
// but by a second name.
func TestTable(t *testing.T) {
	for e := range table {
		if e > 0 && table[e-1].name >= table[e].name {
			t.Errorf("%s stands after %s", table[e].name, table[e-1].name)
		}
		if find(table[e].name) != e {
			t.Errorf("%s is not found", table[e].name)
		}
	}
	for a := range abis {
		seen, some := map[uint32]string{}, 0
		for _, e := range table {
			c := e.codes[a]
			if c == none {
				continue
			}
			some++
			if c >= maxCode || a.code(a.number(c)) != c {
				t.Errorf("%s: code %d", e.name, c)
			}
			if other := seen[a.number(c)]; other != "" && other != "arm_sync_file_range" {
				t.Errorf("%s and %s have one number", other, e.name)
			}
			seen[a.number(c)] = e.name
		}
		if some < 300 {
			t.Errorf("architecture %d has %d calls only", a, some)
		}
	}
}

// TestNew: calls of kernels newer than the C library that tests compare with.
func TestNew(t *testing.T) {
	for name, want := range map[string]ScmpSyscall{
		"cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453, "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456,
		"statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461, "mseal": 462,
		"setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466, "open_tree_attr": 467,
		"file_getattr": 468, "file_setattr": 469,
	} {
		for _, arch := range []ScmpArch{ArchAMD64, ArchX86, ArchARM64, ArchARM} {
			if got := number(t, name, arch); got != want {
				t.Errorf("%s on %v: %d, want %d", name, arch, got, want)
			}
		}
		if got := number(t, name, ArchX32); name != "map_shadow_stack" && got != want|ScmpSyscall(x32Bit) || name == "map_shadow_stack" && got >= 0 {
			t.Errorf("%s on x32: %d", name, got)
		}
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]ScmpArch{
		"x86": ArchX86, "amd64": ArchAMD64, "x86_64": ArchAMD64, "x86-64": ArchAMD64, "X64": ArchAMD64, "x32": ArchX32, "arm": ArchARM,
		"arm64": ArchARM64, "AArch64": ArchARM64, "mips": ArchMIPS, "mips64": ArchMIPS64, "mips64n32": ArchMIPS64N32, "mipsel": ArchMIPSEL,
		"mipsel64": ArchMIPSEL64, "mipsel64n32": ArchMIPSEL64N32, "ppc": ArchPPC, "ppc64": ArchPPC64, "ppc64le": ArchPPC64LE, "s390": ArchS390,
		"s390x": ArchS390X, "parisc": ArchPARISC, "parisc64": ArchPARISC64, "riscv64": ArchRISCV64, "loong64": ArchLOONGARCH64,
		"loongarch64": ArchLOONGARCH64, "m68k": ArchM68K, "sh": ArchSH, "sheb": ArchSHEB,
	} {
		got, err := GetArchFromString(name)
		if err != nil || got != want {
			t.Errorf("%s: %v (%v), want %v", name, got, err, want)
		}
		if again, err := GetArchFromString(got.String()); err != nil || again != got {
			t.Errorf("%s prints as %s: %v", name, got, err)
		}
	}
	for _, name := range []string{"", "native", "vax", "amd", "amd64 x86-64"} {
		if a, err := GetArchFromString(name); err == nil {
			t.Errorf("%q: %v", name, a)
		}
	}
	if _, err := GetSyscallFromName("no_such_call"); !errors.Is(err, ErrSyscallDoesNotExist) {
		t.Error(err)
	}
	if _, err := GetSyscallFromNameByArch("read", ArchS390X); err == nil {
		t.Error("a number for s390x")
	}
	for _, a := range []ScmpArch{ArchInvalid, 1000} {
		if !strings.Contains(a.String(), "invalid") {
			t.Error(a.String())
		}
	}
}

func TestRefused(t *testing.T) {
	f := made(t, ArchAMD64, ActAllow, ArchX86)
	none := []ScmpCondition(nil)
	for _, c := range []struct {
		name       string
		nr         ScmpSyscall
		action     ScmpAction
		conditions []ScmpCondition
	}{
		{"the default action", 0, ActAllow, none},
		{"no action", 0, ActInvalid, none},
		{"an unknown action", 0, 99, none},
		{"an action with a code that it has not", 0, ActTrap | 1<<16, none},
		{"an unknown number", 9999, errno(1), none},
		{"a hole in the numbers", 337, errno(1), none},
		{"-1", -1, errno(1), none},
		{"beyond the pseudo-numbers", -20000, errno(1), none},
		{"a seventh argument", 0, errno(1), []ScmpCondition{{Argument: 6, Op: CompareEqual}}},
		{"no comparison", 0, errno(1), []ScmpCondition{{Argument: 1}}},
		{"one argument twice", 0, errno(1), []ScmpCondition{cond(1, CompareGreater, 1), cond(1, CompareLess, 9)}},
	} {
		if err := f.AddRuleConditional(c.nr, c.action, c.conditions); err == nil {
			t.Errorf("%s: accepted", c.name)
		}
	}
	for _, c := range [][2][]ScmpCondition{
		{{cond(0, CompareEqual, 1)}, {cond(0, CompareEqual, 1)}},
		{{cond(0, CompareEqual, 1), cond(1, CompareEqual, 1)}, {cond(0, CompareEqual, 1)}},
		{{cond(0, CompareEqual, 1)}, {cond(0, CompareEqual, 1<<32|1)}}, // the same on 32 bits
	} {
		f := made(t, ArchAMD64, ActAllow, ArchX86)
		if err := f.AddRuleConditional(0, errno(1), c[0]); err != nil {
			t.Fatal(err)
		}
		if err := f.AddRuleConditional(0, errno(2), c[1]); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("%+v with two actions: %v", c, err)
		}
		if err := f.AddRuleConditional(0, errno(1), c[0]); err != nil {
			t.Errorf("%+v again: %v", c[0], err)
		}
	}
	if _, err := newFilter(ArchAMD64, ActInvalid); err == nil {
		t.Error("a filter without default action")
	}
	if err := f.AddArch(ArchInvalid); err == nil {
		t.Error("no architecture was added")
	}
	if _, err := MakeCondition(0, CompareEqual); err == nil {
		t.Error("a condition without operand")
	}
}

// oldKernel knows flags up to a bit and some actions.
type oldKernel struct {
	known   uint32
	actions []ScmpAction
}

func (k oldKernel) flags(f uint32) bool { return f&^k.known == 0 }
func (k oldKernel) action(a ScmpAction) bool {
	for _, x := range k.actions {
		if x == a {
			return true
		}
	}
	return false
}

func TestLevels(t *testing.T) {
	for want, k := range map[uint]oldKernel{
		1: {0, nil},
		2: {flagTsync, nil},
		3: {flagTsync | flagLog, []ScmpAction{ActLog, ActKillProcess}},
		4: {flagTsync | flagLog | flagSpecAllow, []ScmpAction{ActLog, ActKillProcess}},
		5: {flagTsync | flagLog | flagSpecAllow | flagNewListener, []ScmpAction{ActLog, ActKillProcess, ActNotify}},
		6: {flagTsync | flagLog | flagSpecAllow | flagNewListener | flagTsyncESRCH, []ScmpAction{ActLog, ActKillProcess, ActNotify}},
		7: {1<<6 - 1, []ScmpAction{ActLog, ActKillProcess, ActNotify}},
	} {
		if got := probe(k); got != want {
			t.Errorf("flags %#x: level %d, want %d", k.known, got, want)
		}
	}
	level, err := GetAPI()
	t.Logf("this kernel: level %d", level)
	if err != nil || level < 2 { // Linux 3.17
		t.Error(level, err)
	}
}

// TestAttributes: what is set is read, and asking with a filter that is none tells
// whether the kernel can.
func TestAttributes(t *testing.T) {
	f := made(t, ArchAMD64, ActAllow)
	if on, err := f.GetNoNewPrivsBit(); !on || err != nil {
		t.Error("no_new_privs is not the default", on, err)
	}
	for _, c := range []struct {
		name  string
		level uint
		set   func(*ScmpFilter, bool) error
		get   func(*ScmpFilter) (bool, error)
	}{
		{"no_new_privs", 0, (*ScmpFilter).SetNoNewPrivsBit, (*ScmpFilter).GetNoNewPrivsBit},
		{"log", 3, (*ScmpFilter).SetLogBit, (*ScmpFilter).GetLogBit},
		{"ssb", 4, (*ScmpFilter).SetSSB, (*ScmpFilter).GetSSB},
		{"wait", 7, (*ScmpFilter).SetWaitKill, (*ScmpFilter).GetWaitKill},
	} {
		var old *VersionError
		if apiLevel() < c.level {
			if err := c.set(&ScmpFilter{}, true); !errors.As(err, &old) || old.Error() == "" {
				t.Errorf("%s on an old kernel: %v", c.name, err)
			}
			continue
		}
		for _, on := range []bool{false, true, false} {
			if err := c.set(f, on); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if got, err := c.get(f); got != on || err != nil {
				t.Errorf("%s: %v (%v), want %v", c.name, got, err, on)
			}
		}
		if err := c.set(&ScmpFilter{}, true); err == nil || errors.As(err, &old) {
			t.Errorf("%s of no filter: %v", c.name, err)
		}
	}
	for level, ok := range map[int]bool{0: false, 1: true, 2: true, 3: false} {
		if err := f.SetOptimize(level); (err == nil) != ok {
			t.Errorf("optimization %d: %v", level, err)
		}
	}
	no := &ScmpFilter{}
	for _, err := range []error{no.AddArch(ArchX86), no.AddRule(0, ActLog), no.SetOptimize(1), no.ExportBPF(nil)} {
		if !errors.Is(err, errBadFilter) {
			t.Error(err)
		}
	}
}

// TestExport: the file has the program in this machine's order.
func TestExport(t *testing.T) {
	f := made(t, ArchAMD64, errno(1))
	if err := f.AddRule(0, ActAllow); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bpf")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := f.ExportBPF(file); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := compiled(t, f)
	if len(data) != 8*len(p) {
		t.Fatalf("%d bytes for %d instructions", len(data), len(p))
	}
	for i, want := range p {
		d := data[8*i:]
		if got := (instruction{binary.NativeEndian.Uint16(d), d[2], d[3], binary.NativeEndian.Uint32(d[4:])}); got != want {
			t.Errorf("instruction %d: %+v, want %+v", i, got, want)
		}
	}
	if err := f.ExportBPF(file); err != nil {
		t.Error("again:", err)
	}
	closed, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := f.ExportBPF(closed); err == nil {
		t.Error("wrote into a closed file")
	}
}

func TestActions(t *testing.T) {
	if a := errno(-1); a.SetReturnCode(3) != errno(3) || value(a) != 0x0005_ffff {
		t.Errorf("%#x", uint(a))
	}
	if ActAllow.SetReturnCode(3) != ActAllow {
		t.Error("allow has a code")
	}
	native, err := GetNativeArch()
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFilter(ActAllow)
	if err != nil || f.native.audit() == 0 || native == ArchNative {
		t.Error(native, err)
	}
}
