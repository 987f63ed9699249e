package seccomp

import (
	"fmt"
	"testing"
)

// data is struct seccomp_data of linux/seccomp.h.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// run does what the kernel does with a program; what the kernel would refuse panics.
func run(p []instruction, d *data) uint32 {
	var a uint32
	for pc := 0; ; pc++ {
		i := p[pc]
		var yes bool
		switch i.code {
		case load:
			a = d.word(i.k)
			continue
		case and:
			a &= i.k
			continue
		case jump:
			pc += int(i.k)
			continue
		case ret:
			return i.k
		case jumpEqual:
			yes = a == i.k
		case jumpAbove:
			yes = a > i.k
		case jumpNotLow:
			yes = a >= i.k
		default:
			panic(fmt.Sprintf("instruction %d: %+v", pc, i))
		}
		if yes {
			pc += int(i.jt)
		} else {
			pc += int(i.jf)
		}
	}
}

func (d *data) word(offset uint32) uint32 {
	switch {
	case offset == offNumber:
		return d.nr
	case offset == offArch:
		return d.arch
	case offset >= offArgs && offset < offArgs+6*8 && offset%4 == 0:
		return uint32(d.args[(offset-offArgs)/8] >> (offset % 8 * 8))
	}
	panic(fmt.Sprintf("offset %d", offset))
}

func compiled(t testing.TB, f *ScmpFilter) []instruction {
	t.Helper()
	p, err := f.program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// number is a call's on an architecture.
func number(t testing.TB, name string, arch ScmpArch) ScmpSyscall {
	t.Helper()
	nr, err := GetSyscallFromNameByArch(name, arch)
	if err != nil {
		t.Fatal(err)
	}
	return nr
}

func made(t testing.TB, native ScmpArch, action ScmpAction, more ...ScmpArch) *ScmpFilter {
	t.Helper()
	f, err := newFilter(native, action)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range more {
		if err := f.AddArch(a); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func cond(i uint, op ScmpCompareOp, v ...uint64) ScmpCondition {
	c, err := MakeCondition(i, op, v...)
	if err != nil {
		panic(err)
	}
	return c
}

func errno(n int16) ScmpAction { return ActErrno.SetReturnCode(n) }

func value(a ScmpAction) uint32 {
	c, err := a.code()
	if err != nil {
		panic(err)
	}
	return c
}
