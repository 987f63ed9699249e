package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// profile is what libcontainer asks for: a default action, more architectures
// than the native one, rules.
type profile struct {
	action libseccomp.ScmpAction
	arches []libseccomp.ScmpArch
	rules  []rule
}

type rule struct {
	name       string
	action     libseccomp.ScmpAction
	conditions []libseccomp.ScmpCondition
}

func (r rule) String() string {
	return fmt.Sprintf("{%s %#x %+v}", r.name, uint(r.action), r.conditions)
}

// architecture pairs one with the C library's token.
type architecture struct {
	arch  libseccomp.ScmpArch
	token uint32
}

var arches = []architecture{
	{libseccomp.ArchAMD64, clib.AMD64}, {libseccomp.ArchX86, clib.X86}, {libseccomp.ArchX32, clib.X32},
	{libseccomp.ArchARM64, clib.ARM64}, {libseccomp.ArchARM, clib.ARM},
}

func tokenOf(a libseccomp.ScmpArch) uint32 {
	for _, x := range arches {
		if x.arch == a {
			return x.token
		}
	}
	return 0
}

// ret is the kernel's value of an action.
func ret(a libseccomp.ScmpAction) uint32 {
	code := uint32(a>>16) & 0xffff
	switch a & 0xffff {
	case libseccomp.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD
	case libseccomp.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS
	case libseccomp.ActTrap:
		return unix.SECCOMP_RET_TRAP
	case libseccomp.ActErrno:
		return unix.SECCOMP_RET_ERRNO | code
	case libseccomp.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF
	case libseccomp.ActTrace:
		return unix.SECCOMP_RET_TRACE | code
	case libseccomp.ActLog:
		return unix.SECCOMP_RET_LOG
	}
	return unix.SECCOMP_RET_ALLOW
}

// build builds a profile with our package; a rule may fail with EEXIST.
func (p profile) build(t testing.TB) (*libseccomp.ScmpFilter, error) {
	t.Helper()
	f, err := libseccomp.NewFilter(p.action)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range p.arches {
		if err := f.AddArch(a); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range p.rules {
		nr, err := libseccomp.GetSyscallFromName(r.name)
		if err != nil {
			continue
		}
		if err := f.AddRuleConditional(nr, r.action, r.conditions); err != nil {
			if !errors.Is(err, syscall.EEXIST) {
				t.Fatalf("%v: %v", r, err)
			}
			return nil, err
		}
	}
	return f, nil
}

// buildC builds it with the C library: 1 as a list, 2 as a tree.
func (p profile) buildC(t testing.TB, level int) (*clib.Filter, error) {
	t.Helper()
	f, err := clib.New(ret(p.action))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range p.arches {
		if err := f.AddArch(tokenOf(a)); err != nil && !errors.Is(err, syscall.EEXIST) {
			t.Fatal(err)
		}
	}
	if err := f.Optimize(level); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.rules {
		nr := clib.Number(clib.Native(), r.name)
		if nr == -1 {
			continue
		}
		var all []clib.Condition
		for _, c := range r.conditions {
			all = append(all, clib.Condition{Arg: c.Argument, Op: int(c.Op), A: c.Operand1, B: c.Operand2})
		}
		if err := f.AddRule(ret(r.action), nr, all...); err != nil {
			if !errors.Is(err, syscall.EEXIST) {
				t.Fatalf("%v: %v", r, err)
			}
			return nil, err
		}
	}
	return f, nil
}

// known leaves out rules for calls that the C library does not know.
func (p profile) known() profile {
	p.rules = slices.DeleteFunc(slices.Clone(p.rules), func(r rule) bool { return clib.Number(clib.Native(), r.name) == -1 })
	return p
}

// fromSpec turns a profile of the runtime specification into rules, as libcontainer
// does.
func fromSpec(t testing.TB, s *specs.LinuxSeccomp) profile {
	t.Helper()
	action := func(a specs.LinuxSeccompAction, errno *uint) libseccomp.ScmpAction {
		code := uint(unix.EPERM)
		if errno != nil {
			code = *errno
		}
		switch a {
		case specs.ActErrno:
			return libseccomp.ActErrno.SetReturnCode(int16(code))
		case specs.ActTrace:
			return libseccomp.ActTrace.SetReturnCode(int16(code))
		case specs.ActAllow:
			return libseccomp.ActAllow
		case specs.ActLog:
			return libseccomp.ActLog
		case specs.ActTrap:
			return libseccomp.ActTrap
		case specs.ActKillProcess:
			return libseccomp.ActKillProcess
		case specs.ActKill, specs.ActKillThread:
			return libseccomp.ActKillThread
		}
		t.Fatalf("action %q", a)
		return 0
	}
	ops := []specs.LinuxSeccompOperator{
		"", specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
	p := profile{action: action(s.DefaultAction, s.DefaultErrnoRet)}
	for _, a := range s.Architectures {
		switch a {
		case specs.ArchX86_64:
			p.arches = append(p.arches, libseccomp.ArchAMD64)
		case specs.ArchX86:
			p.arches = append(p.arches, libseccomp.ArchX86)
		case specs.ArchX32:
			p.arches = append(p.arches, libseccomp.ArchX32)
		case specs.ArchAARCH64:
			p.arches = append(p.arches, libseccomp.ArchARM64)
		case specs.ArchARM:
			p.arches = append(p.arches, libseccomp.ArchARM)
		default:
			t.Fatalf("architecture %q", a)
		}
	}
	for _, c := range s.Syscalls {
		a := action(c.Action, c.ErrnoRet)
		if a == p.action {
			continue
		}
		var all []libseccomp.ScmpCondition
		seen, twice := map[uint]bool{}, false
		for _, x := range c.Args {
			cond, err := libseccomp.MakeCondition(x.Index, libseccomp.ScmpCompareOp(slices.Index(ops, x.Op)), x.Value, x.ValueTwo)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, cond)
			twice = twice || seen[x.Index]
			seen[x.Index] = true
		}
		for _, n := range c.Names {
			if !twice {
				p.rules = append(p.rules, rule{n, a, all})
				continue
			}
			for _, cond := range all {
				p.rules = append(p.rules, rule{n, a, []libseccomp.ScmpCondition{cond}})
			}
		}
	}
	return p
}
