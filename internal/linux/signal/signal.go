// Package signal reads the names of signals as people and images write them.
package signal

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Linux numbers of the real-time signals as programs see them (signal(7): glibc and
// musl keep the first ones for themselves).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// Parse reads a stop signal: a number, or a name with or without SIG, also
// RTMIN+n and RTMAX-n. The result is 0 if there is no such signal.
func Parse(s string) syscall.Signal {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0
		}
		return syscall.Signal(n)
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, rt := range []struct {
		base string
		num  int
	}{{"RTMIN", sigRTMin}, {"RTMAX", sigRTMax}} {
		if rest, ok := strings.CutPrefix(name, rt.base); ok {
			return realTime(rt.num, rest)
		}
	}
	switch name { // names of the CRI that the kernel's headers have under another one
	case "CLD":
		name = "CHLD"
	case "POLL":
		name = "IO"
	case "IOT":
		name = "ABRT"
	}
	return unix.SignalNum("SIG" + name)
}

func realTime(base int, offset string) syscall.Signal {
	n := 0
	if offset != "" {
		var err error
		if n, err = strconv.Atoi(offset); err != nil {
			return 0
		}
	}
	if n += base; n < sigRTMin || n > sigRTMax {
		return 0
	}
	return syscall.Signal(n)
}
