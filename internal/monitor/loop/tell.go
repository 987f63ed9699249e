package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// What the engine is told on the sync pipe, a line each:
//
//	         legacy                 API version 1
//	create   {"pid": PID}           {"data": PID}
//	exec                            {"data": PID}
//	         {"exit_code": CODE}    {"data": CODE}
//
// A failure is -1 with "message" and ends the sequence, a timeout among them.

// timedOut is the message after Options.Timeout.
const timedOut = "command timed out"

// tell writes one message; an engine that went away does not matter.
func (m *monitor) tell(fd *int, number int, text string) {
	if *fd < 0 {
		return
	}
	key := "pid"
	switch {
	case m.o.NewSync:
		key = "data"
	case m.o.Exec:
		key = "exit_code"
	}
	line := `{"` + key + `": ` + bare.Itoa(int64(number))
	if text != "" {
		line += `, "message": ` + bare.QuoteJSON(text[:min(len(text), contract.MaxMessage)])
	}
	b := []byte(line + "}\n")
	for len(b) > 0 {
		n, err := syscall.Write(*fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			hangUp(fd)
			return
		}
		b = b[n:]
	}
}

// hangUp closes a pipe to the engine.
func hangUp(fd *int) {
	if *fd >= 0 {
		syscall.Close(*fd)
		*fd = -1
	}
}
