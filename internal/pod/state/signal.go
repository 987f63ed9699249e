package state

import (
	"cmp"
	"strings"
	"syscall"

	"github.com/monocrio/monocrio/internal/linux/signal"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ParseSignal finds the signal that the CRI names (SIGNAL_SIGRTMINPLUS3 is
// RTMIN+3); 0 if Linux has none of that name.
func ParseSignal(s cri.Signal) syscall.Signal {
	name := strings.TrimPrefix(strings.TrimPrefix(s.String(), "SIGNAL_"), "SIG")
	name = strings.Replace(name, "MINPLUS", "MIN+", 1)
	return signal.Parse(strings.Replace(name, "MAXMINUS", "MAX-", 1))
}

// StopSignal is what the request says, else an annotation, else the image, else SIGTERM.
// It is false if the image names a signal that does not exist.
func (r *ContainerRequest) StopSignal() (syscall.Signal, bool) {
	if s := r.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		if sig := ParseSignal(s); sig != 0 {
			return sig, true
		}
	}
	s := cmp.Or(r.StopWith, r.Image.Config.StopSignal)
	if sig := signal.Parse(s); sig != 0 {
		return sig, true
	}
	return syscall.SIGTERM, s == ""
}

// StopSignalName tells which signal a stop sends, in the CRI's words.
func (r *ContainerRequest) StopSignalName() cri.Signal {
	if s := r.Config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		return s
	}
	sig, _ := r.StopSignal()
	for n := range cri.Signal_name {
		if s := cri.Signal(n); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT && ParseSignal(s) == sig && !alias(s) {
			return s
		}
	}
	return cri.Signal_SIGNAL_RUNTIME_DEFAULT
}

// alias tells whether a signal of the CRI is a second name of another one.
func alias(s cri.Signal) bool {
	return s == cri.Signal_SIGNAL_SIGCLD || s == cri.Signal_SIGNAL_SIGIOT || s == cri.Signal_SIGNAL_SIGPOLL
}
