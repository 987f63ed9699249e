package seccomp

import (
	"math/rand/v2"
	"slices"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// callNames are all names that the C library knows on our architectures.
func callNames(t testing.TB) []string {
	t.Helper()
	set := map[string]bool{}
	for _, a := range arches {
		for _, nr := range numbers {
			if n := clib.Name(a.token, int(int32(nr))); n != "" {
				set[n] = true
			}
		}
	}
	if len(set) < 400 {
		t.Fatalf("%d names only", len(set))
	}
	names := make([]string, 0, len(set))
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

var (
	operands = []uint64{0, 1, 2, 5, 8, 40, 0x7e020000, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 | 1, 1<<32 | 5, 3 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	actions  = []libseccomp.ScmpAction{
		errno(1), errno(2), errno(38), libseccomp.ActAllow, libseccomp.ActLog, libseccomp.ActTrap, libseccomp.ActKillProcess,
		libseccomp.ActKillThread, libseccomp.ActTrace.SetReturnCode(3), libseccomp.ActNotify,
	}
)

// maker makes random profiles.
type maker struct {
	*rand.Rand
	names  []string
	others []libseccomp.ScmpAction // all but the default one
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// some returns up to n conditions on different arguments.
func (m maker) some(n int, ops ...libseccomp.ScmpCompareOp) (list []libseccomp.ScmpCondition) {
	args := m.Perm(6)
	for i := range 1 + m.IntN(n) {
		v := []uint64{pick(m.Rand, operands), pick(m.Rand, operands)}
		if m.IntN(4) == 0 {
			v[0] = m.Uint64()
		}
		list = append(list, arg(uint(args[i]), pick(m.Rand, ops), v...))
	}
	return list
}

// rules makes the rules of one call, of a kind in which the C library does what its
// manual says (see the comment of our package). Plain rules have no conditions.
func (m maker) rules(name string, action libseccomp.ScmpAction, plain bool) []rule {
	kind := m.IntN(7)
	switch {
	case plain && m.IntN(10) > 0:
		kind = 6
	case m.shared(name): // several names become one call: no bounds
		kind = 3 + m.IntN(3)
	}
	if kind == 4 && !everywhere(name) { // the C library sees conflicts about calls that are not there
		kind = 3
	}
	n := 1 + m.IntN(4)
	var list []rule
	for range n {
		r := rule{name: name, action: action}
		switch kind {
		case 0: // one rule with anything
			r.conditions, n = m.some(6, ne, lt, le, eq, ge, gt, masked), 1
		case 1: // one condition each
			r.conditions = m.some(1, ne, eq, ge, gt, masked)
		case 2: // bounds, in the end overruled
			r.conditions = m.some(3, ne, lt, le, eq, ge, gt, masked)
			return []rule{r, {name: name, action: pick(m.Rand, m.others)}, {name, action, m.some(3, lt, le)}}
		case 3: // many equalities
			r.conditions = m.some(4, eq, masked)
		case 4: // different actions
			r.conditions, r.action = m.some(3, eq), pick(m.Rand, m.others)
		default:
		}
		list = append(list, r)
		if n == 1 {
			break
		}
	}
	return list
}

// everywhere tells whether all architectures have a call.
func everywhere(name string) bool {
	return !slices.ContainsFunc(arches, func(a architecture) bool { return clib.Number(a.token, name) < 0 })
}

// shared tells whether a call has part in a multiplexed one of 32-bit x86.
func (m maker) shared(name string) bool {
	return isMultiplexed(name) || name == "socketcall" || name == "ipc"
}

func (m maker) profile() profile { // m is a copy
	p := profile{action: pick(m.Rand, actions)}
	for _, a := range everyArch {
		if m.IntN(2) == 0 {
			p.arches = append(p.arches, a)
		}
	}
	calls, many := 1+m.IntN(60), m.IntN(5) == 0
	if many {
		calls = 400
	}
	m.others = slices.DeleteFunc(slices.Clone(actions), func(a libseccomp.ScmpAction) bool { return a == p.action })
	usual := pick(m.Rand, m.others)
	done := map[string]bool{}
	for range calls {
		name, action := pick(m.Rand, m.names), usual
		if m.IntN(4) == 0 {
			action = pick(m.Rand, m.others)
		}
		if done[name] {
			continue
		}
		done[name] = true
		p.rules = append(p.rules, m.rules(name, action, many)...)
	}
	if m.IntN(3) == 0 {
		m.Shuffle(len(p.rules), func(i, j int) { p.rules[i], p.rules[j] = p.rules[j], p.rules[i] })
	}
	return p
}

// TestRandom compares many profiles that nobody would write.
func TestRandom(t *testing.T) {
	names := callNames(t)
	for seed := range uint64(150) {
		m := maker{rand.New(rand.NewPCG(seed, 5)), names, nil}
		p := m.profile()
		compare(t, p, m.Rand)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzProfile goes on where TestRandom ends:
//
//	go test ./internal/test/seccomp -run '^$' -fuzz Profile -fuzztime 10m
func FuzzProfile(f *testing.F) {
	names := callNames(f)
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		m := maker{rand.New(rand.NewPCG(a, b)), names, nil}
		compare(t, m.profile(), m.Rand)
	})
}
