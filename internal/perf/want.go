package perf

import (
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
)

// Want is what a container's annotations ask for.
type Want struct {
	// NoBalance keeps the scheduler from balancing load on its processors, NoQuota the
	// quota of the completely fair scheduler from it.
	NoBalance bool `json:"noBalance,omitempty"`
	NoQuota   bool `json:"noQuota,omitempty"`
	// IRQ is Disable or Housekeeping; empty: interrupts are as they are.
	IRQ string `json:"irq,omitempty"`
	// Latency is the value of the processors' pm_qos_resume_latency_us, Governor that of
	// scaling_governor; empty: as they are.
	Latency  string `json:"latency,omitempty"`
	Governor string `json:"governor,omitempty"`
	// Shared are processors of the container that are not its own.
	Shared string `json:"shared,omitempty"`
}

// Values of annotations.
const (
	Disable      = "disable"
	Housekeeping = "housekeeping"
)

// Parse reads the annotations that act on a container.
func Parse(acts annotation.Acting, container string) (w Want, err error) {
	bad := func(name, v, allowed string) error {
		return errs.Invalid("annotation %s = %q: allowed are %s", name, v, allowed)
	}
	for name, set := range map[string]*bool{annotation.CPULoad: &w.NoBalance, annotation.CPUQuota: &w.NoQuota} {
		switch v, ok := acts.Get(name, container); {
		case !ok || v == "enable":
		case v == Disable:
			*set = true
		default:
			return w, bad(name, v, "enable, disable")
		}
	}
	switch v, ok := acts.Get(annotation.IRQLoad, container); {
	case !ok || v == "enable":
	case v == Disable, v == Housekeeping:
		w.IRQ = v
	default:
		return w, bad(annotation.IRQLoad, v, "enable, disable, housekeeping")
	}
	if v, ok := acts.Get(annotation.CPUCStates, container); ok {
		if w.Latency, ok = latency(v); !ok {
			return w, bad(annotation.CPUCStates, v, "enable, disable, max_latency:MICROSECONDS")
		}
	}
	if v, ok := acts.Get(annotation.CPUGovernor, container); ok {
		if v == "" || strings.ContainsAny(v, " \t\n\x00") {
			return w, bad(annotation.CPUGovernor, v, "the names in scaling_available_governors")
		}
		w.Governor = v
	}
	return w, nil
}

// latency is the kernel's word: 0 is no demand, n/a that no idle state is left for one
// that takes time to leave.
func latency(v string) (string, bool) {
	switch v {
	case "enable":
		return "0", true
	case Disable:
		return "n/a", true
	}
	text, ok := strings.CutPrefix(v, "max_latency:")
	n, err := strconv.ParseInt(text, 10, 32)
	return strconv.FormatInt(n, 10), ok && err == nil && n >= 0
}

// any tells whether anything is asked for.
func (w Want) any() bool { w.Shared = ""; return w != Want{} }
