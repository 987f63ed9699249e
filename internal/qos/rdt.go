package qos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// RDT are classes of cache and memory bandwidth. Each is a group of the kernel's resctrl
// file system, of the class's name. The zero value has none.
type RDT struct {
	file   string
	root   string // where resctrl is mounted
	groups map[string]group
}

// group is a class with what its group's schemata must be.
type group struct {
	schemata []string
	deny     rdtDeny
}

// rdtDeny says whose annotations may not name a class.
type rdtDeny struct{ DenyPodAnnotation, DenyContainerAnnotation bool }

// RootClass is the group of whoever has no other.
const RootClass = "system/default"

// rdtFile is the form of a file of classes. Allocations are texts, or tables by cache id.
type rdtFile struct {
	Options    struct{ L2, L3, MB struct{ Optional bool } }
	Partitions map[string]rdtPartition
}

type rdtPartition struct {
	L2Allocation, L3Allocation, MBAllocation any
	Classes                                  map[string]rdtClass
}

type rdtClass struct {
	L2Allocation, L3Allocation, MBAllocation any
	Kubernetes                               rdtDeny
}

// ReadRDT reads a file of classes, "" for none, and finds out what they mean for the
// caches of this node, whose resctrl is mounted at root. Nothing is changed.
func ReadRDT(file, root string) (*RDT, error) {
	r := &RDT{file: file, root: root, groups: map[string]group{}}
	if file == "" {
		return r, nil
	}
	data, err := os.ReadFile(file)
	var f rdtFile
	if err == nil {
		err = decode(data, &f)
	}
	if err != nil {
		return nil, errs.Invalid("cannot read RDT classes from %s: %w", file, err)
	}
	hw, err := readHardware(root)
	if err != nil {
		return nil, err
	}
	if err := r.resolve(&f, hw); err != nil {
		return nil, errs.Invalid("cannot use %s: %w", file, err)
	}
	return r, nil
}

// resolve makes the schemata of all classes.
func (r *RDT) resolve(f *rdtFile, hw *hardware) error {
	parts := slices.Sorted(maps.Keys(f.Partitions))
	for _, c := range []struct {
		name     string
		optional bool
		of       func(string) any
		ofClass  func(rdtClass) any
	}{
		{"L2", f.Options.L2.Optional, func(p string) any { return f.Partitions[p].L2Allocation }, func(c rdtClass) any { return c.L2Allocation }},
		{"L3", f.Options.L3.Optional, func(p string) any { return f.Partitions[p].L3Allocation }, func(c rdtClass) any { return c.L3Allocation }},
	} {
		asked := false
		shares, requests := map[string]shares{}, map[string]any{}
		for _, p := range parts {
			requests[p] = c.of(p)
			asked = asked || requests[p] != nil
			for _, class := range f.Partitions[p].Classes {
				asked = asked || c.ofClass(class) != nil
			}
		}
		caches := hw.caches[c.name]
		if !asked || len(caches) == 0 && c.optional {
			continue
		}
		if len(caches) == 0 {
			return errs.Precondition("there are %s allocations, and this node's %s caches cannot be allocated; options.%s.optional would pass over that", c.name, c.name, strings.ToLower(c.name))
		}
		for _, cache := range caches {
			if err := partition(cache, parts, requests, shares); err != nil {
				return err
			}
			for _, p := range parts {
				for name, class := range f.Partitions[p].Classes {
					line, err := cache.schema(shares[p], c.ofClass(class))
					if err != nil {
						return errs.Invalid("class %s: %sAllocation: %w", name, strings.ToLower(c.name), err)
					}
					r.add(name, line)
				}
			}
		}
	}
	return r.finish(f, hw, parts)
}

// finish adds memory bandwidth, and classes about which nothing is said.
func (r *RDT) finish(f *rdtFile, hw *hardware, parts []string) error {
	owner := map[string]string{}
	for _, p := range parts {
		for name, class := range f.Partitions[p].Classes {
			if other := owner[name]; other != "" {
				return errs.Invalid("class %s is in the partitions %s and %s", name, other, p)
			}
			owner[name] = p
			if name != RootClass && (name == "" || name == "." || name == ".." || slices.Contains([]string{"info", "mon_groups", "mon_data"}, name) || strings.ContainsAny(name, "/\n")) {
				return errs.Invalid("class %q: the name must be that of a folder", name)
			}
			asked := f.Partitions[p].MBAllocation != nil || class.MBAllocation != nil
			if asked && hw.bandwidth == nil && !f.Options.MB.Optional {
				return errs.Precondition("class %s has an mbAllocation, and this node's memory bandwidth cannot be allocated; options.mb.optional would pass over that", name)
			}
			if asked && hw.bandwidth != nil {
				line, err := hw.bandwidth.schema(f.Partitions[p].MBAllocation, class.MBAllocation)
				if err != nil {
					return errs.Invalid("class %s: mbAllocation: %w", name, err)
				}
				r.add(name, line)
			}
			g := r.groups[name]
			g.deny = class.Kubernetes
			r.groups[name] = g
		}
	}
	return nil
}

func (r *RDT) add(class, line string) {
	g := r.groups[class]
	g.schemata = append(g.schemata, line)
	r.groups[class] = g
}

// Class is a class as a runtime wants it; nil for the one of whoever has no other. byPod
// and byContainer tell whose annotation names it.
func (r *RDT) Class(name string, byPod, byContainer bool) (*specs.LinuxIntelRdt, error) {
	if r.file == "" {
		return nil, errs.Precondition("there is no RDT class %q: this node has none: set rdt_config_file in [crio.runtime]", name)
	}
	g, ok := r.groups[name]
	switch {
	case !ok && name != RootClass:
		return nil, errs.Invalid("there is no RDT class %q: %s has %s", name, r.file, strings.Join(slices.Sorted(maps.Keys(r.groups)), ", "))
	case byPod && g.deny.DenyPodAnnotation, byContainer && g.deny.DenyContainerAnnotation:
		return nil, errs.Invalid("RDT class %q may not be named by such an annotation: %s denies it", name, r.file)
	case name == RootClass:
		return nil, nil
	}
	return &specs.LinuxIntelRdt{ClosID: name}, nil
}

// Apply makes the groups, and deletes those that an earlier file had and that no process
// is in; the file made lists which are ours.
func (r *RDT) Apply(made string, log *slog.Logger) error {
	var old []string
	data, err := os.ReadFile(made)
	if err == nil {
		err = json.Unmarshal(data, &old)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read which RDT groups are ours: %w", err)
	}
	if r.file == "" && len(old) == 0 {
		return nil
	}
	ours := slices.DeleteFunc(slices.Sorted(maps.Keys(r.groups)), func(n string) bool { return n == RootClass })
	kept := slices.Clone(ours)
	for _, name := range old {
		if slices.Contains(ours, name) {
			continue
		}
		dir := filepath.Join(r.root, name)
		if tasks, err := os.ReadFile(filepath.Join(dir, "tasks")); err == nil && len(strings.TrimSpace(string(tasks))) > 0 {
			log.Warn("an RDT class that is no more has processes still; its group stays until the next reload without them", "class", name)
			kept = append(kept, name)
		} else if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot delete RDT group %s: %w", name, err)
		}
	}
	data, err = json.Marshal(kept) // before they are made
	if err == nil {
		err = fsx.WriteFile(made, data, 0o600, fsx.Process)
	}
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.groups)) {
		if err := r.make(name); err != nil {
			return err
		}
	}
	return nil
}

// make makes a group and writes its schemata.
func (r *RDT) make(name string) error {
	dir := r.root
	if name != RootClass {
		dir = filepath.Join(r.root, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make RDT group %s: %w", name, r.why(err))
		}
	}
	for _, line := range r.groups[name].schemata {
		f, err := os.OpenFile(filepath.Join(dir, "schemata"), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString(line + "\n")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return fmt.Errorf("cannot write %q to RDT group %s: %w", line, name, r.why(err))
		}
	}
	return nil
}

// why adds what the kernel says of its last refusal.
func (r *RDT) why(err error) error {
	data, e := os.ReadFile(filepath.Join(r.root, "info/last_cmd_status"))
	if text := strings.TrimSpace(string(data)); e == nil && text != "" && text != "ok" {
		return fmt.Errorf("%w: %s", err, text)
	}
	return err
}
