package seccomp

import (
	"fmt"
	"math"
	"slices"
)

// instruction is a struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8 // instructions to skip
	k      uint32
}

// The instructions that are used, linux/bpf_common.h.
const (
	load       = 0x20 // a word of struct seccomp_data
	and        = 0x54
	jump       = 0x05
	jumpEqual  = 0x15
	jumpAbove  = 0x25
	jumpNotLow = 0x35 // k or above
	ret        = 0x06
)

// Offsets in struct seccomp_data, linux/seccomp.h. All machines that there are
// tables for have the low half of an argument first.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

const (
	maxInstructions = 4096 // BPF_MAXINSNS
	killThread      = 0
	skipNumber      = math.MaxUint32 // -1, which a tracer writes to skip a call
)

// target is where a jump goes: to an action, or to an instruction.
type target struct {
	at     int // how many instructions follow it; below 0: an action
	action uint32
}

func returns(action uint32) target { return target{-1, action} }

// builder writes a program from its end to its beginning, so that each jump knows
// how far it goes. Jumps reach 255 instructions; what is further gets a stepping
// stone.
type builder struct {
	code  []instruction // the last first
	rets  [8]target     // the last places of some actions
	count int           // of writes to rets
}

// reach is how far a jump goes for sure: two stepping stones may come between.
const reach = 250

func (b *builder) emit(i instruction) target {
	b.code = append(b.code, i)
	return target{at: len(b.code) - 1}
}

// near returns an instruction that a jump written next can reach, and that does
// what the target does.
func (b *builder) near(t target) int {
	if t.at >= 0 {
		if d := len(b.code) - 1 - t.at; d > reach {
			t = b.emit(instruction{code: jump, k: uint32(d)})
		}
		return t.at
	}
	for i := range min(b.count, len(b.rets)) {
		if r := b.rets[i]; r.action == t.action && len(b.code)-1-r.at <= reach {
			return r.at
		}
	}
	at := b.emit(instruction{code: ret, k: t.action}).at
	b.rets[b.count%len(b.rets)] = target{at, t.action}
	b.count++
	return at
}

// branch goes one of two ways by comparing the accumulator.
func (b *builder) branch(code uint16, k uint32, yes, no target) target {
	if yes == no {
		return yes
	}
	y := b.near(yes)
	n := b.near(no)
	return b.emit(instruction{code, uint8(len(b.code) - 1 - y), uint8(len(b.code) - 1 - n), k})
}

// read puts a word of struct seccomp_data into the accumulator before a test, which
// must have been written last. An action needs nothing read.
func (b *builder) read(offset uint32, t target) target {
	if t.at < 0 {
		return t
	}
	return b.emit(instruction{code: load, k: offset})
}

// program returns the filter's instructions.
func (f *ScmpFilter) program() ([]instruction, error) {
	b := &builder{code: make([]instruction, 0, 512)}
	first := returns(killThread)
	for i, s := range f.sets {
		a := s.abi.audit()
		if !slices.ContainsFunc(f.sets[:i], func(s *ruleset) bool { return s.abi.audit() == a }) {
			first = b.branch(jumpEqual, a, b.read(offNumber, b.tree(f.spans(a))), first)
		}
	}
	b.read(offArch, first)
	if len(b.code) > maxInstructions {
		return nil, fmt.Errorf("cannot build seccomp filter: it has %d instructions, the kernel takes %d", len(b.code), maxInstructions)
	}
	slices.Reverse(b.code)
	return b.code, nil
}

// tree finds a number's span by halving.
func (b *builder) tree(spans []span) target {
	switch n := len(spans); {
	case n == 1:
		return b.does(spans[0].does)
	case n == 3 && spans[0].does == spans[2].does && spans[1].first == spans[1].last:
		one := b.does(spans[1].does)
		return b.branch(jumpEqual, spans[1].first, one, b.does(spans[0].does))
	default:
		high := b.tree(spans[n/2:])
		low := b.tree(spans[:n/2])
		return b.branch(jumpNotLow, spans[n/2].first, high, low)
	}
}

// does writes the rules of a call.
func (b *builder) does(d does) target {
	t := d.otherwise
	if d.call == nil {
		return t
	}
	for rules := d.call.rules; len(rules) > 0; {
		n := alike(rules, d.wide)
		last := rules[len(rules)-n:]
		rules = rules[:len(rules)-n]
		if n > 1 {
			t = b.oneOf(last, d.wide, t)
			continue
		}
		no := t
		t = returns(last[0].action)
		for _, c := range slices.Backward(last[0].conditions) {
			t = b.condition(c, d.wide, t, no)
		}
	}
	return t
}

// alike counts the last rules, at least one, that do nothing but compare one
// argument with values that differ in the low half.
func alike(rules []rule, wide bool) int {
	n := 0
	for _, r := range slices.Backward(rules) {
		c, first := r.conditions[0], rules[len(rules)-1].conditions[0]
		if len(r.conditions) > 1 || c.op != CompareEqual || c.arg != first.arg || wide && c.value>>32 != first.value>>32 {
			break
		}
		n++
	}
	return max(n, 1)
}

// oneOf writes rules that are alike: profiles list dozens of socket families. Their
// values are ordered, the highest first.
func (b *builder) oneOf(rules []rule, wide bool, no target) target {
	c := rules[0].conditions[0]
	var values []span
	for _, r := range slices.Backward(rules) {
		v := uint32(r.conditions[0].value)
		values = append(values, span{v, v, does{otherwise: returns(r.action)}})
	}
	t := b.read(lowHalf(c), b.tree(fill(values, does{otherwise: no})))
	if !wide {
		return t
	}
	return b.equal(highHalf(c), math.MaxUint32, uint32(c.value>>32), t, no)
}

// lowHalf and highHalf are the offsets of the halves of an argument.
func lowHalf(c condition) uint32  { return offArgs + 8*uint32(c.arg) }
func highHalf(c condition) uint32 { return lowHalf(c) + 4 }

// condition goes one of two ways by comparing an argument.
func (b *builder) condition(c condition, wide bool, yes, no target) target {
	switch c.op {
	case CompareNotEqual:
		c.op = CompareEqual
		yes, no = no, yes
	case CompareLess:
		c.op = CompareGreaterEqual
		yes, no = no, yes
	case CompareLessOrEqual:
		c.op = CompareGreater
		yes, no = no, yes
	}
	switch c.op {
	case CompareEqual:
		c.mask = math.MaxUint64
		fallthrough
	case CompareMaskedEqual:
		yes = b.equal(lowHalf(c), uint32(c.mask), uint32(c.value), yes, no)
		if wide {
			yes = b.equal(highHalf(c), uint32(c.mask>>32), uint32(c.value>>32), yes, no)
		}
		return yes
	}
	test := uint16(jumpAbove)
	if c.op == CompareGreaterEqual {
		test = jumpNotLow
	}
	t := b.read(lowHalf(c), b.branch(test, uint32(c.value), yes, no))
	if !wide {
		return t
	}
	v := uint32(c.value >> 32)
	t = b.branch(jumpEqual, v, t, no)
	return b.read(highHalf(c), b.branch(jumpAbove, v, yes, t))
}

// equal compares the bits of a word that are in the mask.
func (b *builder) equal(offset, mask, value uint32, yes, no target) target {
	if mask == 0 || yes == no {
		return yes
	}
	t := b.branch(jumpEqual, value, yes, no)
	if mask != math.MaxUint32 {
		t = b.emit(instruction{code: and, k: mask})
	}
	return b.read(offset, t)
}
