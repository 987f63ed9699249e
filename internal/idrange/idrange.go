// Package idrange gives pods that ask for it by annotation the ids of a user namespace:
// from the ranges that /etc/subuid and /etc/subgid set aside for the user "containers",
// such that no two pods have an id in common.
//
// It knows files of the form of subuid(5), and no pod.
package idrange

import (
	"bufio"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
)

// Range maps Size ids from Container on to those from Host on.
type Range struct{ Container, Host, Size uint32 }

func (r Range) end() uint64 { return uint64(r.Host) + uint64(r.Size) }

// Map is both halves of a user namespace.
type Map struct{ UIDs, GIDs []Range }

// Request is what the annotation says.
type Request struct {
	// Auto takes free ids; else UIDs and GIDs are the whole mapping.
	Auto bool
	Size uint32
	// KeepID gives the pod's user the same id outside as inside; MapToRoot makes it
	// root inside.
	KeepID, MapToRoot bool
	// UIDs and GIDs are mapped as they stand.
	UIDs, GIDs []Range
}

const defaultSize = 65536

// Parse reads auto[:OPTION;OPTION...] or private:uidmapping=...;gidmapping=..., where a
// mapping is CONTAINER:HOST:SIZE, several are parted by commas.
func Parse(text string) (*Request, error) {
	fail := func(format string, args ...any) (*Request, error) {
		return nil, errs.Invalid("user namespace %q: "+format, append([]any{text}, args...)...)
	}
	mode, options, _ := strings.Cut(text, ":")
	r := &Request{Auto: mode == "auto", Size: defaultSize}
	if mode != "auto" && mode != "private" {
		return fail("auto and private are known")
	}
	for o := range strings.SplitSeq(options, ";") {
		key, value, _ := strings.Cut(o, "=")
		var err error
		switch {
		case o == "":
		case key == "size" && r.Auto:
			var n uint64
			if n, err = strconv.ParseUint(value, 10, 32); err == nil && n == 0 {
				err = errs.Invalid("it is 0")
			}
			r.Size = uint32(n)
		case key == "keep-id" && r.Auto:
			r.KeepID, err = strconv.ParseBool(value)
		case key == "map-to-root" && r.Auto:
			r.MapToRoot, err = strconv.ParseBool(value)
		case key == "uidmapping":
			r.UIDs, err = Ranges(value)
		case key == "gidmapping":
			r.GIDs, err = Ranges(value)
		default:
			return fail("option %q is not known in mode %s", key, mode)
		}
		if err != nil {
			return fail("option %s: %w", key, err)
		}
	}
	switch {
	case r.KeepID && r.MapToRoot:
		return fail("keep-id and map-to-root exclude each other")
	case !r.Auto && (len(r.UIDs) == 0 || len(r.GIDs) == 0):
		return fail("uidmapping and gidmapping are needed")
	}
	return r, nil
}

// Ranges reads mappings CONTAINER:HOST:SIZE that are parted by commas.
func Ranges(text string) (list []Range, err error) {
	for one := range strings.SplitSeq(text, ",") {
		var n [3]uint64
		part := strings.Split(one, ":")
		ok := len(part) == 3
		for i := 0; ok && i < 3; i++ {
			n[i], err = strconv.ParseUint(part[i], 10, 32)
			ok = err == nil
		}
		if !ok || n[2] == 0 || n[0]+n[2] > 1<<32 || n[1]+n[2] > 1<<32 {
			return nil, errs.Invalid("%q: write CONTAINER:HOST:SIZE", one)
		}
		list = append(list, Range{uint32(n[0]), uint32(n[1]), uint32(n[2])})
	}
	return list, nil
}

// Pool is where ids come from.
type Pool struct {
	SubUID, SubGID string // files
	User           string // whose ranges
	// MinUID and MinGID are the least ids of the node that may be mapped as they
	// stand; negative: any.
	MinUID, MinGID int64

	mu    sync.Mutex
	taken []*Map // of pods that nobody lists yet
}

// Take finds ids for a pod whose user has the given ids; used are those of the pods there
// are. They stay taken until release is called, by when the pod must be listed or gone.
func (p *Pool) Take(r *Request, uid, gid int64, used func() []Map) (m Map, release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	others := used()
	for _, t := range p.taken {
		others = append(others, *t)
	}
	var uids, gids []Range
	for _, o := range others {
		uids, gids = append(uids, o.UIDs...), append(gids, o.GIDs...)
	}
	if m.UIDs, err = p.half(half{file: p.SubUID, what: "user", least: p.MinUID, fixed: r.UIDs, id: uid, used: uids}, r); err != nil {
		return Map{}, nil, err
	}
	if m.GIDs, err = p.half(half{file: p.SubGID, what: "group", least: p.MinGID, fixed: r.GIDs, id: gid, used: gids}, r); err != nil {
		return Map{}, nil, err
	}
	p.taken = append(p.taken, &m)
	mine := &m
	return m, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken = slices.DeleteFunc(p.taken, func(t *Map) bool { return t == mine })
	}, nil
}

// half is what users' ids and groups' ids differ in.
type half struct {
	file, what string
	least      int64
	fixed      []Range
	id         int64 // of the pod's user; negative: unknown
	used       []Range
}

func (p *Pool) half(h half, r *Request) ([]Range, error) {
	fixed := slices.Clone(h.fixed)
	if r.KeepID || r.MapToRoot {
		if h.id <= 0 { // root outside as well would be no namespace
			return nil, errs.Invalid("user namespace: keep-id and map-to-root need run_as_user and run_as_group in the pod's security context, other than 0")
		}
		one := Range{Host: uint32(h.id), Size: 1}
		if r.KeepID {
			one.Container = uint32(h.id)
		}
		fixed = append(fixed, one)
	}
	for _, f := range fixed {
		if h.least >= 0 && int64(f.Host) < h.least {
			return nil, errs.Invalid("user namespace: %s %d of the node may not be mapped: the least is %d", h.what, f.Host, h.least)
		}
	}
	if err := overlap(fixed, h.what); err != nil || !r.Auto {
		return rootFirst(fixed, h.what, err)
	}
	free, err := p.free(h, r.Size)
	if err != nil {
		return nil, err
	}
	return rootFirst(append(fixed, fill(fixed, free, r.Size)...), h.what, nil)
}

// overlap refuses ids that would be mapped twice.
func overlap(list []Range, what string) error {
	for i, a := range list {
		for _, b := range list[i+1:] {
			if uint64(a.Container) < uint64(b.Container)+uint64(b.Size) && uint64(b.Container) < uint64(a.Container)+uint64(a.Size) ||
				uint64(a.Host) < b.end() && uint64(b.Host) < a.end() {
				return errs.Invalid("user namespace: the %s mappings %d:%d:%d and %d:%d:%d overlap", what, a.Container, a.Host, a.Size, b.Container, b.Host, b.Size)
			}
		}
	}
	return nil
}

// Whole reads both halves of a mapping that several pods share.
func Whole(uids, gids string) (m Map, err error) {
	for _, h := range []struct {
		what, text string
		to         *[]Range
	}{{"user", uids, &m.UIDs}, {"group", gids, &m.GIDs}} {
		if *h.to, err = Ranges(h.text); err == nil {
			err = overlap(*h.to, h.what)
		}
		if *h.to, err = rootFirst(*h.to, h.what, err); err != nil {
			return Map{}, err
		}
	}
	return m, nil
}

// rootFirst sorts by the ids inside, which must begin with 0: files of the pod belong to
// its root.
func rootFirst(list []Range, what string, err error) ([]Range, error) {
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Container, b.Container) })
	if err == nil && (len(list) == 0 || list[0].Container != 0) {
		err = errs.Invalid("user namespace: %s 0 is not mapped", what)
	}
	return list, err
}

// fill maps what is not fixed of the ids below size, to those from host on.
func fill(fixed []Range, host uint32, size uint32) (list []Range) {
	fixed = slices.Clone(fixed)
	slices.SortFunc(fixed, func(a, b Range) int { return cmp.Compare(a.Container, b.Container) })
	at := uint64(0)
	add := func(until uint64) {
		if until = min(until, uint64(size)); until > at {
			list = append(list, Range{Container: uint32(at), Host: host + uint32(at), Size: uint32(until - at)})
		}
	}
	for _, f := range fixed {
		add(uint64(f.Container))
		at = max(at, uint64(f.Container)+uint64(f.Size))
	}
	add(uint64(size))
	return list
}

// free finds the first gap of the size in the ranges that are set aside.
func (p *Pool) free(h half, size uint32) (uint32, error) {
	list, err := subordinate(h.file, p.User)
	if err != nil {
		return 0, err
	}
	if len(list) == 0 {
		return 0, errs.Precondition("user namespace: %s sets no %s ids aside for %q; add a line such as %s:1000000:1000000", h.file, h.what, p.User, p.User)
	}
	used := slices.Clone(append(h.used, h.fixed...))
	slices.SortFunc(used, func(a, b Range) int { return cmp.Compare(a.Host, b.Host) })
	for _, r := range list {
		at := uint64(r.Host)
		for _, u := range used {
			if u.end() <= at || uint64(u.Host) >= at+uint64(size) {
				continue
			}
			at = u.end()
		}
		if at+uint64(size) <= r.end() {
			return uint32(at), nil
		}
	}
	return 0, errs.Precondition("user namespace: no %d %s ids are free of those that %s sets aside for %q", size, h.what, h.file, p.User)
}

// subordinate reads a file of lines USER:FIRST:COUNT; absence is an empty file.
func subordinate(path, user string) (list []Range, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		part := strings.Split(strings.TrimSpace(s.Text()), ":")
		if len(part) != 3 || part[0] != user {
			continue
		}
		first, err1 := strconv.ParseUint(part[1], 10, 32)
		count, err2 := strconv.ParseUint(part[2], 10, 32)
		if err1 != nil || err2 != nil || first+count > 1<<32 {
			return nil, errs.Precondition("%s: line %q is no USER:FIRST:COUNT", path, s.Text())
		}
		list = append(list, Range{Host: uint32(first), Size: uint32(count)})
	}
	return list, s.Err()
}
