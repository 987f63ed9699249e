package cgroup

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Handle reads one cgroup again and again. It keeps the cgroup's folders open, which
// spares two thirds of what opening a file by its path costs: the kernel locks and
// checks every folder on the way. It does not keep the cgroup alive. Its methods may be
// called from any goroutine; one that hangs keeps nobody.
type Handle struct {
	t    Tree
	path string

	keeper *Keeper // nil: no files are kept
	parts  Parts   // whose files are

	mu      sync.Mutex
	folders [hierarchies]int // descriptors, 0: not open
	files   []keptFile
	users   int
	closed  bool
}

// keptFile is a file that is open between readings.
type keptFile struct {
	folder int
	name   string
	fd     int
}

// Keeper lets handles keep files open too, so many all together. To read a file that is
// open costs a tenth of opening, reading and closing it, but each takes a page of the
// kernel's memory (its sequential buffer): it is for what is read every few seconds.
type Keeper struct {
	max  int64
	open atomic.Int64
}

// NewKeeper makes a keeper of at most max files.
func NewKeeper(max int) *Keeper { return &Keeper{max: int64(max)} }

// take tells whether one more file may be kept.
func (k *Keeper) take() bool {
	if k.open.Add(1) <= k.max {
		return true
	}
	k.open.Add(-1)
	return false
}

// Open makes a handle of the cgroup at a path, existing or not. The kind is Invalid for
// a path that leaves the tree or is its root.
func (t Tree) Open(path string) (*Handle, error) {
	path, err := clean(path)
	if err != nil {
		return nil, err
	}
	return &Handle{t: t, path: path}, nil
}

// Keep says that readings of no more than these parts keep their files open, as far as
// the keeper allows. It is to be called before the first reading.
func (h *Handle) Keep(k *Keeper, parts Parts) { h.keeper, h.parts = k, parts }

// Close lets go; readings in progress end as if nothing had happened.
func (h *Handle) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.release()
}

// Rest closes what is open until the next reading.
func (h *Handle) Rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.release()
}

// release closes folders and files unless somebody reads them; mu is held.
func (h *Handle) release() {
	if h.users > 0 {
		return
	}
	for _, f := range h.files {
		unix.Close(f.fd)
		h.keeper.open.Add(-1)
	}
	h.files = nil
	for i, fd := range h.folders {
		if fd > 0 {
			unix.Close(fd)
		}
		h.folders[i] = 0
	}
}

// folder returns the open folder in a hierarchy.
func (h *Handle) folder(in hierarchy) (int, error) {
	h.mu.Lock()
	fd := h.folders[in]
	h.mu.Unlock()
	if fd > 0 {
		return fd, nil
	}
	fd, err := unix.Open(h.t.Mounts[in.mounted()]+h.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if other := h.folders[in]; other > 0 {
		unix.Close(fd)
		return other, nil
	}
	h.folders[in] = fd
	return fd, nil
}

// kept returns a file that was kept open.
func (h *Handle) kept(folder int, name string) (int, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.files {
		if f := &h.files[i]; f.folder == folder && f.name == name {
			return f.fd, true
		}
	}
	return 0, false
}

// keep takes an open file, if there is room.
func (h *Handle) keep(folder int, name string, fd int) bool {
	if !h.keeper.take() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.files = append(h.files, keptFile{folder, name, fd})
	return true
}

// buffers are what files are read into: hundreds in a row.
var buffers = sync.Pool{New: func() any { return new([8192]byte) }}

// scan runs a reading. A cgroup that was removed and made again has other folders: after
// a first failure they are opened anew.
func (h *Handle) scan(keep bool, f func(*scan)) error {
	buf := buffers.Get().(*[8192]byte)
	defer buffers.Put(buf)
	for try := range 2 {
		h.mu.Lock()
		h.users++
		h.mu.Unlock()
		s := &scan{h: h, buf: buf[:], keep: keep}
		f(s)
		gone := s.gone()
		h.mu.Lock()
		h.users--
		if gone || h.closed {
			h.release()
		}
		h.mu.Unlock()
		if !gone {
			return nil
		}
		if s.found == nil || try == 1 {
			break
		}
	}
	return errs.NotFound("cgroup", h.path)
}

// Read reads some of the cgroup's counters. KindNotFound if it does not exist, also when
// it goes away meanwhile: no number is zero because of that.
func (h *Handle) Read(parts Parts) (u *Usage, err error) {
	err = h.scan(h.keeper != nil && parts&^h.parts == 0, func(s *scan) {
		u = &Usage{Time: time.Now()}
		if h.t.Mode == V2 {
			s.in(unified, func(g *group) { h.t.readV2(g, u, parts) })
		} else {
			h.t.readV1(s, u, parts)
		}
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// Limits reads the cgroup's settings; KindNotFound as in Read.
func (h *Handle) Limits() (l Limits, err error) {
	err = h.scan(false, func(s *scan) {
		l = Limits{CPUQuota: NoLimit, Memory: NoLimit, MemorySwap: NoLimit, MemoryReservation: NoLimit, Tasks: NoLimit}
		if h.t.Mode == V2 {
			s.in(unified, func(g *group) { limitsV2(g, &l) })
		} else {
			limitsV1(s, &l)
		}
	})
	return l, err
}

// Processes lists the pids in the cgroup and those below it, some levels deep, from one
// hierarchy; KindNotFound as in Read.
func (h *Handle) Processes() (pids []int, err error) {
	err = h.scan(h.keeper != nil && h.parts&PartProcesses != 0, func(s *scan) {
		pids = nil
		s.in(h.t.membership(), func(g *group) {
			g.processes(maxDepth, func(pid int) {
				if pid > 0 {
					pids = append(pids, pid)
				}
			})
		})
	})
	return pids, err
}
