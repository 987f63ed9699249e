package shim

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
)

// The messages in which shims put statistics: metrics.proto of containerd/cgroups, one
// for each version of cgroups. Few of their fields are wanted, all of them numbers
// one message deep, so they are read without the generated code.
const (
	metricsV1 = "io.containerd.cgroups.v1.Metrics"
	metricsV2 = "io.containerd.cgroups.v2.Metrics"
)

// fields are the numbers in a message and in the messages in it: a path of field
// numbers has a value. Of a repeated field the last is kept.
type fields map[[3]protowire.Number]uint64

// read adds what a message has at a depth of its path.
func (f fields) read(b []byte, path [3]protowire.Number, depth int) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		path[depth] = number
		switch {
		case kind == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			f[path] = v
		case kind == protowire.BytesType && depth+1 < len(path):
			sub, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			f.read(sub, path, depth+1) // a text may look like a message, and is not asked for
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

// at is a field's value.
func (f fields) at(path ...protowire.Number) uint64 {
	var p [3]protowire.Number
	copy(p[:], path)
	return f[p]
}

// limit is a field that says "no limit" by nothing or by a huge number.
func (f fields) limit(path ...protowire.Number) uint64 {
	v := f.at(path...)
	if v == 0 || v >= math.MaxInt64&^0xfff {
		return cgroup.NoLimit
	}
	return v
}

// usage reads the statistics of an answer.
func usage(a *anypb.Any) (*cgroup.Usage, error) {
	f := fields{}
	if !f.read(a.GetValue(), [3]protowire.Number{}, 0) {
		return nil, errs.Errorf(errs.KindInternal, "the shim's statistics are no message")
	}
	u := &cgroup.Usage{Time: time.Now()}
	switch a.GetTypeUrl() {
	case metricsV1:
		f.v1(u)
	case metricsV2:
		f.v2(u)
	default:
		return nil, errs.Unimplemented("the shim tells statistics as %q; %s and %s are known", a.GetTypeUrl(), metricsV1, metricsV2)
	}
	u.Memory.WorkingSet = u.Memory.Usage - min(u.Memory.Usage, u.Memory.WorkingSet)
	return u, nil
}

// v1 fills in; WorkingSet gets the inactive file pages.
func (f fields) v1(u *cgroup.Usage) {
	u.Pids = cgroup.PidsUsage{Current: f.at(2, 1), Limit: f.limit(2, 2)}
	const micro = 1000
	u.CPU = cgroup.CPUUsage{Total: f.at(3, 1, 1), System: f.at(3, 1, 2), User: f.at(3, 1, 3),
		Periods: f.at(3, 2, 1), Throttled: f.at(3, 2, 2), ThrottledMicro: f.at(3, 2, 3) / micro}
	u.Memory = cgroup.MemoryUsage{Cache: f.at(4, 18), RSS: f.at(4, 19), MappedFile: f.at(4, 21), WorkingSet: f.at(4, 30),
		PageFaults: f.at(4, 26), MajorFaults: f.at(4, 27), OwnPageFaults: f.at(4, 9), OwnMajorFaults: f.at(4, 10),
		Limit: f.limit(4, 33, 1), Usage: f.at(4, 33, 2), Peak: f.at(4, 33, 3), LimitHits: f.at(4, 33, 4),
		Kernel: f.at(4, 35, 2), SwapLimit: cgroup.NoLimit}
	if both := f.at(4, 34, 2); both > 0 { // memory and swap together
		u.Memory.SwapCounted, u.Memory.Swap = true, both-min(both, u.Memory.Usage)
	}
	u.OOMKills = f.at(9, 3)
}

func (f fields) v2(u *cgroup.Usage) {
	u.Pids = cgroup.PidsUsage{Current: f.at(1, 1), Limit: f.limit(1, 2)}
	const nano = 1000
	u.CPU = cgroup.CPUUsage{Total: f.at(2, 1) * nano, User: f.at(2, 2) * nano, System: f.at(2, 3) * nano,
		Periods: f.at(2, 4), Throttled: f.at(2, 5), ThrottledMicro: f.at(2, 6)}
	u.Memory = cgroup.MemoryUsage{RSS: f.at(4, 1), Cache: f.at(4, 2), MappedFile: f.at(4, 7), WorkingSet: f.at(4, 13),
		PageFaults: f.at(4, 18), MajorFaults: f.at(4, 19), OwnPageFaults: f.at(4, 18), OwnMajorFaults: f.at(4, 19),
		Usage: f.at(4, 32), Limit: f.limit(4, 33), Peak: f.at(4, 36), Kernel: f.at(4, 3) + f.at(4, 4) + f.at(4, 5),
		SwapCounted: true, Swap: f.at(4, 34), SwapLimit: f.limit(4, 35), LimitHits: f.at(8, 3)}
	u.OOMKills = f.at(8, 5)
}
