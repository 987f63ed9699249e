package cgroup

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the search for processes: cgroups nest without end.
const maxDepth = 16

// scan reads the folders of one cgroup. One descriptor per folder, one open, read
// and close per file: statistics of hundreds of containers are made of this.
type scan struct {
	buf   []byte
	first string // the first folder that was there
	doubt bool   // something that should be there was not
	died  bool   // the kernel said that the cgroup is gone
}

// group is one open folder.
type group struct {
	s  *scan
	fd int
}

// in calls f with a folder, if it is there.
func (s *scan) in(dir string, f func(*group)) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.doubt = true
		return
	}
	defer unix.Close(fd)
	if s.first == "" {
		s.first = dir
	}
	f(&group{s: s, fd: fd})
}

// gone tells, after reading, whether the cgroup did not exist to the end. A
// controller or a file that is missing is no sign of that alone.
func (s *scan) gone() bool {
	return s.died || s.first == "" || s.doubt && !exists(s.first)
}

// text reads a file that is written at one go by the kernel, as all are that do not
// list processes: a read that does not fill the buffer has got all of it. The result
// is valid until the next read; nil if there is no such file.
func (g *group) text(name string) []byte { return g.read(name, false) }

// needed is text of a file that is there as long as the cgroup is.
func (g *group) needed(name string) []byte {
	data := g.read(name, false)
	if data == nil {
		g.s.doubt = true
	}
	return data
}

func (g *group) read(name string, toEnd bool) []byte {
	fd, err := unix.Openat(g.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		g.s.died = g.s.died || err == unix.ENODEV
		return nil
	}
	defer unix.Close(fd)
	for n := 0; ; {
		m, err := unix.Read(fd, g.s.buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			g.s.died = g.s.died || err == unix.ENODEV
			return nil
		}
		n += m
		if m == 0 || !toEnd && n < len(g.s.buf) {
			return g.s.buf[:n:n]
		}
		if n == len(g.s.buf) {
			g.s.buf = append(g.s.buf, make([]byte, len(g.s.buf))...)
		}
	}
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
		for _, part := range f[1:] {
			key, val, _ := bytes.Cut(part, []byte{'='})
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
		}
	}
	return p
}

func percent(b []byte) float64 {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(f >= 0 && f <= 100) {
		return 0
	}
	return f
}
