package cgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// CreateParent makes a pod's cgroup if it does not exist and sets limits if any
// are given. With systemd the path's last element is the slice that is started.
func CreateParent(ctx context.Context, d Driver, path string, r *specs.LinuxResources) error {
	path, err := clean(path)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	m, err := newManager(d, path)
	if err != nil {
		return err
	}
	// -1 makes the cgroup and moves nobody.
	if err := m.Apply(-1); err != nil {
		return fmt.Errorf("cannot create cgroup %s: %w", path, err)
	}
	if r == nil {
		return nil
	}
	res := &cgroups.Resources{SkipDevices: true}
	Merge(res, r)
	if err := m.Set(res); err != nil {
		return fmt.Errorf("cannot set limits of cgroup %s: %w", path, err)
	}
	return nil
}

// SetLimits changes the limits of an existing cgroup; nil fields stay.
func SetLimits(ctx context.Context, d Driver, path string, r *specs.LinuxResources) error {
	if path, err := clean(path); err != nil {
		return err
	} else if !Exists(path) {
		return errs.NotFound("cgroup", path)
	}
	return CreateParent(ctx, d, path, r)
}

func newManager(d Driver, path string) (cgroups.Manager, error) {
	c := &cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true}}
	switch {
	case d == Cgroupfs:
		c.Path = path
		// Join the devices hierarchy, too, where there is one; no rule is set.
		c.SkipDevices = !Available().Has("devices")
	case !systemd.IsRunningSystemd():
		return nil, errs.Precondition("cannot use cgroup %s: the cgroup driver is systemd, which does not run on this host; set the driver to cgroupfs", path)
	default:
		c.Systemd = true
		c.Name = filepath.Base(path)
		c.Parent = filepath.Base(filepath.Dir(path))
		if c.Parent == "/" {
			c.Parent = "-.slice"
		}
	}
	m, err := manager.New(c)
	if err != nil {
		return nil, fmt.Errorf("cannot use cgroup %s: %w", path, err)
	}
	return m, nil
}

// Place moves a process, for example a monitor, into a cgroup of all
// hierarchies, which is made if absent.
func Place(pid int, path string) error {
	path, err := clean(path)
	if err != nil {
		return err
	}
	m, err := newManager(Cgroupfs, path)
	if err == nil {
		err = m.Apply(pid)
	}
	if err != nil {
		return fmt.Errorf("cannot move process %d into cgroup %s: %w", pid, path, err)
	}
	return nil
}

// PlaceScope moves a process into a systemd scope, "prefix-name.scope" of a slice.
func PlaceScope(pid int, slice, prefix, name string) error {
	if !systemd.IsRunningSystemd() {
		return errs.Precondition("cannot move process %d into a scope: systemd does not run on this host", pid)
	}
	m, err := manager.New(&cgroups.Cgroup{
		Systemd: true, Parent: slice, ScopePrefix: prefix, Name: name,
		Resources: &cgroups.Resources{SkipDevices: true},
	})
	if err == nil {
		err = m.Apply(pid)
	}
	if err != nil {
		return fmt.Errorf("cannot move process %d into scope %s of %s: %w", pid, unitName(prefix, name), slice, err)
	}
	return nil
}

// removePatience is how long Remove waits for the last processes to be gone: the
// kernel keeps a cgroup busy a moment after its last process was reaped.
const removePatience = 2 * time.Second

// Remove deletes a cgroup and all below it in all hierarchies. Processes in it
// are KindPrecondition after a short patience; absence is success.
func Remove(ctx context.Context, d Driver, path string) error {
	path, err := clean(path)
	if err != nil {
		return err
	}
	if !Exists(path) {
		return nil
	}
	if d == Systemd && systemd.IsRunningSystemd() {
		m, err := newManager(d, path)
		if err == nil {
			err = m.Destroy()
		}
		if err != nil {
			return fmt.Errorf("cannot stop unit %s: %w", filepath.Base(path), err)
		}
	}
	deadline := time.Now().Add(removePatience)
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		err := removeOnce(path)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY):
			return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
		case time.Now().After(deadline):
			pids, _ := Processes(path)
			return errs.Precondition("cannot remove cgroup %s: processes %v are in it", path, pids)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot remove cgroup %s: %w", path, ctx.Err())
		case <-time.After(delay):
		}
	}
}

func removeOnce(path string) error {
	var first error
	for _, dir := range Dirs(path) {
		if err := removeTree(dir); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// removeTree removes a cgroup's folder from the leaves up. Only folders can be
// removed in a cgroup file system; their files go with them.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	var below []string
	if below, err = subdirs(dir); err != nil {
		return err
	}
	for _, name := range below {
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

// Merge writes what r says into the library's form; nil fields stay. Huge page
// sizes that this host cannot limit are left out.
func Merge(into *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&into.Memory, m.Limit)
		set(&into.MemoryReservation, m.Reservation)
		set(&into.MemorySwap, m.Swap)
		setPtr(&into.MemorySwappiness, m.Swappiness)
		set(&into.OomKillDisable, m.DisableOOMKiller)
		set(&into.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
		if m.Limit != nil && *m.Limit < 0 && m.Swap == nil {
			into.MemorySwap = -1 // version 1 refuses memory above memory+swap
		}
	}
	if c := r.CPU; c != nil {
		set(&into.CpuShares, c.Shares)
		if c.Shares != nil {
			into.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
		set(&into.CpuQuota, c.Quota)
		set(&into.CpuPeriod, c.Period)
		setPtr(&into.CpuBurst, c.Burst)
		set(&into.CpuRtRuntime, c.RealtimeRuntime)
		set(&into.CpuRtPeriod, c.RealtimePeriod)
		setPtr(&into.CPUIdle, c.Idle)
		if c.Cpus != "" {
			into.CpusetCpus = c.Cpus
		}
		if c.Mems != "" {
			into.CpusetMems = c.Mems
		}
	}
	if r.Pids != nil {
		setPtr(&into.PidsLimit, r.Pids.Limit)
	}
	if b := r.BlockIO; b != nil {
		set(&into.BlkioWeight, b.Weight)
		set(&into.BlkioLeafWeight, b.LeafWeight)
		throttle(&into.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice)
		throttle(&into.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice)
		throttle(&into.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice)
		throttle(&into.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice)
	}
	if len(r.HugepageLimits) > 0 {
		into.HugetlbLimit = nil
	}
	for _, l := range r.HugepageLimits {
		if slices.Contains(Available().HugePageSizes, l.Pagesize) {
			into.HugetlbLimit = append(into.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
		}
	}
	if len(r.Unified) > 0 {
		merged := maps.Clone(into.Unified)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, r.Unified)
		into.Unified = merged
	}
}

func set[T any](dst *T, src *T) {
	if src != nil {
		*dst = *src
	}
}

func setPtr[T any](dst **T, src *T) {
	if src != nil {
		*dst = src
	}
}

func throttle(dst *[]*cgroups.ThrottleDevice, src []specs.LinuxThrottleDevice) {
	if len(src) > 0 {
		*dst = nil
	}
	for _, d := range src {
		*dst = append(*dst, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
}

func subdirs(dir string) ([]string, error) {
	entries, err := readDirNames(dir)
	return slices.DeleteFunc(entries, func(n string) bool { return strings.HasPrefix(n, ".") }), err
}
