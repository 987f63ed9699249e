package seccomp

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// holds says what a condition means, without thought of words and jumps.
func holds(c ScmpCondition, args [6]uint64, wide bool) bool {
	a, x, y := args[c.Argument], c.Operand1, c.Operand2
	if !wide {
		a, x, y = uint64(uint32(a)), uint64(uint32(x)), uint64(uint32(y))
	}
	switch c.Op {
	case CompareNotEqual:
		return a != x
	case CompareLess:
		return a < x
	case CompareLessOrEqual:
		return a <= x
	case CompareEqual:
		return a == x
	case CompareGreaterEqual:
		return a >= x
	case CompareGreater:
		return a > x
	}
	return a&x == y&x
}

var operands = []uint64{0, 1, 5, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 | 5, 3 << 32, 1 << 63, 1<<64 - 1}

// TestMeaning: any rules of one action, on every architecture, mean the same as
// their conditions read one by one.
func TestMeaning(t *testing.T) {
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		native := []ScmpArch{ArchAMD64, ArchX86, ArchARM64, ArchARM}[seed%4]
		f := made(t, native, ActAllow)
		var rules [][]ScmpCondition
		for range 1 + rnd.IntN(6) {
			var r []ScmpCondition
			for _, i := range rnd.Perm(6)[:1+rnd.IntN(4)] {
				op := CompareNotEqual + ScmpCompareOp(rnd.IntN(int(CompareMaskedEqual)))
				r = append(r, cond(uint(i), op, operands[rnd.IntN(len(operands))], operands[rnd.IntN(len(operands))]))
			}
			rules = append(rules, r)
			if err := f.AddRuleConditional(number(t, "read", native), errno(1), r); err != nil {
				t.Fatal(err)
			}
		}
		p := compiled(t, f)
		for range 300 {
			d := data{nr: uint32(number(t, "read", native)), arch: f.native.audit()}
			for i := range d.args {
				d.args[i] = operands[rnd.IntN(len(operands))] + uint64(rnd.IntN(3)) - 1
			}
			want := value(ActAllow)
			for _, r := range rules {
				all := true
				for _, c := range r {
					all = all && holds(c, d.args, f.native.wide())
				}
				if all {
					want = value(errno(1))
				}
			}
			if got := run(p, &d); got != want {
				t.Fatalf("seed %d: %#x for %#x, want %#x; rules %+v", seed, got, d.args, want, rules)
			}
			d.nr++
			if got := run(p, &d); got != value(ActAllow) {
				t.Fatalf("seed %d: another call: %#x", seed, got)
			}
		}
	}
}

// TestLongJumps: rules so many that jumps need stepping stones.
func TestLongJumps(t *testing.T) {
	f := made(t, ArchAMD64, ActKillProcess, ArchX86, ArchX32)
	action := func(e int) ScmpAction { return errno(int16(e%100 + 1)) }
	names := 0
	for e := range table {
		if table[e].codes[amd64] == none || table[e].codes[x86] == none {
			continue
		}
		nr := ScmpSyscall(table[e].codes[amd64])
		var err error
		switch names++; {
		case names%15 == 0 && table[e].codes[x32] != none:
			for i := range uint(3) {
				err = f.AddRuleConditional(nr, action(e), []ScmpCondition{cond(i+1, CompareEqual, 7), cond(i+2, CompareGreater, 1<<33)})
			}
		default:
			err = f.AddRule(nr, action(e))
		}
		if err != nil {
			t.Fatal(table[e].name, err)
		}
	}
	p := compiled(t, f)
	stones := 0
	for _, i := range p {
		if i.code == jump {
			stones++
		}
	}
	t.Logf("%d calls, %d instructions, %d stones", names, len(p), stones)
	if stones == 0 {
		t.Error("no jump was long")
	}
	names = 0
	for e := range table {
		if table[e].codes[amd64] == none || table[e].codes[x86] == none {
			continue
		}
		names++
		for _, a := range []abi{amd64, x86, x32} {
			if table[e].codes[a] == none {
				continue
			}
			d := data{nr: a.number(table[e].codes[a]), arch: a.audit()}
			d.args[2], d.args[3] = 7, 1<<33+1
			if a != amd64 {
				d.args[3] = 1
			}
			if through, _ := multiplexed(table[e].name); through != "" && a == x86 {
				continue
			}
			if got := run(p, &d); got != value(action(e)) && table[e].name != socketcall && table[e].name != ipc {
				t.Errorf("%s: %#x, want %#x", table[e].name, got, value(action(e)))
			}
		}
	}
}

// TestTooLong: a filter that no kernel takes is an error here.
func TestTooLong(t *testing.T) {
	f := made(t, ArchAMD64, ActAllow)
	for e := range table {
		if c := table[e].codes[amd64]; c != none {
			for i := range uint64(10) {
				if err := f.AddRuleConditional(ScmpSyscall(c), errno(1), []ScmpCondition{cond(0, CompareMaskedEqual, 3, i&3), cond(1, CompareGreater, 5*i)}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := f.program(); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Error(err)
	}
}

// TestOrder: what happens if several rules with different actions hold.
func TestOrder(t *testing.T) {
	type rule struct {
		action     int16
		conditions []ScmpCondition
	}
	one := func(action int16, c ...ScmpCondition) rule { return rule{action, c} }
	for _, c := range []struct {
		name  string
		rules []rule
		args  [6]uint64
		want  int16 // 0: allowed, the default
	}{
		{"the higher argument", []rule{one(1, cond(0, CompareEqual, 5)), one(2, cond(1, CompareEqual, 5))}, [6]uint64{5, 5}, 2},
		{"and else the lower", []rule{one(1, cond(0, CompareEqual, 5)), one(2, cond(1, CompareEqual, 5))}, [6]uint64{5, 6}, 1},
		{"equality over bounds", []rule{one(1, cond(0, CompareGreaterEqual, 3)), one(2, cond(0, CompareEqual, 5))}, [6]uint64{5}, 2},
		{"equality over inequality", []rule{one(1, cond(0, CompareNotEqual, 3)), one(2, cond(0, CompareEqual, 5))}, [6]uint64{5}, 2},
		{"inequality over bounds", []rule{one(1, cond(0, CompareGreater, 3)), one(2, cond(0, CompareNotEqual, 9))}, [6]uint64{5}, 2},
		{"upper over lower bounds", []rule{one(1, cond(0, CompareGreater, 3)), one(2, cond(0, CompareLess, 9))}, [6]uint64{5}, 2},
		{"the narrower lower bound", []rule{one(1, cond(0, CompareGreater, 3)), one(2, cond(0, CompareGreater, 4))}, [6]uint64{5}, 2},
		{"the narrower upper bound", []rule{one(1, cond(0, CompareLess, 9)), one(2, cond(0, CompareLess, 8))}, [6]uint64{5}, 2},
		{"the wider one beyond", []rule{one(1, cond(0, CompareLess, 9)), one(2, cond(0, CompareLess, 8))}, [6]uint64{8}, 1},
		{"the earlier mask", []rule{one(1, cond(0, CompareMaskedEqual, 1, 1)), one(2, cond(0, CompareMaskedEqual, 5, 1))}, [6]uint64{1}, 1},
		{"none over some", []rule{one(1, cond(0, CompareEqual, 5)), one(2)}, [6]uint64{5}, 2},
		{"none first", []rule{one(2), one(1, cond(0, CompareEqual, 5))}, [6]uint64{5}, 2},
		{"the first of none", []rule{one(2), one(1)}, [6]uint64{5}, 2},
		{"an empty mask is none", []rule{one(1, cond(0, CompareEqual, 5)), one(2, cond(0, CompareMaskedEqual, 0, 7))}, [6]uint64{5}, 2},
		{"narrower says nothing more", []rule{one(1, cond(0, CompareEqual, 5)), one(2, cond(0, CompareEqual, 5), cond(1, CompareEqual, 6))}, [6]uint64{5, 6}, 1},
		{"nothing holds", []rule{one(1, cond(0, CompareEqual, 5))}, [6]uint64{6}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := made(t, ArchAMD64, ActAllow)
			for _, r := range c.rules {
				if err := f.AddRuleConditional(0, errno(r.action), r.conditions); err != nil {
					t.Fatal(err)
				}
			}
			want := value(ActAllow)
			if c.want != 0 {
				want = value(errno(c.want))
			}
			if got := run(compiled(t, f), &data{arch: amd64.audit(), args: c.args}); got != want {
				t.Errorf("%#x, want %#x", got, want)
			}
		})
	}
}

// TestArchitectures: which numbers of which architecture a filter is about.
func TestArchitectures(t *testing.T) {
	const refused, other, ruled = "kill", "allow", "errno"
	for _, c := range []struct {
		native ScmpArch
		more   []ScmpArch
		arch   uint32
		nr     uint32
		want   string
	}{
		{ArchAMD64, nil, amd64.audit(), 0, ruled},
		{ArchAMD64, nil, amd64.audit(), 1, other},
		{ArchAMD64, nil, amd64.audit(), x32Bit, refused},
		{ArchAMD64, nil, amd64.audit(), x32Bit - 1, other},
		{ArchAMD64, nil, amd64.audit(), 0xfffffffe, refused},
		{ArchAMD64, nil, amd64.audit(), 0xffffffff, other}, // a tracer's -1
		{ArchAMD64, nil, x86.audit(), 3, refused},
		{ArchAMD64, []ScmpArch{ArchX86}, x86.audit(), 3, ruled},
		{ArchAMD64, []ScmpArch{ArchX86}, x86.audit(), 0xffffffff, other},
		{ArchAMD64, []ScmpArch{ArchX86}, x86.audit(), x32Bit, other},
		{ArchAMD64, []ScmpArch{ArchX32}, amd64.audit(), 0, ruled},
		{ArchAMD64, []ScmpArch{ArchX32}, amd64.audit(), x32Bit, ruled},
		{ArchAMD64, []ScmpArch{ArchX32}, amd64.audit(), x32Bit + 1, other},
		{ArchAMD64, []ScmpArch{ArchX32}, amd64.audit(), 0xffffffff, other},
		{ArchX86, []ScmpArch{ArchX32}, amd64.audit(), 0, refused},
		{ArchX86, []ScmpArch{ArchX32}, amd64.audit(), x32Bit, ruled},
		{ArchX86, []ScmpArch{ArchAMD64}, amd64.audit(), 0, ruled},
		{ArchARM64, nil, arm64.audit(), 63, ruled},
		{ArchARM64, nil, arm64.audit(), 64, other},
		{ArchARM64, nil, arm.audit(), 3, refused},
		{ArchARM64, []ScmpArch{ArchARM}, arm.audit(), 3, ruled},
		{ArchARM, nil, arm.audit(), 0xf0002, other},
		{ArchAMD64, []ScmpArch{ArchS390X, ArchMIPS, ArchRISCV64}, 0x80000016, 3, refused}, // never reported here
		{ArchAMD64, []ScmpArch{ArchNative, ArchAMD64, ArchAMD64}, amd64.audit(), 0, ruled},
	} {
		f := made(t, c.native, ActAllow, c.more...)
		if err := f.AddRule(number(t, "read", c.native), errno(1)); err != nil {
			t.Fatal(err)
		}
		want := map[string]uint32{refused: 0, other: value(ActAllow), ruled: value(errno(1))}[c.want]
		if got := run(compiled(t, f), &data{nr: c.nr, arch: c.arch}); got != want {
			t.Errorf("%v and %v: call %#x of %#x: %#x, want %s", c.native, c.more, c.nr, c.arch, got, c.want)
		}
	}
}

// TestPseudo: calls that the native architecture has not.
func TestPseudo(t *testing.T) {
	f := made(t, ArchAMD64, ActAllow, ArchX86, ArchARM)
	for _, name := range []string{"socketcall", "stat64", "breakpoint", "rtas", "send"} {
		if nr := number(t, name, ArchAMD64); nr >= 0 {
			t.Errorf("%s: %d", name, nr)
		} else if err := f.AddRule(nr, errno(1)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := compiled(t, f)
	for _, c := range []struct {
		arch, nr uint32
		ruled    bool
	}{{x86.audit(), 102, true}, {x86.audit(), 195, true}, {arm.audit(), 0xf0001, true}, {arm.audit(), 195, true}, {arm.audit(), 289, true}, {amd64.audit(), 102, false}} {
		if got := run(p, &data{nr: c.nr, arch: c.arch}) != value(ActAllow); got != c.ruled {
			t.Error(fmt.Sprintf("call %#x of %#x", c.nr, c.arch), got)
		}
	}
}
