package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// condition is a comparison as one abi sees it: what cannot count is cut off, so
// that equal comparisons are equal values.
type condition struct {
	arg         uint8
	op          ScmpCompareOp
	value, mask uint64 // mask: of CompareMaskedEqual, else 0
}

// rule says what happens to a call when all conditions hold. They are ordered by
// argument, and there is one at most for each.
type rule struct {
	action     uint32
	conditions []condition
}

// call has all rules for one number.
type call struct {
	fixed  bool   // action holds whatever the arguments; there are no rules
	action uint32 // if fixed
	rules  []rule // else: the first that holds counts
}

// ruleset has the rules for one abi.
type ruleset struct {
	abi   abi
	index [maxCode]uint16 // by code: place in calls plus 1, 0 for none
	calls []call
}

func newRuleset(a abi) *ruleset {
	return &ruleset{abi: a, calls: make([]call, 0, len(table))}
}

// add adds a rule for the call of an entry, with the number that multiplexes it.
func (s *ruleset) add(e int, action uint32, conditions []ScmpCondition) error {
	own := s.cut(conditions)
	if c := table[e].codes[s.abi]; c != none {
		if err := s.call(c).add(action, own); err != nil {
			return err
		}
	}
	if s.abi != x86 {
		return nil
	}
	through, number := multiplexed(table[e].name)
	if through == "" {
		return nil
	}
	own = slices.DeleteFunc(slices.Clone(own), func(c condition) bool { return c.arg == 0 })
	own = slices.Insert(own, 0, condition{arg: 0, op: CompareEqual, value: number})
	return s.call(table[find(through)].codes[x86]).add(action, own)
}

func (s *ruleset) call(c code) *call {
	if s.index[c] == 0 {
		s.calls = append(s.calls, call{})
		s.index[c] = uint16(len(s.calls))
	}
	return &s.calls[s.index[c]-1]
}

// cut turns a rule's conditions into what the abi compares.
func (s *ruleset) cut(conditions []ScmpCondition) []condition {
	if len(conditions) == 0 {
		return nil
	}
	width := ^uint64(0)
	if !s.abi.wide() {
		width = 1<<32 - 1
	}
	var out []condition
	for _, c := range conditions {
		o := condition{arg: uint8(c.Argument), op: c.Op, value: c.Operand1 & width}
		if c.Op == CompareMaskedEqual {
			o.mask = c.Operand1 & width
			o.value = c.Operand2 & o.mask
			if o.mask == 0 { // always holds
				continue
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b condition) int { return cmp.Compare(a.arg, b.arg) })
	return out
}

// check finds conditions that no rule may have.
func check(conditions []ScmpCondition) error {
	seen := 0
	for _, c := range conditions {
		if _, err := MakeCondition(c.Argument, c.Op, c.Operand1, c.Operand2); err != nil {
			return err
		}
		if seen&(1<<c.Argument) != 0 {
			return errors.New("two conditions are on the same argument")
		}
		seen |= 1 << c.Argument
	}
	return nil
}

// add adds a rule, as the package's comment says.
func (c *call) add(action uint32, conditions []condition) error {
	if c.fixed {
		return nil
	}
	if len(conditions) == 0 {
		*c = call{fixed: true, action: action}
		return nil
	}
	for _, r := range c.rules {
		switch {
		case begins(r.conditions, conditions) && (len(r.conditions) < len(conditions) || r.action == action):
			return nil
		case begins(conditions, r.conditions) && r.action != action:
			return fmt.Errorf("an earlier rule has another action for the same arguments: %w", syscall.EEXIST)
		}
	}
	c.rules = slices.DeleteFunc(c.rules, func(r rule) bool { return begins(conditions, r.conditions) })
	at := len(c.rules)
	for i, r := range c.rules {
		if compare(conditions, r.conditions) < 0 {
			at = i
			break
		}
	}
	c.rules = slices.Insert(c.rules, at, rule{action, conditions})
	return nil
}

// begins tells whether a rule's conditions are the first ones of another.
func begins(some, all []condition) bool {
	return len(some) <= len(all) && slices.Equal(some, all[:len(some)])
}

// compare tells by sign which of two rules' conditions are looked at first.
func compare(a, b []condition) int {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x.arg != y.arg {
			return cmp.Compare(y.arg, x.arg)
		}
		if d := rank(x.op) - rank(y.op); d != 0 {
			return d
		}
		d := cmp.Compare(y.value, x.value) // the higher lower bound first
		if rank(x.op) == rankUpper {
			d = -d
		}
		if d != 0 {
			return d
		}
	}
	return cmp.Compare(len(b), len(a))
}

const (
	rankEqual = iota
	rankUnequal
	rankUpper
	rankLower
)

func rank(op ScmpCompareOp) int {
	switch op {
	case CompareEqual, CompareMaskedEqual:
		return rankEqual
	case CompareNotEqual:
		return rankUnequal
	case CompareLess, CompareLessOrEqual:
		return rankUpper
	}
	return rankLower
}
