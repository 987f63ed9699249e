package pod

import (
	"strings"
	"syscall"

	"github.com/monocrio/monocrio/internal/linux/signal"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// signalName turns the CRI's SIGNAL_SIGRTMINPLUS3 into RTMIN+3.
func signalName(s cri.Signal) string {
	name := strings.TrimPrefix(strings.TrimPrefix(s.String(), "SIGNAL_"), "SIG")
	name = strings.Replace(name, "MINPLUS", "MIN+", 1)
	return strings.Replace(name, "MAXMINUS", "MAX-", 1)
}

// stopSignal is what the request says, else the image, else SIGTERM.
func (c *Container) stopSignal() syscall.Signal {
	if s := c.req.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig := signal.Parse(signalName(s)); sig != 0 {
			return sig
		}
	}
	if s := c.req.Image.Config.StopSignal; s != "" {
		if sig := signal.Parse(s); sig != 0 {
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
	sig := signal.Parse(v.Request.Image.Config.StopSignal)
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	for n := range cri.Signal_name {
		if s := cri.Signal(n); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT && signal.Parse(signalName(s)) == sig && !alias(s) {
			return s
		}
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}

// alias tells whether a signal of the CRI is a second name of another one.
func alias(s cri.Signal) bool {
	return s == cri.Signal_SIGNAL_SIGCLD || s == cri.Signal_SIGNAL_SIGIOT || s == cri.Signal_SIGNAL_SIGPOLL
}
