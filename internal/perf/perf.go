// Package perf gives containers their processors undisturbed, as annotations ask: no load
// balancing, no quota, no interrupts, chosen idle states and frequency governors. All of
// it is undone when the container has ended.
//
// What is changed is on record in the container's bundle before the kernel is touched:
// each file with what it held and what it gets. An undo restores what still holds what
// was written; where another container has written since, that one's record takes over
// what is to be restored. So whoever ends last leaves what the first one found, and a
// daemon that is killed in between loses nothing.
//
// It knows no pod.
package perf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Options say where things are.
type Options struct {
	// Root is before /proc and /sys; "" but in tests.
	Root string
	// Bundles is the folder of all containers' bundles.
	Bundles string
	// Cgroup returns the folder of a cgroup for a controller, "" if there is none, by the
	// cgroupsPath of a specification; Unified tells of cgroup version 2.
	Cgroup  func(controller, cgroupsPath string) (string, error)
	Unified bool
	// IRQBalance is irqbalance's configuration file, Restore the file with the processors
	// that were banned there before; "disable": none is kept.
	IRQBalance, Restore string
	// Reread makes irqbalance read its file again.
	Reread func() error
	Log    *slog.Logger
}

// Tuner changes the node for containers.
type Tuner struct {
	o  Options
	mu sync.Mutex // one change at a time: records take over from each other
}

// New makes a Tuner.
func New(o Options) *Tuner { return &Tuner{o: o} }

// recordFile is the name of the record in a bundle.
const recordFile = "perf.json"

// record is what a container asked for and what was changed for it.
type record struct {
	id   string
	Want Want `json:"want"`
	// CPUs are the processors of its own, Quiet those of them that get no interrupts.
	CPUs    string   `json:"cpus,omitempty"`
	Quiet   string   `json:"quiet,omitempty"`
	At      int64    `json:"at,omitempty"` // when, in nanoseconds since 1970
	Changes []change `json:"changes,omitempty"`
}

// Prepare changes the specification of a container that is being made, and notes in its
// bundle what is to be done at its start.
func (t *Tuner) Prepare(id string, acts annotation.Acting, container, shared string, s *specs.Spec) error {
	w, err := Parse(acts, container)
	if err != nil || !w.any() {
		return err
	}
	if acts.Is(annotation.CPUShared, container, "enable") {
		w.Shared = shared
	}
	if w.NoQuota {
		dropQuota(s.Linux.Resources)
	}
	if w.IRQ == Housekeeping {
		own, err := ownCPUs(w, s)
		if err != nil {
			return err
		}
		keep, err := t.housekeeping(own)
		if err != nil {
			return err
		}
		s.Process.Env = append(s.Process.Env, "OPENSHIFT_HOUSEKEEPING_CPUS="+keep.String())
	}
	if err := os.MkdirAll(filepath.Join(t.o.Bundles, id), 0o700); err != nil {
		return err
	}
	return t.save(&record{id: id, Want: w})
}

// dropQuota takes the quota out of limits that are to be set.
func dropQuota(r *specs.LinuxResources) {
	if r != nil && r.CPU != nil && r.CPU.Quota != nil {
		r.CPU.Quota = new(int64(-1))
	}
}

// ownCPUs are the container's own processors.
func ownCPUs(w Want, s *specs.Spec) (cpus, error) {
	text := ""
	if l := s.Linux; l != nil && l.Resources != nil && l.Resources.CPU != nil {
		text = l.Resources.CPU.Cpus
	}
	all, err := parseList(text)
	if err != nil {
		return nil, err
	}
	shared, err := parseList(w.Shared)
	if err != nil {
		return nil, err
	}
	if all = all.minus(shared); len(all) == 0 {
		return nil, errs.Invalid("the annotations for undisturbed processors need a container with processors of its own (cpuset_cpus): the kubelet gives them to guaranteed pods under its static policy")
	}
	return all, nil
}

// start makes the changes for a container that is about to run.
func (t *Tuner) start(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.load(id)
	if r == nil || err != nil {
		return err
	}
	s, err := oci.LoadBundle(filepath.Join(t.o.Bundles, id))
	if err != nil {
		return err
	}
	own, err := ownCPUs(r.Want, s)
	if err == nil {
		err = t.apply(r, own, s.Linux.CgroupsPath)
	}
	if err != nil {
		return fmt.Errorf("cannot give container %s its processors undisturbed: %w", id, err)
	}
	return nil
}

func (t *Tuner) apply(r *record, own cpus, cgroup string) error {
	list, quiet, err := t.plan(r.Want, own, cgroup)
	if err != nil {
		return err
	}
	r.CPUs, r.Quiet, r.At, r.Changes = own.String(), quiet.String(), time.Now().UnixNano(), list
	if err := t.save(r); err != nil {
		return err
	}
	for _, c := range list {
		if err := c.do(t); err != nil {
			return errors.Join(err, t.undo(r))
		}
	}
	t.o.Log.Info("a container has its processors undisturbed", "ctr", r.id, "cpus", r.CPUs, "files", len(list))
	return nil
}

// stop undoes what was changed for a container that has ended.
func (t *Tuner) stop(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.load(id)
	if r == nil || err != nil {
		return err
	}
	if err := t.undo(r); err != nil {
		return fmt.Errorf("cannot undo what was changed for the processors of container %s: %w", id, err)
	}
	return nil
}

// undo takes the changes back, last first. Those that fail stay on record.
func (t *Tuner) undo(r *record) (err error) {
	others, err := t.others(r.id)
	if err != nil {
		return err
	}
	var left []change
	for i := len(r.Changes) - 1; i >= 0; i-- {
		c := r.Changes[i]
		if e := c.undo(t, r.At, others); e != nil {
			err, left = errors.Join(err, e), append([]change{c}, left...)
		}
	}
	if r.Changes = left; len(left) == 0 {
		r.CPUs, r.Quiet, r.At = "", "", 0
	}
	return errors.Join(err, t.save(r))
}

// others are the records of all other containers.
func (t *Tuner) others(id string) (list []*record, err error) {
	found, err := filepath.Glob(filepath.Join(t.o.Bundles, "*", recordFile))
	for _, path := range found {
		other := filepath.Base(filepath.Dir(path))
		if other == id {
			continue
		}
		r, e := t.load(other)
		if e != nil {
			err = errors.Join(err, e)
		} else if r != nil {
			list = append(list, r)
		}
	}
	return list, err
}

// load returns nil for a container that asks for nothing.
func (t *Tuner) load(id string) (*record, error) {
	path := filepath.Join(t.o.Bundles, id, recordFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r := &record{id: id}
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return r, nil
}

func (t *Tuner) save(r *record) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = fsx.WriteFile(filepath.Join(t.o.Bundles, r.id, recordFile), data, 0o600, fsx.Process)
	}
	return err
}

func (t *Tuner) read(path string) (string, error) {
	data, err := os.ReadFile(t.o.Root + path)
	return strings.TrimSpace(string(data)), err
}

// Runtime makes a container's changes before its program runs, and undoes them when the
// runtime has forgotten it.
type Runtime struct {
	oci.Runtime
	Tuner *Tuner
}

// Start implements oci.Runtime.
func (r Runtime) Start(ctx context.Context, id string) error {
	if err := r.Tuner.start(id); err != nil {
		return err
	}
	return r.Runtime.Start(ctx, id)
}

// Delete implements oci.Runtime.
func (r Runtime) Delete(ctx context.Context, id string, force bool) error {
	if err := r.Runtime.Delete(ctx, id, force); err != nil {
		return err
	}
	return r.Tuner.stop(id)
}

// Update implements oci.Runtime. A quota stays off, and other processors are treated as
// the first were.
func (r Runtime) Update(ctx context.Context, id string, l *specs.LinuxResources) error {
	rec, err := r.Tuner.load(id)
	if err != nil {
		return err
	}
	if rec != nil && rec.Want.NoQuota {
		dropQuota(l)
	}
	if err := r.Runtime.Update(ctx, id, l); err != nil || rec == nil || rec.CPUs == "" || l.CPU == nil || l.CPU.Cpus == "" {
		return err
	}
	return r.Tuner.move(id, l.CPU.Cpus)
}

// move makes the changes for other processors of a running container.
func (t *Tuner) move(id, list string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, err := t.load(id)
	if r == nil || err != nil {
		return err
	}
	s, err := oci.LoadBundle(filepath.Join(t.o.Bundles, id))
	if err != nil {
		return err
	}
	s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: list}}
	own, err := ownCPUs(r.Want, s)
	if err != nil || own.String() == r.CPUs {
		return err
	}
	if err := t.undo(r); err != nil {
		return err
	}
	return t.apply(r, own, s.Linux.CgroupsPath)
}
