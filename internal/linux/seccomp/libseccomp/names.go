package seccomp

import (
	"errors"
	"fmt"
	"strings"
)

// ScmpArch is an architecture of system calls.
type ScmpArch uint

// The architectures that profiles may name.
const (
	// ArchInvalid is no architecture.
	ArchInvalid ScmpArch = iota
	// ArchNative stands for the one that this executable is compiled for.
	ArchNative
	ArchX86
	ArchAMD64
	ArchX32
	ArchARM
	ArchARM64
	ArchMIPS
	ArchMIPS64
	ArchMIPS64N32
	ArchMIPSEL
	ArchMIPSEL64
	ArchMIPSEL64N32
	ArchPPC
	ArchPPC64
	ArchPPC64LE
	ArchS390
	ArchS390X
	ArchPARISC
	ArchPARISC64
	ArchRISCV64
	ArchLOONGARCH64
	ArchM68K
	ArchSH
	ArchSHEB
)

// archNames has each architecture's names, the one to print first.
var archNames = [...]string{
	ArchInvalid:     "",
	ArchNative:      "",
	ArchX86:         "x86",
	ArchAMD64:       "amd64 x86-64 x86_64 x64",
	ArchX32:         "x32",
	ArchARM:         "arm",
	ArchARM64:       "arm64 aarch64",
	ArchMIPS:        "mips",
	ArchMIPS64:      "mips64",
	ArchMIPS64N32:   "mips64n32",
	ArchMIPSEL:      "mipsel",
	ArchMIPSEL64:    "mipsel64",
	ArchMIPSEL64N32: "mipsel64n32",
	ArchPPC:         "ppc",
	ArchPPC64:       "ppc64",
	ArchPPC64LE:     "ppc64le",
	ArchS390:        "s390",
	ArchS390X:       "s390x",
	ArchPARISC:      "parisc",
	ArchPARISC64:    "parisc64",
	ArchRISCV64:     "riscv64",
	ArchLOONGARCH64: "loong64 loongarch64",
	ArchM68K:        "m68k",
	ArchSH:          "sh",
	ArchSHEB:        "sheb",
}

// GetArchFromString finds an architecture by one of its names; letters may be of
// either case.
func GetArchFromString(name string) (ScmpArch, error) {
	for arch, names := range archNames {
		for n := range strings.FieldsSeq(names) {
			if strings.EqualFold(n, name) {
				return ScmpArch(arch), nil
			}
		}
	}
	return ArchInvalid, fmt.Errorf("cannot find architecture %q: no such name", name)
}

// String is the architecture's name.
func (a ScmpArch) String() string {
	switch {
	case a == ArchNative:
		return "native"
	case a > ArchNative && int(a) < len(archNames):
		name, _, _ := strings.Cut(archNames[a], " ")
		return name
	}
	return fmt.Sprintf("invalid architecture %d", uint(a))
}

// ScmpAction is what happens to a call: an Act constant in the low 16 bits and, for
// ActErrno and ActTrace, a code in the high ones.
type ScmpAction uint

// The actions of seccomp(2).
const (
	// ActInvalid is no action.
	ActInvalid ScmpAction = iota
	// ActKillThread ends the calling thread.
	ActKillThread
	// ActTrap sends SIGSYS.
	ActTrap
	// ActNotify asks the listener of the filter.
	ActNotify
	// ActErrno lets the call fail with the code of the action.
	ActErrno
	// ActTrace tells a tracer, with the code of the action.
	ActTrace
	// ActAllow lets the call through.
	ActAllow
	// ActLog lets it through and logs it.
	ActLog
	// ActKillProcess ends all threads of the process.
	ActKillProcess
)

// code returns the kernel's SECCOMP_RET value.
func (a ScmpAction) code() (uint32, error) {
	kind, data := a&0xffff, uint32(a>>16)
	if data != 0 && kind != ActErrno && kind != ActTrace {
		return 0, fmt.Errorf("action %#x: only errno and trace have a code", uint(a))
	}
	switch kind {
	case ActKillThread:
		return 0x0000_0000, nil
	case ActTrap:
		return 0x0003_0000, nil
	case ActErrno:
		return 0x0005_0000 | data&0xffff, nil
	case ActNotify:
		return 0x7fc0_0000, nil
	case ActTrace:
		return 0x7ff0_0000 | data&0xffff, nil
	case ActLog:
		return 0x7ffc_0000, nil
	case ActAllow:
		return 0x7fff_0000, nil
	case ActKillProcess:
		return 0x8000_0000, nil
	}
	return 0, fmt.Errorf("action %#x: no such action", uint(a))
}

// SetReturnCode returns the action with a code: an errno for ActErrno, a message for
// ActTrace. Other actions have none and come back unchanged.
func (a ScmpAction) SetReturnCode(code int16) ScmpAction {
	if kind := a & 0xffff; kind == ActErrno || kind == ActTrace {
		return kind | ScmpAction(uint16(code))<<16
	}
	return a
}

// ScmpCompareOp compares an argument with an operand.
type ScmpCompareOp uint

// The comparisons, all unsigned.
const (
	// CompareInvalid is no comparison.
	CompareInvalid ScmpCompareOp = iota
	CompareNotEqual
	CompareLess
	CompareLessOrEqual
	CompareEqual
	CompareGreaterEqual
	CompareGreater
	// CompareMaskedEqual has two operands, mask and value. Bits of the value that
	// the mask has not do not count.
	CompareMaskedEqual
)

// ScmpCondition is a comparison of one argument.
type ScmpCondition struct {
	Argument uint // 0 to 5
	Op       ScmpCompareOp
	Operand1 uint64 // for CompareMaskedEqual the mask
	Operand2 uint64 // for CompareMaskedEqual the value
}

// MakeCondition makes a condition on an argument, 0 to 5, with one or two operands.
func MakeCondition(arg uint, op ScmpCompareOp, operands ...uint64) (ScmpCondition, error) {
	c := ScmpCondition{Argument: arg, Op: op}
	switch {
	case op <= CompareInvalid || op > CompareMaskedEqual:
		return ScmpCondition{}, fmt.Errorf("comparison %d: no such comparison", op)
	case arg > 5:
		return ScmpCondition{}, fmt.Errorf("argument %d: system calls have six, from 0", arg)
	case len(operands) < 1 || len(operands) > 2:
		return ScmpCondition{}, fmt.Errorf("%d operands: a comparison has one or two", len(operands))
	}
	c.Operand1 = operands[0]
	if len(operands) == 2 {
		c.Operand2 = operands[1]
	}
	return c, nil
}

// ScmpSyscall is the number of a system call; a negative one stands for a call that
// only other architectures have.
type ScmpSyscall int32

// ErrSyscallDoesNotExist: the tables have no system call of that name.
var ErrSyscallDoesNotExist = errors.New("no system call of that name is known")

// GetSyscallFromName returns the native number of a call, or a negative one that
// AddRule understands if only other architectures have it.
func GetSyscallFromName(name string) (ScmpSyscall, error) {
	return GetSyscallFromNameByArch(name, ArchNative)
}

// GetSyscallFromNameByArch returns the number of a call on an architecture, or a
// negative one that AddRule understands if only others have it. x32 numbers have
// their bit.
func GetSyscallFromNameByArch(name string, arch ScmpArch) (ScmpSyscall, error) {
	e := find(name)
	if e < 0 {
		return 0, ErrSyscallDoesNotExist
	}
	if arch == ArchNative {
		arch = native()
	}
	a, ok := abiOf(arch)
	if !ok {
		return 0, fmt.Errorf("cannot find system call %s: no table for architecture %v", name, arch)
	}
	if c := table[e].codes[a]; c != none {
		return ScmpSyscall(a.number(c)), nil
	}
	return pseudo(e), nil
}

// pseudo is the number of a call that the native architecture has not, by its place
// in the table. They begin where libseccomp's do.
func pseudo(entry int) ScmpSyscall { return ScmpSyscall(-10000 - entry) }

// find returns a name's place in the table, or -1.
func find(name string) int {
	lo, hi := 0, len(table)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		switch t := table[mid].name; {
		case t == name:
			return mid
		case t < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return -1
}

// Names lists the calls that the native architecture has, by name.
func Names() (list []string) {
	a, ok := abiOf(native())
	for i := range table {
		if ok && table[i].codes[a] != none {
			list = append(list, table[i].name)
		}
	}
	return list
}

// NameOf returns the name of a call as the kernel reports it: an AUDIT_ARCH value and a
// number. It is empty for what the tables do not have.
func NameOf(audit, number uint32) string {
	for a := range abis {
		if a.audit() != audit || (a == x32) != (number&x32Bit != 0 && audit == x32.audit()) {
			continue
		}
		for i := range table {
			if c := table[i].codes[a]; c != none && a.number(c) == number {
				return table[i].name
			}
		}
	}
	return ""
}
