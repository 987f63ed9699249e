package config

import (
	"reflect"
	"slices"
)

// Next is what a reload makes of c: the configuration next, but with the present
// values of options that are not live. changed names the live options that differ, and
// restart those that would if the daemon were started again; both are sorted. Neither c
// nor next is changed.
func (c *Config) Next(next *Config) (merged *Config, changed, restart []string) {
	copied := *next
	merged = &copied
	old, to := c.Options(), merged.Options()
	for i := range to {
		switch o := &to[i]; {
		case same(old[i].Value, o.Value):
		case o.Live:
			changed = append(changed, o.Name())
		case o.Inert != "": // nobody looks at it
		default:
			restart = append(restart, o.Name())
			o.Value.Set(old[i].Value)
		}
	}
	changed = append(changed, tablesThatDiffer("crio.runtime.runtimes.", c.Runtime.Runtimes, next.Runtime.Runtimes)...)
	changed = append(changed, tablesThatDiffer("crio.runtime.workloads.", c.Runtime.Workloads, next.Runtime.Workloads)...)
	slices.Sort(changed)
	slices.Sort(restart)
	return merged, changed, restart
}

func tablesThatDiffer[T any](prefix string, a, b map[string]T) (names []string) {
	for _, n := range sortedKeys(a) {
		if v, ok := b[n]; !ok || !reflect.DeepEqual(a[n], v) {
			names = append(names, prefix+n)
		}
	}
	for _, n := range sortedKeys(b) {
		if _, ok := a[n]; !ok {
			names = append(names, prefix+n)
		}
	}
	return names
}
