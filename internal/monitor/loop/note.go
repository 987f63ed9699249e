package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// Level is how much the monitor says of itself.
type Level uint8

// The levels, least first.
const (
	LevelError Level = iota
	levelWarn
	levelInfo
)

// LevelWarn is the level at which a monitor speaks by default.
const LevelWarn = levelWarn

// LevelInfo and beyond say no more than this; conmon's finer levels are accepted.
const LevelInfo = levelInfo

// warn says what went wrong but does not end the work.
func (m *monitor) warn(text string) { m.note(levelWarn, text) }

// note writes a line to stderr, in conmon's form, and to syslog.
func (m *monitor) note(level Level, text string) {
	if level > m.o.Level {
		return
	}
	syscall.Write(2, []byte("[conmon:"+"ewi"[level:level+1]+"]: "+text+"\n"))
	if m.syslog >= 0 {
		const daemon, errorLevel = 3 << 3, 3
		line := "<" + bare.Itoa(int64(daemon|errorLevel+int(level))) + ">conmon[" + bare.Itoa(int64(syscall.Getpid())) + "]: conmon " +
			m.o.ID[:min(len(m.o.ID), 20)] + ": " + text
		syscall.Write(m.syslog, []byte(line))
	}
}

// openSyslog connects to the system's log, if it has one (syslog(3)).
func (m *monitor) openSyslog(path string) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		syscall.Close(fd)
		return
	}
	m.syslog = fd
}
