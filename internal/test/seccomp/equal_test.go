// Package seccomp compares the filters of our package with those of the C library
// libseccomp: programs built from the same rules must give the same answer to every
// call.
package seccomp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// audits are all values of arch that a filter is asked about, some of them in none.
var audits = []uint32{
	unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM,
	unix.AUDIT_ARCH_S390X, unix.AUDIT_ARCH_RISCV64, 0, 0xffffffff,
}

// numbers are all that any table has, those around them, and the ends of ranges.
var numbers = func() (n []uint32) {
	for i := range uint32(1100) {
		n = append(n, i, 1<<30+i)
	}
	for i := range uint32(20) {
		n = append(n, 0xf0000+i, 0xf0000-i, 1<<30-i, 1<<31+i, -i)
	}
	return n
}()

// asked are argument values that tell conditions apart.
func (p profile) asked() (values [6][]uint64) {
	for i := range values {
		set := map[uint64]bool{0: true, 77: true, 1<<64 - 1: true}
		for n := range uint64(25) { // numbers of multiplexed calls
			set[n] = i == 0
		}
		for _, r := range p.rules {
			for _, c := range r.conditions {
				if int(c.Argument) != i {
					continue
				}
				for _, v := range []uint64{c.Operand1, c.Operand2, c.Operand1 & c.Operand2, ^c.Operand1 | c.Operand2} {
					for _, w := range []uint64{v, v + 1, v - 1, v ^ 1<<32, v ^ 1<<31, v + 1<<32, v - 1<<32, v << 32, v >> 32, v & 0xffffffff} {
						set[w] = true
					}
				}
			}
		}
		for v, ok := range set {
			if ok {
				values[i] = append(values[i], v)
			}
		}
		slices.Sort(values[i])
	}
	return values
}

// conditional are the numbers on which some rule of the profile looks at arguments.
func (p profile) conditional() map[uint32]bool {
	set := map[uint32]bool{102: true, 117: true} // socketcall and ipc
	for _, r := range p.rules {
		if len(r.conditions) > 0 {
			for _, a := range arches {
				if nr, err := libseccomp.GetSyscallFromNameByArch(r.name, a.arch); err == nil && nr >= 0 {
					set[uint32(nr)] = true
				}
			}
		}
	}
	return set
}

// sameAnswers asks about every number and many arguments. The C library builds a
// program in two ways; where it contradicts itself (2.5.4 does, when many rules have
// conditions) one of the two must be right.
func sameAnswers(t testing.TB, p profile, ours, list, tree program, rnd *rand.Rand) {
	t.Helper()
	values, conditional := p.asked(), p.conditional()
	asked, wrong, contradictions := 0, 0, 0
	for _, arch := range audits {
		for _, nr := range numbers {
			times := 2
			if conditional[nr] {
				times = 100
			}
			for range times {
				d := data{nr: nr, arch: arch}
				for i, v := range values {
					d.args[i] = v[rnd.IntN(len(v))]
				}
				asked++
				a, b, c := ours.run(&d), list.run(&d), tree.run(&d)
				if b != c {
					contradictions++
				}
				if a != b && a != c {
					t.Errorf("arch %#x, call %d (%#x) of %#x: %#x, with the C library %#x", d.arch, d.nr, d.nr, d.args, a, b)
					if wrong++; wrong > 5 {
						t.Fatalf("in profile %+v", p)
					}
				}
			}
		}
	}
	switch {
	case wrong > 0:
		t.Fatalf("in profile %+v", p)
	case contradictions > 0:
		t.Logf("the C library contradicts itself %d times of %d", contradictions, asked)
	}
	if contradictions > asked/20 {
		t.Error("too often: nothing is shown by that")
	}
}

// compare builds a profile both ways and compares the programs, or the refusals.
func compare(t testing.TB, p profile, rnd *rand.Rand) (ours, theirs program) {
	t.Helper()
	p = p.known()
	f, err := p.build(t)
	list, cerr := p.buildC(t, 1)
	if (err != nil) != (cerr != nil) {
		t.Fatalf("%v, with the C library %v, in profile %+v", err, cerr, p)
	}
	if err != nil {
		return nil, nil
	}
	tree, err := p.buildC(t, 2)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = export(t, f), exportC(t, tree)
	sameAnswers(t, p, ours, exportC(t, list), theirs, rnd)
	return ours, theirs
}

var (
	x86Family = []libseccomp.ScmpArch{libseccomp.ArchAMD64, libseccomp.ArchX86, libseccomp.ArchX32}
	everyArch = []libseccomp.ScmpArch{libseccomp.ArchX86, libseccomp.ArchX32, libseccomp.ArchARM64, libseccomp.ArchARM}
)

// defaultProfile is the one that Kubernetes documents, for a process with some
// capabilities.
func defaultProfile(t testing.TB, capabilities ...string) profile {
	t.Helper()
	s, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}})
	if err != nil {
		t.Fatal(err)
	}
	return fromSpec(t, s)
}

// TestDefaultProfile: the built-in profile, for processes with few and many
// capabilities.
func TestDefaultProfile(t *testing.T) {
	for _, caps := range [][]string{
		nil,
		{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"},
		{"CAP_SYS_ADMIN"},
		{"CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_SYS_TIME", "CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH"},
		{"CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_RAWIO", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE"},
	} {
		for _, list := range [][]libseccomp.ScmpArch{nil, {libseccomp.ArchX86}, {libseccomp.ArchX32}, x86Family, everyArch} {
			t.Run(fmt.Sprint(strings.Join(caps, ","), list), func(t *testing.T) {
				p := defaultProfile(t, caps...)
				if len(p.rules) < 300 {
					t.Fatalf("%d rules only", len(p.rules))
				}
				p.arches = list
				ours, theirs := compare(t, p, rand.New(rand.NewPCG(1, 2)))
				t.Logf("%d instructions, the C library's %d", len(ours), len(theirs))
				if len(ours) > len(theirs) {
					t.Errorf("%d instructions, more than the C library's %d", len(ours), len(theirs))
				}
			})
		}
	}
}

func allow(names ...string) (rules []rule) { return all(libseccomp.ActAllow, names...) }

func all(action libseccomp.ScmpAction, names ...string) (rules []rule) {
	for _, n := range names {
		rules = append(rules, rule{name: n, action: action})
	}
	return rules
}

func when(action libseccomp.ScmpAction, name string, conditions ...libseccomp.ScmpCondition) []rule {
	return []rule{{name, action, conditions}}
}

func errno(n int16) libseccomp.ScmpAction { return libseccomp.ActErrno.SetReturnCode(n) }

// arg is a condition on an argument.
func arg(i uint, op libseccomp.ScmpCompareOp, v ...uint64) libseccomp.ScmpCondition {
	c, err := libseccomp.MakeCondition(i, op, v...)
	if err != nil {
		panic(err)
	}
	return c
}

const (
	ne     = libseccomp.CompareNotEqual
	lt     = libseccomp.CompareLess
	le     = libseccomp.CompareLessOrEqual
	eq     = libseccomp.CompareEqual
	ge     = libseccomp.CompareGreaterEqual
	gt     = libseccomp.CompareGreater
	masked = libseccomp.CompareMaskedEqual
)

// TestProfiles: profiles as people write them, and single cases that each show one
// thing.
func TestProfiles(t *testing.T) {
	for _, c := range []struct {
		name   string
		action libseccomp.ScmpAction
		rules  [][]rule
	}{
		{"no rules", libseccomp.ActAllow, nil},
		{"log all", libseccomp.ActLog, nil},
		{"forbid some", libseccomp.ActAllow, [][]rule{all(errno(1), "mkdir", "mkdirat", "chmod", "fchmod", "keyctl"), all(libseccomp.ActKillProcess, "ptrace")}},
		{"allow few", errno(1), [][]rule{allow("read", "write", "exit", "exit_group", "rt_sigreturn", "mmap", "mmap2", "brk")}},
		{"every action", libseccomp.ActTrap, [][]rule{
			all(libseccomp.ActKillThread, "mount"), all(libseccomp.ActKillProcess, "umount2"), all(libseccomp.ActNotify, "mkdir"),
			all(libseccomp.ActTrace.SetReturnCode(7), "open"), all(libseccomp.ActLog, "openat"), all(errno(38), "clone3"), allow("read"),
		}},
		{"first and last numbers", errno(1), [][]rule{allow("read", "restart_syscall", "io_setup", "futex_waitv", "set_mempolicy_home_node")}},
		{"x32's own calls", errno(1), [][]rule{allow("rt_sigaction", "ioctl", "execve", "pwritev2", "readv")}},
		{"ARM's private calls", errno(1), [][]rule{allow("breakpoint", "cacheflush", "usr26", "usr32", "set_tls")}},
		{"calls of others", errno(1), [][]rule{allow("s390_runtime_instr", "rtas", "riscv_flush_icache", "spu_create", "read")}},
		{"sockets", errno(1), [][]rule{allow("socket", "connect", "send", "recv", "accept4", "recvmmsg", "accept")}},
		{"sockets but one family", errno(1), [][]rule{when(libseccomp.ActAllow, "socket", arg(0, ne, 40)), allow("connect")}},
		{"sockets by another argument", errno(1), [][]rule{when(libseccomp.ActAllow, "socket", arg(1, ne, 40)), allow("bind")}},
		{"no sockets", libseccomp.ActAllow, [][]rule{all(errno(97), "socket", "socketpair")}},
		{"socketcall itself", errno(1), [][]rule{allow("socketcall", "socket")}},
		{"socketcall itself, later", errno(1), [][]rule{all(errno(3), "socket"), allow("socketcall")}},
		{"socketcall with a number", errno(1), [][]rule{when(libseccomp.ActAllow, "socketcall", arg(0, eq, 2)), allow("listen")}},
		{"System V", errno(1), [][]rule{allow("shmget", "shmat", "shmdt", "shmctl", "semop", "semtimedop", "semget", "semctl", "msgsnd", "msgrcv", "msgget", "msgctl")}},
		{"ipc itself", libseccomp.ActAllow, [][]rule{all(errno(1), "ipc"), all(errno(2), "msgget")}},
		{"personality", errno(1), [][]rule{
			when(libseccomp.ActAllow, "personality", arg(0, eq, 0)), when(libseccomp.ActAllow, "personality", arg(0, eq, 8)),
			when(libseccomp.ActAllow, "personality", arg(0, eq, 0x20000)), when(libseccomp.ActAllow, "personality", arg(0, eq, 0xffffffff)),
		}},
		{"clone without namespaces", errno(1), [][]rule{when(libseccomp.ActAllow, "clone", arg(0, masked, 0x7e020000, 0))}},
		{"a mask with a wider value", errno(1), [][]rule{when(libseccomp.ActAllow, "clone", arg(0, masked, 1, 2))}},
		{"an empty mask", errno(1), [][]rule{when(libseccomp.ActAllow, "clone", arg(0, masked, 0, 0))}},
		{"a high mask", errno(1), [][]rule{when(libseccomp.ActAllow, "clone", arg(0, masked, 1<<40, 1<<40))}},
		{"all of six", errno(1), [][]rule{when(libseccomp.ActAllow, "mmap", arg(5, eq, 0), arg(0, ne, 1<<35), arg(1, lt, 4096), arg(2, masked, 4, 0), arg(3, ge, 2), arg(4, le, 1<<33|5))}},
		{"zero bounds", errno(1), [][]rule{
			when(libseccomp.ActAllow, "read", arg(0, ge, 0)), when(libseccomp.ActAllow, "write", arg(0, lt, 0)),
			when(libseccomp.ActAllow, "open", arg(0, gt, 1<<64-1)), when(libseccomp.ActAllow, "close", arg(0, le, 1<<64-1)),
		}},
		{"no conditions, then some", libseccomp.ActAllow, [][]rule{all(errno(1), "read"), when(errno(2), "read", arg(0, eq, 1))}},
		{"conditions, then none", libseccomp.ActAllow, [][]rule{when(errno(2), "read", arg(0, eq, 1)), all(errno(1), "read")}},
		{"twice without conditions", libseccomp.ActAllow, [][]rule{all(errno(1), "read"), all(errno(2), "read")}},
		{"the same twice", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 1)), when(errno(1), "read", arg(0, eq, 1))}},
		{"the same with other actions", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 1)), when(errno(2), "read", arg(0, eq, 1))}},
		{"the same in 32 bits", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 1)), when(errno(2), "read", arg(0, eq, 1<<32|1))}},
		{"wider later", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 1), arg(1, eq, 2)), when(errno(1), "read", arg(0, eq, 1))}},
		{"wider later, another action", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 1), arg(1, eq, 2)), when(errno(2), "read", arg(0, eq, 1))}},
		{"narrower later, another action", libseccomp.ActAllow, [][]rule{when(errno(2), "read", arg(0, eq, 1)), when(errno(1), "read", arg(0, eq, 1), arg(1, eq, 2))}},
		{"a socket's two actions", libseccomp.ActAllow, [][]rule{when(errno(1), "socket", arg(0, eq, 1)), when(errno(2), "socket", arg(0, eq, 2))}},
		{"complements", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 5)), when(errno(2), "read", arg(0, ne, 5))}},
		{"overlapping bounds", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, ge, 3)), when(errno(2), "read", arg(0, ge, 5)), when(errno(3), "read", arg(0, eq, 9))}},
		{"other arguments", libseccomp.ActAllow, [][]rule{when(errno(1), "read", arg(0, eq, 5)), when(errno(2), "read", arg(2, eq, 5)), when(errno(3), "read", arg(1, eq, 5))}},
	} {
		for _, list := range [][]libseccomp.ScmpArch{nil, x86Family, everyArch} {
			t.Run(fmt.Sprint(c.name, list), func(t *testing.T) {
				compare(t, profile{c.action, list, slices.Concat(c.rules...)}, rand.New(rand.NewPCG(3, 4)))
			})
		}
	}
}

// TestRefused: rules that cannot be.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name       string
		action     libseccomp.ScmpAction
		conditions []libseccomp.ScmpCondition
	}{
		{"the default action", libseccomp.ActAllow, nil},
		{"no such argument", errno(1), []libseccomp.ScmpCondition{{Argument: 6, Op: eq}}},
		{"one argument twice", errno(1), []libseccomp.ScmpCondition{arg(0, ge, 1), arg(0, le, 5)}},
		{"seven conditions", errno(1), []libseccomp.ScmpCondition{arg(0, eq, 1), arg(1, eq, 1), arg(2, eq, 1), arg(3, eq, 1), arg(4, eq, 1), arg(5, eq, 1), arg(0, eq, 2)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := libseccomp.NewFilter(libseccomp.ActAllow)
			if err != nil {
				t.Fatal(err)
			}
			cf, err := clib.New(ret(libseccomp.ActAllow))
			if err != nil {
				t.Fatal(err)
			}
			var all []clib.Condition
			for _, c := range c.conditions {
				all = append(all, clib.Condition{Arg: c.Argument, Op: int(c.Op), A: c.Operand1, B: c.Operand2})
			}
			if err := f.AddRuleConditional(0, c.action, c.conditions); err == nil {
				t.Error("accepted")
			}
			if err := cf.AddRule(ret(c.action), 0, all...); err == nil {
				t.Error("the C library accepts it")
			}
		})
	}
}
