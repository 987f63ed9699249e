package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
	"github.com/monocrio/monocrio/internal/monitor/logs"
)

// stream is one output of the container.
type stream struct {
	logs.Stream
	fd  int // -1: ended
	id  byte
	tty bool
}

const inSize = 64 << 10 // a pipe's usual capacity

// Rounds of reading before others have their turn, and at the very end, when only
// what stood in the pipe is wanted: a pipe holds at most a MiB unless root says
// otherwise, and somebody else may still be writing.
const (
	rounds    = 16
	endRounds = 64
)

// pump moves output from the container to the log and the attached clients.
//
// A line that is not complete yet is kept in the buffer as long as there is more
// to read, so that partial records arise only where the writer pauses, where a line
// is too long, and at the end.
func (m *monitor) pump(s *stream, rounds int) {
	if s.fd < 0 {
		return
	}
	stamp := m.log.Stamp()
	kept, ended := 0, false
	for ; rounds > 0; rounds-- {
		n, err := bare.ReadNow(s.fd, m.in[kept:])
		if err == syscall.EAGAIN {
			break
		}
		if err == syscall.EIO && s.tty {
			break // no process has the terminal open; one may open it again
		}
		if n <= 0 {
			ended = true
			break
		}
		m.high = max(m.high, kept+n)
		m.clients.send(m, s.id, m.in[kept:kept+n])
		have := kept + n
		taken := m.log.Lines(&s.Stream, m.in[:have], stamp, false)
		kept = copy(m.in, m.in[taken:have])
		if m.reopening && !m.stdout.Open && !m.stderr.Open {
			m.reopenNow() // between records, and kept is in memory
		}
		if kept == 0 && have < len(m.in) && !s.tty {
			break // nothing is left, most likely: do not ask
		}
	}
	if ended && kept > 0 {
		m.log.Last(&s.Stream, stamp, m.in[:kept])
	} else if kept > 0 {
		m.log.Lines(&s.Stream, m.in[:kept], stamp, true)
	}
	if ended {
		m.endStream(s)
	} else if rounds == 0 && s.tty {
		m.modify(s.fd, ttyEvents, evStdout) // there may be more: report it again
	}
	m.log.Flush()
}

// endStream closes an output that has ended.
func (m *monitor) endStream(s *stream) {
	m.log.Finish(&s.Stream)
	m.drop(s.fd)
	s.fd = -1
}

// warm tells whether a burst of output has left more memory in use than an idle
// monitor is to have.
func (m *monitor) warm() bool { return m.high > restSize || m.log.Warm(restSize) }

const restSize = 8 << 10

// rest gives the memory of a burst back to the system.
func (m *monitor) rest() {
	bare.Release(m.in)
	m.log.Rest()
	m.high = 0
}

// childStdio are the runtime's three standard descriptors; the container inherits
// them. All are closed here once the runtime runs.
type childStdio [3]uintptr

func (c *childStdio) close() {
	for i, fd := range c {
		for _, other := range c[:i] {
			if other == fd {
				fd = ^uintptr(0)
			}
		}
		if fd != ^uintptr(0) {
			syscall.Close(int(fd))
		}
	}
}

// openStdio makes the pipes to the container. With a terminal only stderr is a
// pipe, for what the runtime itself has to say.
func (m *monitor) openStdio() (child childStdio, err error) {
	if m.o.Passthrough {
		return childStdio{0, 1, 2}, nil
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return child, bare.Cannot("open /dev/null", err)
	}
	child = childStdio{uintptr(null), uintptr(null), uintptr(null)}
	if m.o.Stdin && !m.o.Terminal && m.hasBundle() { // else nobody could ever write to it
		r, w, err := m.pipe()
		if err != nil {
			return child, err
		}
		child[0], m.stdin.fd = uintptr(r), w
		syscall.SetNonblock(w, true)
	}
	if !m.o.Terminal {
		r, w, err := m.pipe()
		if err != nil {
			return child, err
		}
		child[1], m.stdout.fd = uintptr(w), r
		syscall.SetNonblock(r, true)
	}
	r, w, err := m.pipe()
	if err != nil {
		return child, err
	}
	child[2], m.stderr.fd = uintptr(w), r
	syscall.SetNonblock(r, true)
	return child, nil
}

// pipe makes a pipe that every user may open again through /proc/self/fd: the
// container's user is not the one that made it.
func (m *monitor) pipe() (r, w int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, bare.Cannot("make a pipe for the container", err)
	}
	syscall.Fchmod(p[0], 0o777)
	return p[0], p[1], nil
}

// input is the container's standard input: a pipe or the terminal.
type input struct {
	fd      int // -1: none, or closed
	tty     bool
	pending []byte // of buf; while there is some, no client is read
	buf     []byte
	ending  bool // close as soon as pending is empty
	watched bool
}

// feed hands bytes to the container. pending must be empty.
func (m *monitor) feed(b []byte) {
	in := &m.stdin
	if in.fd < 0 {
		return
	}
	n := in.write(b)
	if n < 0 {
		m.closeStdin()
		return
	}
	if n < len(b) {
		in.pending = in.buf[:copy(in.buf, b[n:])]
		in.watched = true
		m.watch(in.fd, syscall.EPOLLOUT, evStdin)
		m.clients.pause(m)
	}
}

// write returns how much went in, -1 when the reader is gone.
func (in *input) write(b []byte) int {
	done := 0
	for done < len(b) {
		n, err := syscall.Write(in.fd, b[done:])
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return done
		case err != nil:
			return -1
		default:
			done += n
		}
	}
	return done
}

// feedMore goes on where feed had to stop.
func (m *monitor) feedMore() {
	in := &m.stdin
	if in.fd < 0 || len(in.pending) == 0 {
		return
	}
	n := in.write(in.pending)
	if n >= 0 && n < len(in.pending) {
		in.pending = in.pending[n:]
		return
	}
	in.pending = nil
	m.unwatchInput()
	if n < 0 || in.ending {
		m.closeStdin()
	}
	m.clients.resume(m)
}

// endInput is a client's end of file.
func (m *monitor) endInput() {
	in := &m.stdin
	if in.fd < 0 || in.tty || m.o.LeaveStdinOpen {
		return
	}
	if len(in.pending) > 0 {
		in.ending = true
		return
	}
	m.closeStdin()
}

func (m *monitor) closeStdin() {
	in := &m.stdin
	if in.fd < 0 || in.tty {
		return
	}
	m.unwatchInput()
	syscall.Close(in.fd)
	in.fd, in.pending = -1, nil
}

func (m *monitor) unwatchInput() {
	if m.stdin.watched {
		m.unwatch(m.stdin.fd)
		m.stdin.watched = false
	}
}

// startOutput begins to move output: the runtime has made the container.
func (m *monitor) startOutput() {
	if m.o.Terminal || m.stdout.fd < 0 {
		return // the terminal is watched since it arrived
	}
	m.watch(m.stdout.fd, syscall.EPOLLIN, evStdout)
}

// collectStderr keeps the beginning of what the runtime says while it works: the
// message should it fail. When there is more, all of it goes the container's way
// at once, so that no runtime blocks on us.
func (m *monitor) collectStderr() {
	for m.stderr.fd >= 0 && len(m.said) < contract.MaxMessage {
		n, err := bare.ReadNow(m.stderr.fd, m.in[:contract.MaxMessage-len(m.said)])
		if err != nil || n <= 0 {
			if err != syscall.EAGAIN {
				m.unwatch(m.stderr.fd) // ended; pump will see it
			}
			return
		}
		m.said = append(m.said, m.in[:n]...)
	}
	m.logSaid()
	m.pump(&m.stderr, rounds)
}

// logSaid treats what the runtime has said as the container's output, once.
func (m *monitor) logSaid() {
	if len(m.said) == 0 || m.saidLogged {
		return
	}
	m.saidLogged = true
	m.clients.send(m, contract.Stderr, m.said)
	m.log.Lines(&m.stderr.Stream, m.said, m.log.Stamp(), true)
	m.log.Flush()
}

// releaseStderr passes on what a runtime that succeeded has said, and what comes.
func (m *monitor) releaseStderr() {
	m.logSaid()
	m.said = nil
	if m.stderr.fd >= 0 {
		m.unwatch(m.stderr.fd)
		m.watch(m.stderr.fd, syscall.EPOLLIN, evStderr)
	}
}
