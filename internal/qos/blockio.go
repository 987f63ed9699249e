// Package qos knows classes of service that an administrator defines in files: of block
// I/O, by weights and limits of devices, and of processors' caches and memory bandwidth
// (resctrl, Intel RDT). The files have the form of github.com/intel/goresctrl, which is
// known from other engines; it is not linked, for what its packages do in every process
// that begins.
//
// It knows no pod.
package qos

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BlockIO are classes of block I/O. The zero value has none.
type BlockIO struct {
	file    string
	classes map[string][]ioRule
	found   map[string]ioClass // with the devices of the start; nil: they are looked for anew
}

// ioRule says something of some devices, or without any of all.
type ioRule struct {
	Devices           []string
	Weight            text
	ThrottleReadBps   text
	ThrottleWriteBps  text
	ThrottleReadIOPS  text
	ThrottleWriteIOPS text
}

// ioClass is a class on the devices that there are.
type ioClass struct {
	io    *specs.LinuxBlockIO
	notes []string
}

// ReadBlockIO reads a file of classes; "" is none. With rescan devices are looked for
// whenever a class is used, else once.
func ReadBlockIO(file string, rescan bool) (*BlockIO, error) {
	b := &BlockIO{file: file}
	if file == "" {
		return b, nil
	}
	data, err := os.ReadFile(file)
	var c struct{ Classes map[string][]ioRule }
	if err == nil {
		err = decode(data, &c)
	}
	if err != nil {
		return nil, errs.Invalid("cannot read classes of block I/O from %s: %w", file, err)
	}
	b.classes = c.Classes
	found := map[string]ioClass{}
	for name := range c.Classes {
		if found[name], err = b.resolve(name); err != nil {
			return nil, errs.Invalid("cannot use %s: %w", file, err)
		}
	}
	if !rescan {
		b.found = found
	}
	return b, nil
}

// Class is a class on the devices that there are. The notes tell what has no effect.
func (b *BlockIO) Class(name string) (io *specs.LinuxBlockIO, notes []string, err error) {
	if b.file == "" {
		return nil, nil, errs.Precondition("there is no block I/O class %q: this node has none: set blockio_config_file in [crio.runtime]", name)
	}
	if _, ok := b.classes[name]; !ok {
		return nil, nil, errs.Invalid("there is no block I/O class %q: %s has %s", name, b.file, strings.Join(slices.Sorted(maps.Keys(b.classes)), ", "))
	}
	c, ok := b.found[name]
	if !ok {
		if c, err = b.resolve(name); err != nil {
			return nil, nil, err
		}
	}
	return c.io, c.notes, nil
}

func (b *BlockIO) resolve(name string) (c ioClass, err error) {
	c.io = &specs.LinuxBlockIO{}
	for _, r := range b.classes[name] {
		if err := c.add(r); err != nil {
			return c, errs.Invalid("block I/O class %s: %w", name, err)
		}
	}
	return c, nil
}

// add adds what a rule says.
func (c *ioClass) add(r ioRule) error {
	weight, err := quantity("Weight", r.Weight)
	if err != nil {
		return err
	}
	if r.Weight != "" && (weight < 10 || weight > 1000) {
		return errs.Invalid("Weight = %q: weights are 10 to 1000", r.Weight)
	}
	limits := []struct {
		name string
		text text
		into *[]specs.LinuxThrottleDevice
	}{
		{"ThrottleReadBps", r.ThrottleReadBps, &c.io.ThrottleReadBpsDevice}, {"ThrottleWriteBps", r.ThrottleWriteBps, &c.io.ThrottleWriteBpsDevice},
		{"ThrottleReadIOPS", r.ThrottleReadIOPS, &c.io.ThrottleReadIOPSDevice}, {"ThrottleWriteIOPS", r.ThrottleWriteIOPS, &c.io.ThrottleWriteIOPSDevice},
	}
	if len(r.Devices) == 0 {
		if r.Weight != "" {
			c.io.Weight = new(uint16(weight))
		}
		for _, l := range limits {
			if l.text != "" {
				return errs.Invalid("%s = %q: limits need Devices", l.name, l.text)
			}
		}
		return nil
	}
	devices, err := c.devices(r.Devices)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if r.Weight != "" {
			w := specs.LinuxWeightDevice{Weight: new(uint16(weight))}
			w.Major, w.Minor = d[0], d[1]
			c.io.WeightDevice = append(slices.DeleteFunc(c.io.WeightDevice, func(o specs.LinuxWeightDevice) bool { return o.Major == d[0] && o.Minor == d[1] }), w)
		}
	}
	for _, l := range limits {
		rate, err := quantity(l.name, l.text)
		if err != nil {
			return err
		}
		for _, d := range devices {
			if l.text == "" {
				continue
			}
			t := specs.LinuxThrottleDevice{Rate: uint64(rate)}
			t.Major, t.Minor = d[0], d[1]
			*l.into = append(slices.DeleteFunc(*l.into, func(o specs.LinuxThrottleDevice) bool { return o.Major == d[0] && o.Minor == d[1] }), t)
		}
	}
	return nil
}

// devices finds block devices by patterns of paths, symbolic links followed.
func (c *ioClass) devices(patterns []string) (list [][2]int64, err error) {
	for _, p := range patterns {
		if !filepath.IsAbs(p) {
			return nil, errs.Invalid("Devices: %q is not an absolute path", p)
		}
		found, err := filepath.Glob(p)
		if err != nil {
			return nil, errs.Invalid("Devices: %q: %w", p, err)
		}
		n := 0
		for _, path := range found {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
				continue
			}
			n++
			if d := [2]int64{int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))}; !slices.Contains(list, d) {
				list = append(list, d)
			}
		}
		if n == 0 {
			c.notes = append(c.notes, fmt.Sprintf("no block device is at %s: what a class of block I/O says of it has no effect", p))
		}
	}
	return list, nil
}

// quantity reads a number with a suffix of powers of 1000 (k, M, G, T, P) or 1024 (Ki, Mi, ...).
func quantity(name string, s text) (int64, error) {
	if s == "" {
		return 0, nil
	}
	text, factor := strings.TrimSpace(string(s)), int64(1)
	for i, unit := range []string{"k", "M", "G", "T", "P"} {
		for suffix, base := range map[string]int64{unit: 1000, strings.ToUpper(unit) + "i": 1024} {
			if t, ok := strings.CutSuffix(text, suffix); ok && factor == 1 {
				text = t
				for range i + 1 {
					factor *= base
				}
			}
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || v < 0 || v*float64(factor) >= 1<<62 {
		return 0, errs.Invalid("%s = %q: a number is needed, with k, M, G, T, P or Ki, Mi, Gi, Ti, Pi behind it", name, s)
	}
	return int64(v * float64(factor)), nil
}
