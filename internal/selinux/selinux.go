// Package selinux decides which SELinux labels pods and containers have: the types are
// the policy's, the level is the pod's own, so that pods are kept apart and a pod's
// containers share their files.
//
// It knows no pod, and the kernel through a seam only.
package selinux

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
)

// Kernel is the node's policy and the labels of its files (linux/lsm.SELinux).
type Kernel interface {
	// Templates are the policy's labels for processes and files of containers; their
	// levels mean nothing.
	Templates() (process, file string, err error)
	// Check refuses a label that the policy cannot have.
	Check(label string) error
	FileLabel(path string) (string, error)
	// Relabel labels a file, or a folder with all that is in it.
	Relabel(path, label string) error
}

// Options are what a request says; empty fields are the policy's.
type Options struct{ User, Role, Type, Level string }

// Labels are those of a container's processes, and of its files and mounts.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"`
}

// Labeler gives out labels.
type Labeler struct {
	Kernel Kernel

	mu    sync.Mutex
	taken map[string]bool // levels of pods that are on no record yet
}

// privileged is the type of processes that the policy lets do everything.
const privileged = "spc_t"

// For are the labels for the options. A privileged container's processes are not
// confined, unless it asks for a type.
func (l *Labeler) For(o Options, isPrivileged bool) (Labels, error) {
	process, file, err := l.Kernel.Templates()
	if err != nil {
		return Labels{}, err
	}
	for _, v := range []string{o.User, o.Role, o.Type, o.Level} {
		if strings.ContainsAny(v, " \t\n\x00") {
			return Labels{}, errs.Invalid("selinux_options: %q has a blank", v)
		}
	}
	if isPrivileged && o.Type == "" {
		o.Type = privileged
	}
	p, f := split(process), split(file)
	out := Labels{
		Process: join(or(o.User, p[0]), or(o.Role, p[1]), or(o.Type, p[2]), level(o.Level, p[3])),
		// The files' role and type are the policy's, whatever the process may be.
		Mount: join(or(o.User, f[0]), f[1], f[2], level(o.Level, f[3])),
	}
	for _, label := range []string{out.Process, out.Mount} {
		if err := l.Kernel.Check(label); err != nil {
			return Labels{}, errs.Invalid("selinux_options: the node's policy has no label %s: %w", label, err)
		}
	}
	return out, nil
}

// split parts USER:ROLE:TYPE[:LEVEL]; a level has colons of its own.
func split(label string) (part [4]string) {
	copy(part[:], strings.SplitN(label, ":", 4))
	return part
}

func join(user, role, typ, level string) string {
	return strings.TrimSuffix(strings.Join([]string{user, role, typ, level}, ":"), ":")
}

func or(v, def string) string {
	if v == "" {
		return def
	}
	return v
}

// level is what was asked for, or the sensitivity of the policy's without categories; a
// policy without levels has none.
func level(asked, policy string) string {
	if asked != "" || policy == "" {
		return asked
	}
	sensitivity, _, _ := strings.Cut(policy, ":")
	return sensitivity
}

// categories is how many there are in the policies that containers use.
const categories = 1024

// Take finds a level that no pod has: two categories of its own. It is empty where the
// policy has no levels. done is called when the level is on record, or not used.
func (l *Labeler) Take(used []string) (level string, done func(), err error) {
	process, _, err := l.Kernel.Templates()
	if err != nil {
		return "", nil, err
	}
	policy := split(process)[3]
	if policy == "" {
		return "", func() {}, nil
	}
	sensitivity, _, _ := strings.Cut(policy, ":")
	l.mu.Lock()
	defer l.mu.Unlock()
	for range 10000 { // of half a million: it would take very many pods to fail
		a, b := rand.IntN(categories), rand.IntN(categories)
		if a == b {
			continue
		}
		try := fmt.Sprintf("%s:c%d,c%d", sensitivity, min(a, b), max(a, b))
		if l.taken[try] || slices.Contains(used, try) {
			continue
		}
		if l.taken == nil {
			l.taken = map[string]bool{}
		}
		l.taken[try] = true
		return try, func() { l.mu.Lock(); delete(l.taken, try); l.mu.Unlock() }, nil
	}
	return "", nil, errs.Errorf(errs.KindExhausted, "there is no free pair of SELinux categories among those of %d pods", len(used))
}

// Relabel labels what a container mounts. With skip a folder that has the label is taken
// to have it throughout: to look at all of it may take minutes.
func (l *Labeler) Relabel(path, label string, skip bool) error {
	if label == "" {
		return nil
	}
	if skip {
		if has, err := l.Kernel.FileLabel(path); err == nil && has == label {
			return nil
		}
	}
	if err := l.Kernel.Relabel(path, label); err != nil {
		return fmt.Errorf("cannot give %s the SELinux label %s: %w", path, label, err)
	}
	return nil
}
