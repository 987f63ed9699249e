package cgroup

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the search for processes: cgroups nest without end.
const maxDepth = 16

// hierarchy is a place where a cgroup has a folder.
type hierarchy uint8

const (
	unified hierarchy = iota // version 2
	hCPU
	hCPUAcct
	hMemory
	hPids
	hBlkio
	hHugetlb
	hierarchies int = iota
)

// mounted is the key in Tree.Mounts.
func (h hierarchy) mounted() string {
	return [...]string{"", "cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"}[h]
}

// halfPage: a list comes in pieces of up to a page, each as full as its lines allow. A
// piece that is not half full is the last one; to ask for more would have the kernel
// make the list once more.
const halfPage = 2048

// scan is one reading of a cgroup.
type scan struct {
	h      *Handle
	buf    []byte
	keep   bool   // files stay open
	found  *group // a folder that was there
	absent bool   // a folder or a file was not
	died   bool   // the cgroup is gone
}

// group is one open folder.
type group struct {
	s  *scan
	fd int
}

// in calls f with the folder of a hierarchy, if it is there.
func (s *scan) in(h hierarchy, f func(*group)) {
	if s.h.t.Mounts[h.mounted()] == "" {
		return
	}
	fd, err := s.h.folder(h)
	if err != nil {
		s.absent = true
		return
	}
	g := &group{s: s, fd: fd}
	s.found = g
	f(g)
}

// gone tells, after reading, whether the cgroup did not exist to the end. A controller
// or a file that is missing is no sign of that alone.
func (s *scan) gone() bool {
	return s.died || s.found == nil || s.absent && !s.found.alive()
}

// alive tells whether the cgroup of an open folder still exists.
func (g *group) alive() bool { return unix.Faccessat(g.fd, "cgroup.procs", unix.F_OK, 0) == nil }

// text reads a file that is written at one go by the kernel, as all are that do not
// list processes: a read that does not fill the buffer has got all of it. The result
// is valid until the next read; nil if there is no such file.
func (g *group) text(name string) []byte { return g.read(name, false) }

func (g *group) read(name string, toEnd bool) []byte {
	fd, err := g.open(name)
	if err != nil {
		g.s.died, g.s.absent = g.s.died || err == unix.ENODEV, true
		return nil
	}
	defer g.close(name, fd)
	for n := 0; ; {
		m, err := g.readAt(fd, n)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			g.s.died = g.s.died || err == unix.ENODEV
			return nil
		}
		n += m
		if n < len(g.s.buf) && (m < halfPage || !toEnd) {
			return g.s.buf[:n:n]
		}
		if n == len(g.s.buf) {
			g.s.buf = append(g.s.buf, make([]byte, len(g.s.buf))...)
		}
	}
}

// open opens a file, or finds it open.
func (g *group) open(name string) (int, error) {
	if g.s.keep {
		if fd, ok := g.s.h.kept(g.fd, name); ok {
			return fd, nil
		}
	}
	return unix.Openat(g.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// readAt reads what comes after the first n bytes.
func (g *group) readAt(fd, n int) (int, error) {
	if g.s.keep { // the position is where the last reading ended
		return unix.Pread(fd, g.s.buf[n:], int64(n))
	}
	return unix.Read(fd, g.s.buf[n:])
}

// close closes a file, or keeps it.
func (g *group) close(name string, fd int) {
	if g.s.keep {
		if _, ok := g.s.h.kept(g.fd, name); ok || g.s.h.keep(g.fd, name, fd) {
			return
		}
	}
	unix.Close(fd)
}

func (g *group) value(name string) uint64 { return number(g.text(name)) }

// limit reads a limit; without the file there is none.
func (g *group) limit(name string) uint64 { return limitOf(g.text(name)) }

// processes calls f with the pid of each process here and in the cgroups below; it is
// 0 for one in a pid namespace that is not seen from here.
func (g *group) processes(depth int, f func(pid int)) {
	for line := range bytes.Lines(g.read("cgroup.procs", true)) {
		f(int(number(line)))
	}
	var st unix.Stat_t
	// A folder has two links and one for each folder in it; some file systems do not
	// count them and say 1.
	if depth == 0 || unix.Fstat(g.fd, &st) == nil && st.Nlink == 2 {
		return
	}
	fd, err := unix.Openat(g.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), "cgroup")
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if sub, err := unix.Openat(fd, e.Name(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			(&group{s: g.s, fd: sub}).processes(depth-1, f)
			unix.Close(sub)
		}
	}
}

// number reads a decimal; anything else is 0.
func number(b []byte) uint64 {
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

func device(b []byte) (major, minor uint32, ok bool) {
	a, c, ok := bytes.Cut(b, []byte{':'})
	x, err := strconv.ParseUint(string(a), 10, 32)
	y, err2 := strconv.ParseUint(string(c), 10, 32)
	return uint32(x), uint32(y), ok && err == nil && err2 == nil
}

// eachField calls f for each line "key value".
func eachField(data []byte, f func(key, value []byte)) {
	for line := range bytes.Lines(data) {
		if key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '}); ok {
			f(key, value)
		}
	}
}

// field is the number of one key.
func field(data []byte, name string) (n uint64) {
	eachField(data, func(key, value []byte) {
		if string(key) == name {
			n = number(value)
		}
	})
	return n
}

// pressure reads PSI; nil if there is none.
func pressure(data []byte) *Pressure {
	if len(data) == 0 {
		return nil
	}
	p := &Pressure{}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			continue
		}
		stall := &p.Some
		if string(f[0]) == "full" {
			stall = &p.Full
		}
		eachPair(f[1:], func(key, val []byte) {
			switch string(key) {
			case "avg10":
				stall.Avg10 = percent(val)
			case "avg60":
				stall.Avg60 = percent(val)
			case "avg300":
				stall.Avg300 = percent(val)
			case "total":
				stall.Total = number(val)
			}
		})
	}
	return p
}

// eachPair calls f for each key=value of a line's fields.
func eachPair(fields [][]byte, f func(key, value []byte)) {
	for _, field := range fields {
		key, value, _ := bytes.Cut(field, []byte{'='})
		f(key, value)
	}
}

func percent(b []byte) float64 {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(f >= 0 && f <= 100) {
		return 0
	}
	return f
}
