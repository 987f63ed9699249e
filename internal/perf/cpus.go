package perf

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// cpus is a set of processors, in order.
type cpus []int

// maxCPU bounds what is read; kernels are built for fewer.
const maxCPU = 1 << 16

// parseList reads the kernel's list format, "0-3,8".
func parseList(s string) (c cpus, err error) {
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || b < a || b >= maxCPU {
			return nil, errs.Invalid("list of processors %q: %q is neither a number nor a range", s, part)
		}
		for i := a; i <= b; i++ {
			c = append(c, i)
		}
	}
	slices.Sort(c)
	return slices.Compact(c), nil
}

// String writes the list format.
func (c cpus) String() string {
	var parts []string
	for i := 0; i < len(c); {
		j := i
		for j+1 < len(c) && c[j+1] == c[j]+1 {
			j++
		}
		if part := strconv.Itoa(c[i]); j > i {
			parts = append(parts, part+"-"+strconv.Itoa(c[j]))
		} else {
			parts = append(parts, part)
		}
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func (c cpus) has(n int) bool { _, ok := slices.BinarySearch(c, n); return ok }

func (c cpus) minus(o cpus) (out cpus) {
	for _, n := range c {
		if !o.has(n) {
			out = append(out, n)
		}
	}
	return out
}

func (c cpus) and(o cpus) cpus { return c.minus(c.minus(o)) }

func (c cpus) or(o cpus) cpus {
	out := append(slices.Clone(c), o...)
	slices.Sort(out)
	return slices.Compact(out)
}

// parseMask reads the kernel's mask format, hexadecimal with a comma after each 32 bits
// from the right, and tells how many digits it has.
func parseMask(s string) (c cpus, digits int, err error) {
	text := strings.ReplaceAll(strings.TrimPrefix(strings.TrimSpace(s), "0x"), ",", "")
	for i := range len(text) {
		v, err := strconv.ParseUint(text[len(text)-1-i:len(text)-i], 16, 8)
		if err != nil {
			return nil, 0, errs.Invalid("mask of processors %q: it is not hexadecimal", s)
		}
		for bit := range 4 {
			if v&(1<<bit) != 0 {
				c = append(c, 4*i+bit)
			}
		}
	}
	return c, len(text), nil
}

// mask writes the mask format with at least so many digits.
func (c cpus) mask(digits int) string {
	if len(c) > 0 {
		digits = max(digits, c[len(c)-1]/4+1)
	}
	nibbles := make([]byte, max(digits, 1))
	for _, n := range c {
		nibbles[n/4] |= 1 << (n % 4)
	}
	var b strings.Builder
	for i := len(nibbles) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%x", nibbles[i])
		if i > 0 && i%8 == 0 {
			b.WriteByte(',')
		}
	}
	return b.String()
}
