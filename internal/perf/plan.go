package perf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
)

// planner collects what has to be changed.
type planner struct {
	t    *Tuner
	own  cpus
	list []change
}

// plan finds what has to be changed for a container with these processors of its own, and
// those that get no interrupts. Nothing is changed yet.
func (t *Tuner) plan(w Want, own cpus, cgroupsPath string) (list []change, quiet cpus, err error) {
	p := &planner{t: t, own: own}
	if w.Latency != "" {
		err = p.each(annotation.CPUCStates, "power/pm_qos_resume_latency_us", w.Latency)
	}
	if err == nil && w.Governor != "" {
		if err = p.governor(w.Governor); err == nil {
			err = p.each(annotation.CPUGovernor, "cpufreq/scaling_governor", w.Governor)
		}
	}
	if err == nil && w.IRQ != "" {
		quiet = own
		if w.IRQ == Housekeeping {
			var keep cpus
			keep, err = t.housekeeping(own)
			quiet = own.minus(keep)
		}
		if err == nil && len(quiet) > 0 {
			err = p.interrupts(quiet)
		}
	}
	if err == nil && w.NoQuota {
		err = p.quota(cgroupsPath)
	}
	if err == nil && w.NoBalance {
		err = p.balance(cgroupsPath)
	}
	return p.list, quiet, err
}

const cpuDir = "/sys/devices/system/cpu"

func cpuFile(n int, name string) string { return fmt.Sprintf("%s/cpu%d/%s", cpuDir, n, name) }

// set plans the change of a whole file. One that is so already is on record too: it may
// be so for another container, which ends first.
func (p *planner) set(k kind, path, want string) error {
	old, err := p.t.read(path)
	if err == nil {
		p.list = append(p.list, change{Kind: k, Path: path, Old: old, New: want})
	}
	return err
}

// each plans the change of a file of each processor.
func (p *planner) each(name, file, want string) error {
	for _, n := range p.own {
		err := p.set(value, cpuFile(n, file), want)
		if errors.Is(err, fs.ErrNotExist) {
			return errs.Precondition("annotation %s: this node cannot do that for processor %d: it has no %s", name, n, cpuFile(n, file))
		} else if err != nil {
			return err
		}
	}
	return nil
}

// governor refuses one that the processors' driver does not have.
func (p *planner) governor(want string) error {
	for _, n := range p.own {
		text, err := p.t.read(cpuFile(n, "cpufreq/scaling_available_governors"))
		if errors.Is(err, fs.ErrNotExist) {
			return errs.Precondition("annotation %s: the frequency of processor %d cannot be governed on this node", annotation.CPUGovernor, n)
		} else if err != nil {
			return err
		}
		if !slices.Contains(strings.Fields(text), want) {
			return errs.Invalid("annotation %s = %q: processor %d has the governors %s", annotation.CPUGovernor, want, n, text)
		}
	}
	return nil
}

// housekeeping is the first core of a set, with all threads of it that are in the set.
func (t *Tuner) housekeeping(own cpus) (cpus, error) {
	path := cpuFile(own[0], "topology/thread_siblings_list")
	text, err := t.read(path)
	if err != nil {
		return nil, errs.Precondition("annotation %s = %s: the threads of processor %d are not known: %w", annotation.IRQLoad, Housekeeping, own[0], err)
	}
	threads, err := parseList(text)
	return own.and(threads.or(own[:1])), err
}

const irqDir = "/proc/irq"

// interrupts keeps them off processors: new ones, those there are, and those that
// irqbalance will move.
func (p *planner) interrupts(quiet cpus) error {
	path := irqDir + "/default_smp_affinity"
	text, err := p.t.read(path)
	if err != nil {
		return errs.Precondition("annotation %s: interrupts cannot be steered on this node: %w", annotation.IRQLoad, err)
	}
	all, digits, err := parseMask(text)
	if err != nil {
		return err
	}
	rest := all.minus(quiet)
	if len(rest) == 0 {
		return errs.Precondition("annotation %s: no processor would be left for interrupts; they may go to %s, and the container has %s", annotation.IRQLoad, all, quiet)
	}
	if taken := all.and(quiet); len(taken) > 0 {
		p.list = append(p.list, change{Kind: affinity, Path: path, CPUs: taken.String()})
	}
	dirs, err := os.ReadDir(p.t.o.Root + irqDir)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		path := filepath.Join(irqDir, d.Name(), "smp_affinity")
		text, err := p.t.read(path)
		if err != nil {
			continue // it is no interrupt, or one without affinity
		}
		now, _, err := parseMask(text)
		switch taken := now.and(quiet); {
		case err != nil || len(taken) == 0:
		case len(taken) < len(now):
			p.list = append(p.list, change{Kind: affinity, Path: path, CPUs: taken.String()})
		default: // it has no other processor: it gets all that are left
			p.list = append(p.list, change{Kind: affinity, Path: path, CPUs: taken.String(), Old: text, New: rest.mask(digits)})
		}
	}
	now, _, err := p.t.banned()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no irqbalance here
	}
	if added := quiet.minus(now); err == nil && len(added) > 0 {
		p.list = append(p.list, change{Kind: banned, Path: p.t.o.IRQBalance, CPUs: added.String()})
	}
	return err
}

// folder is a container's cgroup.
func (p *planner) folder(name, controller, cgroupsPath string) (string, error) {
	dir, err := p.t.o.Cgroup(controller, cgroupsPath)
	if err == nil && dir == "" {
		err = errs.Precondition("annotation %s: this node has no cgroup controller %s", name, controller)
	}
	return dir, err
}

// quota takes it from the container, which may have got it from a plugin, and from its
// pod, whose quota would bind it as well.
func (p *planner) quota(cgroupsPath string) error {
	dir, err := p.folder(annotation.CPUQuota, "cpu", cgroupsPath)
	if err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		file, want := filepath.Join(d, "cpu.cfs_quota_us"), "-1"
		if p.t.o.Unified {
			file, want = filepath.Join(d, "cpu.max"), "max"
		}
		now, err := p.t.read(file)
		if err != nil {
			return err
		}
		if p.t.o.Unified { // QUOTA PERIOD
			if _, period, ok := strings.Cut(now, " "); ok {
				want += " " + period
			}
		}
		p.list = append(p.list, change{Kind: value, Path: file, Old: now, New: want})
	}
	return nil
}

// balance keeps the scheduler from moving programs between the processors: with cgroup
// v2 they become a partition of their own, which all cgroups above must give up.
func (p *planner) balance(cgroupsPath string) error {
	dir, err := p.folder(annotation.CPULoad, "cpuset", cgroupsPath)
	if err != nil {
		return err
	}
	if !p.t.o.Unified {
		for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
			now, err := p.t.read(filepath.Join(d, "cpuset.sched_load_balance"))
			if err != nil {
				break // above the hierarchy's root
			}
			if now == "1" {
				p.t.o.Log.Warn("the scheduler goes on balancing a container's processors: a cgroup above has cpuset.sched_load_balance = 1", "cgroup", d, "container", dir)
				break
			}
		}
		return p.set(value, filepath.Join(dir, "cpuset.sched_load_balance"), "0")
	}
	const file = "cpuset.cpus.exclusive"
	var above []change
	for d := dir; ; d = filepath.Dir(d) {
		path := filepath.Join(d, file)
		text, err := p.t.read(path)
		if errors.Is(err, fs.ErrNotExist) && d != dir {
			break // the root has none
		} else if errors.Is(err, fs.ErrNotExist) {
			return errs.Precondition("annotation %s: this kernel cannot do that: %s is not there (Linux 6.7)", annotation.CPULoad, path)
		} else if err != nil {
			return err
		}
		has, err := parseList(text)
		if err != nil {
			return err
		}
		if added := p.own.minus(has); len(added) > 0 {
			above = append(above, change{Kind: exclusive, Path: path, CPUs: added.String()})
		}
	}
	slices.Reverse(above) // from the top
	p.list = append(p.list, above...)
	return p.set(demand, filepath.Join(dir, "cpuset.cpus.partition"), "isolated")
}
