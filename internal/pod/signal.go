package pod

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Linux numbers of the real-time signals as programs see them (signal(7): glibc and
// musl keep the first ones for themselves).
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a stop signal: a number, or a name with or without SIG, also
// RTMIN+n and RTMAX-n. The result is 0 if there is no such signal.
func ParseSignal(s string) syscall.Signal {
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

// signalName turns the CRI's SIGNAL_SIGRTMINPLUS3 into RTMIN+3.
func signalName(s cri.Signal) string {
	name := strings.TrimPrefix(strings.TrimPrefix(s.String(), "SIGNAL_"), "SIG")
	name = strings.Replace(name, "MINPLUS", "MIN+", 1)
	return strings.Replace(name, "MAXMINUS", "MAX-", 1)
}

// stopSignal is what the request says, else the image, else SIGTERM.
func (c *Container) stopSignal() syscall.Signal {
	if s := c.req.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig := ParseSignal(signalName(s)); sig != 0 {
			return sig
		}
	}
	if s := c.req.Image.Config.StopSignal; s != "" {
		if sig := ParseSignal(s); sig != 0 {
			return sig
		}
		c.m.Log.Warn("the image names a stop signal that does not exist; SIGTERM is used", "ctr", c.id, "signal", s)
	}
	return syscall.SIGTERM
}

// StopSignal tells which signal a stop sends, in the CRI's words.
func StopSignal(v *ContainerView) cri.Signal {
	if s := v.Request.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		return s
	}
	sig := ParseSignal(v.Request.Image.Config.StopSignal)
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	for n := range cri.Signal_name {
		if s := cri.Signal(n); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT && ParseSignal(signalName(s)) == sig && !alias(s) {
			return s
		}
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}

// alias tells whether a signal of the CRI is a second name of another one.
func alias(s cri.Signal) bool {
	return s == cri.Signal_SIGNAL_SIGCLD || s == cri.Signal_SIGNAL_SIGIOT || s == cri.Signal_SIGNAL_SIGPOLL
}
