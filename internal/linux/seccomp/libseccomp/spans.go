package seccomp

import (
	"math"
	"slices"
)

// span is a run of numbers that are treated alike.
type span struct {
	first, last uint32
	does        does
}

// does is what happens: the target or, with a call, the first of its rules that
// holds and else the target.
type does struct {
	otherwise target
	call      *call
	wide      bool
}

// spans lists all numbers of the architectures that the kernel reports as one.
func (f *ScmpFilter) spans(audit uint32) []span {
	some := make([]span, 0, 2*len(table))
	in := func(a abi) bool {
		i := slices.IndexFunc(f.sets, func(s *ruleset) bool { return s.abi == a })
		if i < 0 {
			return false
		}
		some = f.sets[i].append(some, returns(f.defaultAction))
		return true
	}
	if audit == amd64.audit() { // and x32's, distinguished by a bit
		if !in(amd64) {
			some = append(some, span{0, x32Bit - 1, does{otherwise: returns(killThread)}})
		}
		if !in(x32) {
			some = append(some, span{x32Bit, skipNumber - 1, does{otherwise: returns(killThread)}})
		}
	} else {
		for _, a := range [...]abi{x86, arm64, arm} {
			_ = a.audit() == audit && in(a)
		}
	}
	return fill(some, does{otherwise: returns(f.defaultAction)})
}

// append adds the numbers of an architecture that there are rules for, in order.
func (s *ruleset) append(all []span, otherwise target) []span {
	for c, i := range s.index {
		if i == 0 {
			continue
		}
		n, d := s.abi.number(code(c)), does{otherwise, &s.calls[i-1], s.abi.wide()}
		if d.call.fixed {
			d = does{otherwise: returns(d.call.action)}
		}
		all = append(all, span{n, n, d})
	}
	return all
}

// fill joins spans that are alike and puts others between them, so that every
// number of 32 bits is in one.
func fill(some []span, between does) []span {
	all := make([]span, 0, len(some)/2+2)
	add := func(s span) {
		if n := len(all) - 1; n >= 0 && all[n].does == s.does {
			all[n].last = s.last
		} else {
			all = append(all, s)
		}
	}
	next := uint64(0)
	for _, s := range some {
		if uint64(s.first) > next {
			add(span{uint32(next), s.first - 1, between})
		}
		add(s)
		next = uint64(s.last) + 1
	}
	if next <= math.MaxUint32 {
		add(span{uint32(next), math.MaxUint32, between})
	}
	return all
}
