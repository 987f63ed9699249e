package loop

import (
	"syscall"
	"unsafe"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// fifo is a control file in the bundle. It is open for reading and writing, so
// that it has no end when a writer goes, and a writer finds somebody listening
// exactly as long as the monitor lives.
type fifo struct {
	fd   int // -1: none
	line [64]byte
	n    int // len(line)+1: too long, ignored up to its end
}

func (f *fifo) open(m *monitor, path string, kind int32) error {
	old := syscall.Umask(0)
	err := syscall.Mkfifo(path, 0o660)
	if err == syscall.EEXIST {
		if err = syscall.Unlink(path); err == nil {
			err = syscall.Mkfifo(path, 0o660)
		}
	}
	syscall.Umask(old)
	if err == nil {
		f.fd, err = syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return bare.Cannot("make fifo "+path, err)
	}
	m.watch(f.fd, syscall.EPOLLIN, kind)
	return nil
}

// read calls use for each whole line.
func (f *fifo) read(use func(line string)) {
	if f.fd < 0 {
		return
	}
	var buf [256]byte
	n, err := bare.ReadNow(f.fd, buf[:])
	if err != nil {
		return
	}
	for _, c := range buf[:n] {
		switch {
		case c == '\n':
			if f.n <= len(f.line) {
				use(string(f.line[:f.n]))
			}
			f.n = 0
		case f.n < len(f.line):
			f.line[f.n] = c
			f.n++
		default:
			f.n = len(f.line) + 1
		}
	}
}

// numbers reads a line of exactly n numbers from 0 to 1000.
func numbers(line string, n int) ([]int, bool) {
	words := bare.Fields(line)
	if len(words) != n {
		return nil, false
	}
	out := make([]int, n)
	for i, w := range words {
		v, ok := bare.Atoi(w)
		if !ok || v > 1000 {
			return nil, false
		}
		out[i] = v
	}
	return out, true
}

func (m *monitor) control(line string) {
	v, ok := numbers(line, 3)
	switch {
	case !ok:
		m.warn("ignored on ctl: " + line)
	case v[0] == contract.CtlResize:
		m.resize(v[1], v[2])
	case v[0] == contract.CtlReopen:
		m.askReopen()
	}
}

func (m *monitor) winsz(line string) {
	if v, ok := numbers(line, 2); ok {
		m.resize(v[0], v[1])
	} else {
		m.warn("ignored on winsz: " + line)
	}
}

// resize sets the size of the terminal; the last one counts. A terminal that has not
// arrived yet gets it then; its first program finds it, unless that is quicker.
func (m *monitor) resize(height, width int) {
	if !m.stdout.tty {
		return
	}
	m.console.size, m.console.sized = [4]uint16{uint16(height), uint16(width)}, true
	m.setSize()
}

func (m *monitor) setSize() {
	if !m.console.sized || m.stdout.fd < 0 {
		return
	}
	if err := bare.Ioctl(m.stdout.fd, syscall.TIOCSWINSZ, unsafe.Pointer(&m.console.size)); err != nil {
		m.warn(bare.Cannot("resize the terminal", err).Error())
	}
}

// reopenPatience is how long a reopen waits for the end of a line that has been
// written in part, in milliseconds.
const reopenPatience = 100

// askReopen starts a new log file as soon as no line stands half in the old one. A
// writer that pauses in the middle of a line, as a prompt does, cannot delay it
// for long.
func (m *monitor) askReopen() {
	if m.reopening {
		return
	}
	m.reopening = true
	if !m.stdout.Open && !m.stderr.Open {
		m.reopenNow()
		return
	}
	fd, err := bare.Alarm(reopenPatience)
	if err != nil {
		m.reopenNow()
		return
	}
	m.reopenTimer = fd
	m.watch(fd, syscall.EPOLLIN, evReopen)
}

func (m *monitor) reopenNow() {
	m.reopening = false
	if m.reopenTimer >= 0 {
		m.drop(m.reopenTimer)
		m.reopenTimer = -1
	}
	m.log.Reopen()
}
