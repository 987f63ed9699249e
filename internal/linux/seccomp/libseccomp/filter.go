package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
)

// ScmpFilter is a filter in the making. It is for one goroutine at a time.
type ScmpFilter struct {
	valid         bool
	native        abi
	entries       [maxCode]uint16 // by native code: place in the table plus 1, 0 for none
	defaultAction uint32
	sets          []*ruleset
	noNewPrivs    bool
	log, ssb      bool
	waitKill      bool
}

var errBadFilter = errors.New("the filter was not made by NewFilter")

// NewFilter makes a filter for the native architecture with the action for calls
// that no rule is about.
func NewFilter(defaultAction ScmpAction) (*ScmpFilter, error) {
	arch, err := GetNativeArch()
	if err != nil {
		return nil, err
	}
	return newFilter(arch, defaultAction)
}

func newFilter(native ScmpArch, defaultAction ScmpAction) (*ScmpFilter, error) {
	action, err := defaultAction.code()
	if err != nil {
		return nil, fmt.Errorf("cannot make filter: default %w", err)
	}
	a, _ := abiOf(native)
	f := &ScmpFilter{valid: true, native: a, defaultAction: action, noNewPrivs: true, sets: []*ruleset{newRuleset(a)}}
	for e := range table {
		if c := table[e].codes[a]; c != none {
			f.entries[c] = uint16(e + 1)
		}
	}
	return f, nil
}

// AddArch adds an architecture, before the rules that are to hold for it. One that is
// there already, or that no kernel can report to this executable, changes nothing.
func (f *ScmpFilter) AddArch(arch ScmpArch) error {
	if !f.valid {
		return errBadFilter
	}
	if arch == ArchNative {
		return nil
	}
	if arch < ArchNative || int(arch) >= len(archNames) {
		return fmt.Errorf("cannot add architecture to filter: %v", arch)
	}
	a, ok := abiOf(arch)
	if ok && !slices.ContainsFunc(f.sets, func(s *ruleset) bool { return s.abi == a }) {
		f.sets = append(f.sets, newRuleset(a))
	}
	return nil
}

// AddRule adds a rule for a call whatever its arguments.
func (f *ScmpFilter) AddRule(nr ScmpSyscall, action ScmpAction) error {
	return f.AddRuleConditional(nr, action, nil)
}

// AddRuleConditional adds a rule for a call if all conditions hold, no two of which
// may be on the same argument. The number is a native one, or a negative one from
// GetSyscallFromName. A filter of which it has failed is good for nothing more.
func (f *ScmpFilter) AddRuleConditional(nr ScmpSyscall, action ScmpAction, conditions []ScmpCondition) error {
	if !f.valid {
		return errBadFilter
	}
	code, err := action.code()
	if err != nil {
		return err
	}
	if code == f.defaultAction {
		return errors.New("the action is that of the filter without rules")
	}
	if err := check(conditions); err != nil {
		return err
	}
	e := f.entry(nr)
	if e < 0 {
		return fmt.Errorf("no system call has number %d", nr)
	}
	for _, s := range f.sets {
		if err := s.add(e, code, conditions); err != nil {
			return err
		}
	}
	return nil
}

// entry finds a call's place in the table by its native number, or returns -1.
func (f *ScmpFilter) entry(nr ScmpSyscall) int {
	if nr < 0 {
		if e := int(pseudo(0) - nr); e >= 0 && e < len(table) {
			return e
		}
		return -1
	}
	if c := f.native.code(uint32(nr)); c != none && f.native.number(c) == uint32(nr) {
		return int(f.entries[c]) - 1
	}
	return -1
}

// SetOptimize accepts the levels of libseccomp, 1 and 2, and changes nothing: the
// program is always a binary tree.
func (f *ScmpFilter) SetOptimize(level int) error {
	switch {
	case !f.valid:
		return errBadFilter
	case level < 1 || level > 2:
		return fmt.Errorf("optimization level %d: %w", level, syscall.EOPNOTSUPP)
	}
	return nil
}

// SetNoNewPrivsBit notes whether loading the filter is to set no_new_privs; the
// default is yes. Whoever loads it does that.
func (f *ScmpFilter) SetNoNewPrivsBit(on bool) error {
	if !f.valid {
		return errBadFilter
	}
	f.noNewPrivs = on
	return nil
}

// GetNoNewPrivsBit returns what SetNoNewPrivsBit has set.
func (f *ScmpFilter) GetNoNewPrivsBit() (bool, error) { return f.get(&f.noNewPrivs, "", 0) }

// SetLogBit notes whether the filter is to be loaded with SECCOMP_FILTER_FLAG_LOG.
// It fails with VersionError on kernels without, as the following do.
func (f *ScmpFilter) SetLogBit(on bool) error { return f.set(&f.log, on, "logging", 3) }

// GetLogBit returns what SetLogBit has set.
func (f *ScmpFilter) GetLogBit() (bool, error) { return f.get(&f.log, "logging", 3) }

// SetSSB notes whether the filter is to be loaded with SECCOMP_FILTER_FLAG_SPEC_ALLOW.
func (f *ScmpFilter) SetSSB(on bool) error { return f.set(&f.ssb, on, "speculative stores", 4) }

// GetSSB returns what SetSSB has set.
func (f *ScmpFilter) GetSSB() (bool, error) { return f.get(&f.ssb, "speculative stores", 4) }

// SetWaitKill notes whether the filter is to be loaded with
// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
func (f *ScmpFilter) SetWaitKill(on bool) error {
	return f.set(&f.waitKill, on, "killable waiting", 7)
}

// GetWaitKill returns what SetWaitKill has set.
func (f *ScmpFilter) GetWaitKill() (bool, error) { return f.get(&f.waitKill, "killable waiting", 7) }

// set sets an attribute. A kernel that does not know it is an answer even for a
// filter that is none: libcontainer asks so what is supported.
func (f *ScmpFilter) set(field *bool, on bool, what string, level uint) error {
	if _, err := f.get(field, what, level); err != nil {
		return err
	}
	*field = on
	return nil
}

func (f *ScmpFilter) get(field *bool, what string, level uint) (bool, error) {
	if have := apiLevel(); have < level {
		return false, &VersionError{what, have, level}
	}
	if !f.valid {
		return false, errBadFilter
	}
	return *field, nil
}

// ExportBPF writes the program to a file, an array of struct sock_filter in the
// byte order of this machine.
func (f *ScmpFilter) ExportBPF(file *os.File) error {
	if !f.valid {
		return errBadFilter
	}
	program, err := f.program()
	if err != nil {
		return err
	}
	out := make([]byte, 0, 8*len(program))
	for _, i := range program {
		out = binary.NativeEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.NativeEndian.AppendUint32(out, i.k)
	}
	if _, err := file.Write(out); err != nil {
		return fmt.Errorf("cannot write seccomp filter: %w", err)
	}
	return nil
}
