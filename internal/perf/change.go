package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// change is one file that is changed for a container.
type change struct {
	Kind kind   `json:"kind"`
	Path string `json:"path"`
	// Old and New are the values of a file that is changed as a whole; of an affinity, New
	// is the mask of an interrupt that had no other processors.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// CPUs are those that are taken out of a set, or added to it; only such as are in it,
	// or are not, when the change is planned.
	CPUs string `json:"cpus,omitempty"`
}

// kind is how a file is changed.
type kind string

const (
	value     kind = "value"     // as a whole
	demand    kind = "demand"    // as a whole, and the kernel must be seen to agree
	affinity  kind = "affinity"  // processors are taken out of a mask
	exclusive kind = "exclusive" // processors are added to a list
	banned    kind = "banned"    // processors are added to irqbalance's mask
)

// do makes the change.
func (c change) do(t *Tuner) error {
	switch c.Kind {
	case value:
		if c.Old == c.New {
			return nil
		}
		return t.write(c.Path, c.New)
	case demand:
		if err := t.write(c.Path, c.New); err != nil {
			return err
		}
		if now, err := t.read(c.Path); err != nil || now != c.New {
			return errors.Join(err, fmt.Errorf("cannot set %s to %s: the kernel says %q", c.Path, c.New, now))
		}
		return nil
	}
	return c.change(t, true)
}

// undo takes the change back. A file that is gone needs none.
func (c *change) undo(t *Tuner, at int64, others []*record) error {
	if c.Kind != value && c.Kind != demand {
		if done, err := c.lone(t, others); done || err != nil {
			return gone(err)
		}
		if err := c.handOver(t, others); err != nil {
			return err
		}
		return gone(c.change(t, false))
	}
	for _, o := range others {
		for i := range o.Changes {
			if l := &o.Changes[i]; l.Path == c.Path && l.Old == c.New && o.At > at {
				l.Old = c.Old // what it has found was ours
				return t.save(o)
			}
		}
	}
	switch now, err := t.read(c.Path); {
	case err != nil:
		return gone(err)
	case now == c.Old:
	case now == c.New, c.Kind == demand && strings.HasPrefix(now, c.New+" invalid"):
		return gone(t.write(c.Path, c.Old))
	default:
		t.o.Log.Warn("a file that was changed for a container has been changed by somebody else since; it is left so", "path", c.Path, "value", now, "before", c.Old)
	}
	return nil
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// change moves the processors out of the set, or into it. Nothing is written that is so
// already.
func (c change) change(t *Tuner, forth bool) error {
	mine, err := parseList(c.CPUs)
	if err != nil {
		return err
	}
	now, digits, err := t.set(c)
	if err != nil {
		return err
	}
	next := now.or(mine)
	if forth == (c.Kind == affinity) {
		next = now.minus(mine)
	}
	if c.New != "" && forth {
		if next, _, err = parseMask(c.New); err != nil {
			return err
		}
	}
	if slices.Equal(next, now) {
		return nil
	}
	switch c.Kind {
	case affinity:
		err = t.write(c.Path, next.mask(digits))
		if forth && (errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)) {
			return nil // the kernel or a driver keeps this interrupt where it is
		}
		return err
	case exclusive:
		return t.write(c.Path, next.String())
	}
	return t.ban(next, digits)
}

// lone gives an interrupt back to the processors that it had alone, but for those that
// others want quiet; theirs is then what is to be put back of its first mask. It does
// nothing if somebody else has steered the interrupt since.
func (c *change) lone(t *Tuner, others []*record) (done bool, err error) {
	if c.Kind != affinity || c.New == "" {
		return false, nil
	}
	now, digits, err := t.set(*c)
	if err != nil {
		return false, err
	}
	before, _, err1 := parseMask(c.Old)
	moved, _, err2 := parseMask(c.New)
	quiet := map[*record]cpus{}
	var all cpus
	for _, o := range others {
		theirs, err := parseList(o.Quiet)
		if err != nil {
			return false, err
		}
		quiet[o], all = theirs, all.or(theirs)
	}
	if err := errors.Join(err1, err2); err != nil || !slices.Equal(now, moved.minus(all)) || len(before.minus(all)) == 0 {
		return false, err
	}
	for _, o := range others {
		o.Changes = slices.DeleteFunc(o.Changes, func(l change) bool { return l.Kind == affinity && l.Path == c.Path })
		if owes := before.and(quiet[o]); len(owes) > 0 {
			o.Changes = append(o.Changes, change{Kind: affinity, Path: c.Path, CPUs: owes.String()})
		}
		if err := t.save(o); err != nil {
			return false, err
		}
	}
	return true, t.write(c.Path, before.minus(all).mask(digits))
}

// set reads the set of a file, and for masks how many digits it has.
func (t *Tuner) set(c change) (cpus, int, error) {
	switch c.Kind {
	case affinity:
		text, err := t.read(c.Path)
		if err != nil {
			return nil, 0, err
		}
		return parseMask(text)
	case exclusive:
		text, err := t.read(c.Path)
		if err != nil {
			return nil, 0, err
		}
		list, err := parseList(text)
		return list, 0, err
	}
	return t.banned()
}

// handOver leaves to other containers the processors that they want out of the same set:
// the last one of them puts them back.
func (c *change) handOver(t *Tuner, others []*record) error {
	if c.Kind == exclusive {
		return nil
	}
	mine, err := parseList(c.CPUs)
	if err != nil {
		return err
	}
	for _, o := range others {
		theirs, err := parseList(o.Quiet)
		if err != nil {
			return err
		}
		both := mine.and(theirs)
		if len(both) == 0 {
			continue
		}
		mine = mine.minus(both)
		i := slices.IndexFunc(o.Changes, func(l change) bool { return l.Kind == c.Kind && l.Path == c.Path })
		if i < 0 {
			o.Changes = append(o.Changes, change{Kind: c.Kind, Path: c.Path, CPUs: both.String()})
		} else {
			has, err := parseList(o.Changes[i].CPUs)
			if err != nil {
				return err
			}
			o.Changes[i].CPUs = has.or(both).String()
		}
		if err := t.save(o); err != nil {
			return err
		}
	}
	c.CPUs = mine.String()
	return nil
}

func (t *Tuner) write(path, text string) error {
	f, err := os.OpenFile(t.o.Root+path, os.O_WRONLY|t.flags(), 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text + "\n")
	return errors.Join(err, f.Close())
}

// flags are for files below another root, which keep what is not overwritten.
func (t *Tuner) flags() int {
	if t.o.Root != "" {
		return os.O_TRUNC
	}
	return 0
}
