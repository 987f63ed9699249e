package config

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// Largest numbers that can be meant: the kernel's for shares, a thousand processors for
// limits, a second for periods (cpu.cfs_period_us).
const (
	maxShares   = 262144
	maxMillis   = 1000 * 1000
	minPeriod   = 1000
	maxPeriod   = 1000 * 1000
	minCFSQuota = 1000
)

// checkWorkload refuses what cannot be meant in a workload's table.
func (c *Config) checkWorkload(table string, w *Workload) error {
	err := c.checkAllowed(table, w.AllowedAnnotations)
	if w.ActivationAnnotation == "" {
		err = errors.Join(err, c.bad(table, "activation_annotation", "", "the name of an annotation is needed, or no pod could belong to the workload"))
	}
	if p := w.AnnotationPrefix; strings.HasSuffix(p, "/") {
		err = errors.Join(err, c.bad(table, "annotation_prefix", p, "it ends before the slash: PREFIX/CONTAINER"))
	}
	if key, need := w.Resources.wrong(); need != "" {
		err = errors.Join(err, c.bad(table+".resources", key, "", need))
	}
	return err
}

// wrong names the key that cannot be meant, and what is needed; "" if all is well.
func (r *WorkloadResources) wrong() (key, need string) {
	switch {
	case r.CPUShares > maxShares || r.CPUShares == 1:
		return "cpushares", "a number from 2 to 262144 is needed, or 0 for none"
	case r.CPUPeriod != 0 && (r.CPUPeriod < minPeriod || r.CPUPeriod > maxPeriod):
		return "cpuperiod", "a number of microseconds from 1000 to 1000000 is needed, or 0 for none"
	case r.CPUQuota < -1 || r.CPUQuota > 0 && r.CPUQuota < minCFSQuota:
		return "cpuquota", "a number of microseconds of at least 1000 is needed, 0 for none or -1 for no limit"
	case r.CPULimit < 0 || r.CPULimit > maxMillis:
		return "cpulimit", "a number of thousandths of a processor is needed"
	case r.CPULimit != 0 && r.CPUQuota != 0:
		return "cpulimit", "cpulimit and cpuquota exclude each other"
	case !cpuList(r.CPUSet):
		return "cpuset", "a list of CPUs is needed, such as 0-3,7"
	}
	return "", ""
}

// For is what the workload says of a container: its own resources under those that the
// pod's annotation PREFIX/CONTAINER names.
func (w *Workload) For(container string, pod map[string]string) (WorkloadResources, error) {
	r := w.Resources
	text, ok := pod[w.AnnotationPrefix+"/"+container]
	if w.AnnotationPrefix == "" || !ok {
		return r, nil
	}
	fail := func(why any) (WorkloadResources, error) {
		return r, errs.Invalid("annotation %s/%s = %q: %v; write a JSON object of cpushares, cpuquota, cpuperiod, cpuset, cpulimit", w.AnnotationPrefix, container, text, why)
	}
	var own struct {
		CPUShares *uint64 `json:"cpushares"`
		CPUQuota  *int64  `json:"cpuquota"`
		CPUPeriod *uint64 `json:"cpuperiod"`
		CPUSet    *string `json:"cpuset"`
		CPULimit  *int64  `json:"cpulimit"`
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&own); err != nil {
		return fail(err)
	}
	set(&r.CPUShares, own.CPUShares)
	set(&r.CPUPeriod, own.CPUPeriod)
	set(&r.CPUSet, own.CPUSet)
	if own.CPUQuota != nil { // one replaces the other
		r.CPUQuota, r.CPULimit = *own.CPUQuota, 0
	}
	if own.CPULimit != nil {
		r.CPULimit = *own.CPULimit
		if own.CPUQuota == nil {
			r.CPUQuota = 0
		}
	}
	if key, need := r.wrong(); need != "" {
		return fail(key + ": " + need)
	}
	return r, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
