package qos

import (
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// hardware is what a node's resctrl can allocate.
type hardware struct {
	caches    map[string][]cache // "L2", "L3": one, or one for code and one for data
	bandwidth *bandwidth         // nil: not at all
}

// cache is a resource of resctrl whose shares are bits of a mask.
type cache struct {
	name string // of its lines in schemata
	kind string // "unified", "code" or "data"
	ids  []int
	mask uint64
	min  int // bits
}

// bandwidth is that of memory.
type bandwidth struct {
	ids  []int
	min  int  // per cent
	mbps bool // it is told in MB a second
}

// shares are masks by cache id.
type shares map[int]uint64

// readHardware reads resctrl's folder info, and the cache ids from the root's schemata.
func readHardware(root string) (*hardware, error) {
	data, err := os.ReadFile(filepath.Join(root, "schemata"))
	if err != nil {
		return nil, errs.Precondition("there can be no RDT classes: %w; mount resctrl, if the processors have it: mount -t resctrl resctrl /sys/fs/resctrl", err)
	}
	hw := &hardware{caches: map[string][]cache{}}
	for line := range strings.Lines(string(data)) {
		name, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		var ids []int
		for e := range strings.SplitSeq(list, ";") {
			id, _, _ := strings.Cut(e, "=")
			if n, err := strconv.Atoi(strings.TrimSpace(id)); err == nil {
				ids = append(ids, n)
			}
		}
		info := filepath.Join(root, "info", name)
		if name == "MB" {
			b := &bandwidth{ids: ids}
			if b.min, err = number(info, "min_bandwidth", 10); err != nil {
				return nil, err
			}
			b.mbps = overPercent(list)
			hw.bandwidth = b
			continue
		}
		level, kind := name, "unified"
		for suffix, k := range map[string]string{"CODE": "code", "DATA": "data"} {
			if l, ok := strings.CutSuffix(name, suffix); ok {
				level, kind = l, k
			}
		}
		mask, err := number(info, "cbm_mask", 16)
		if err != nil {
			return nil, err
		}
		least, err := number(info, "min_cbm_bits", 10)
		if err != nil {
			return nil, err
		}
		hw.caches[level] = append(hw.caches[level], cache{name: name, kind: kind, ids: ids, mask: uint64(mask), min: least})
	}
	return hw, nil
}

// overPercent tells from the root's line whether bandwidth is told in MB a second: then
// the root's is larger than 100.
func overPercent(list string) bool {
	for e := range strings.SplitSeq(list, ";") {
		_, v, _ := strings.Cut(e, "=")
		if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64); err == nil && n > 100 {
			return true
		}
	}
	return false
}

func number(dir, file string, base int) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), base, 62)
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, file), err)
	}
	return int(n), nil
}

// pick finds what an allocation says of a cache id: a text, a list, or a table of ids or
// "all", in which there may be tables of "unified", "code" and "data".
func pick(alloc any, id int, kind string) (any, error) {
	table, ok := alloc.(map[string]any)
	if !ok {
		return alloc, nil
	}
	for _, k := range []string{kind, "unified"} {
		if v, ok := table[k]; ok {
			return v, nil
		}
	}
	if _, ok := table["code"]; ok {
		return nil, nil
	}
	var found any
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if key == "all" {
			if found == nil {
				found = table[key]
			}
			continue
		}
		ids, err := numbers(key)
		if err != nil {
			return nil, errs.Invalid("%q is neither all nor cache ids: %w", key, err)
		}
		if slices.Contains(ids, id) {
			found = table[key]
		}
	}
	if _, nested := found.(map[string]any); nested {
		return pick(found, id, kind)
	}
	return found, nil
}

// numbers reads "0-3,8".
func numbers(s string) (out []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 6)
		b, err2 := strconv.ParseUint(to, 10, 6)
		if err1 != nil || err2 != nil || b < a {
			return nil, errs.Invalid("%q: numbers and ranges up to 63 are needed", s)
		}
		for i := a; i <= b; i++ {
			out = append(out, int(i))
		}
	}
	return out, nil
}

// share turns a text into bits of a mask's: "N%" from its lowest, "N-M%", "0x..." or
// "0-3,5", counted from its lowest.
func (c *cache) share(text string, of uint64) (uint64, error) {
	width, shift := bits.OnesCount64(of), bits.TrailingZeros64(of)
	pct, isPct := strings.CutSuffix(text, "%")
	from, to, isRange := strings.Cut(pct, "-")
	hex, isHex := strings.CutPrefix(text, "0x")
	var m uint64
	switch {
	case isPct:
		if !isRange {
			from, to = "0", from
		}
		a, err1 := strconv.ParseUint(from, 10, 32)
		b, err2 := strconv.ParseUint(to, 10, 32)
		if err1 != nil || err2 != nil || a >= b || b > 100 {
			return 0, errs.Invalid("%q: write N%% or N-M%%, up to 100", text)
		}
		first, last := int(a)*width/100, (int(b)*width+99)/100
		if last-first < c.min {
			last = min(first+c.min, width)
			first = max(last-c.min, 0)
		}
		m = (1<<last - 1) &^ (1<<first - 1)
	case isHex:
		var err error
		if m, err = strconv.ParseUint(hex, 16, 64); err != nil {
			return 0, errs.Invalid("%q is no mask", text)
		}
	default:
		list, err := numbers(text)
		if err != nil {
			return 0, err
		}
		for _, n := range list {
			m |= 1 << n
		}
	}
	if m <<= shift; m == 0 || m&^of != 0 {
		return 0, errs.Invalid("%q does not lie in the mask %#x", text, of)
	}
	if bits.OnesCount64(m) < c.min {
		return 0, errs.Invalid("%q: this cache is allocated in %d bits at least", text, c.min)
	}
	return m, nil
}

// partition gives each partition bits of a cache that no other has: those that ask for a
// share by per cent in the order of their names, from the lowest bit.
func partition(c cache, parts []string, requests map[string]any, out map[string]shares) error {
	for _, p := range parts {
		out[p] = shares{}
	}
	for _, id := range c.ids {
		texts, absolute, silent := map[string]string{}, 0, 0
		for _, p := range parts {
			v, err := pick(requests[p], id, c.kind)
			if err != nil {
				return errs.Invalid("partition %s: %w", p, err)
			}
			if v == nil {
				silent++
				continue
			}
			texts[p] = strings.TrimSpace(fmt.Sprint(v))
			if !strings.HasSuffix(texts[p], "%") {
				absolute++
			}
		}
		if silent > 0 && silent < len(parts) || absolute > 0 && absolute < len(texts) {
			return errs.Invalid("%s of cache %d: all partitions must have a share of it, all in per cent or all as masks", c.name, id)
		}
		var used uint64
		at := bits.TrailingZeros64(c.mask)
		for _, p := range parts {
			text, asked := texts[p]
			m := c.mask
			var err error
			if pct, ok := strings.CutSuffix(text, "%"); ok && !strings.Contains(pct, "-") {
				n, e := strconv.ParseUint(pct, 10, 32)
				if e != nil || n == 0 || n > 100 {
					return errs.Invalid("partition %s: %q: write N%%, up to 100", p, text)
				}
				width := max(c.min, bits.OnesCount64(c.mask)*int(n)/100)
				m, at = (1<<width-1)<<at, at+width
			} else if asked {
				if m, err = c.share(text, c.mask); err != nil {
					return errs.Invalid("partition %s: %w", p, err)
				}
			}
			if asked && (m&used != 0 || m&^c.mask != 0) {
				return errs.Invalid("partition %s: %s of %s, cache %d, is more than other partitions leave", p, text, c.name, id)
			}
			used |= m
			out[p][id] = m
		}
	}
	return nil
}

// schema is the line for a class: its share of its partition's, or all of that.
func (c *cache) schema(of shares, alloc any) (string, error) {
	var parts []string
	for _, id := range c.ids {
		v, err := pick(alloc, id, c.kind)
		if err != nil {
			return "", err
		}
		m := of[id]
		if v != nil {
			if m, err = c.share(strings.TrimSpace(fmt.Sprint(v)), m); err != nil {
				return "", err
			}
		}
		parts = append(parts, fmt.Sprintf("%d=%x", id, m))
	}
	return c.name + ":" + strings.Join(parts, ";"), nil
}

// unlimited is more bandwidth than there is, in MB a second.
const unlimited = 1<<32 - 1

// schema is the line for a class: per cent of its partition's per cent, or the lesser of
// both in MB a second.
func (b *bandwidth) schema(partition, class any) (string, error) {
	var parts []string
	for _, id := range b.ids {
		p, err := b.value(partition, id)
		if err != nil {
			return "", err
		}
		c, err := b.value(class, id)
		if err != nil {
			return "", err
		}
		n := min(p, c)
		if !b.mbps {
			n = max((p*c+99)/100, b.min)
		}
		parts = append(parts, fmt.Sprintf("%d=%d", id, n))
	}
	return "MB:" + strings.Join(parts, ";"), nil
}

// value reads a list of texts, "50%" and "1000MBps": the one that fits is taken.
func (b *bandwidth) value(alloc any, id int) (int, error) {
	v, err := pick(alloc, id, "unified")
	if err != nil {
		return 0, err
	}
	unit, whole, most := "%", 100, uint64(100)
	if b.mbps {
		unit, whole, most = "MBps", unlimited, unlimited
	}
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	for _, e := range list {
		text := strings.TrimSpace(fmt.Sprint(e))
		n, fits := strings.CutSuffix(text, unit)
		if !fits {
			continue
		}
		u, err := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
		if err != nil || u == 0 || u > most {
			return 0, errs.Invalid("%q: a number up to %d is needed", text, most)
		}
		return int(u), nil
	}
	if len(list) > 0 {
		return 0, errs.Invalid("%v: this node's bandwidth is told in %s", list, unit)
	}
	return whole, nil
}
