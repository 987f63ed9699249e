package spec

import (
	"encoding/json"
	"slices"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	seccomp "github.com/seccomp/libseccomp-golang"
)

// Refusals tell the listener of a container's seccomp filter what would have become of
// calls without it. They are the filter's listenerMetadata.
type Refusals struct {
	// Container is its name in the pod.
	Container string `json:"container"`
	// Stop ends it some time after the last of such calls.
	Stop bool `json:"stop,omitempty"`
	// Errno is the answer to calls that Errnos does not name.
	Errno  uint            `json:"errno"`
	Errnos map[string]uint `json:"errnos,omitempty"`
	// Kills are calls whose callers are killed; "*" is all that nothing else names.
	Kills []string `json:"kills,omitempty"`
}

// AllCalls stands in Refusals.Kills for calls that nothing else names.
const AllCalls = "*"

// unheard is the one call that must not wait for an answer: by it the runtime tells the
// number of the listener's descriptor.
const unheard = "write"

// notify turns calls that the profile refuses into calls that a listener is asked about,
// if an annotation wants it.
func (b *builder) notify() error {
	v, ok := b.acts.Get(annotation.SeccompNotify, b.name)
	if !ok {
		return nil
	}
	if b.in.Node.SeccompListener == "" {
		return errs.Precondition("annotation %s: nobody can listen on this node: the path of run_dir is too long for a socket", annotation.SeccompNotify)
	}
	if v != "" && v != "log" && v != "stop" {
		return errs.Invalid("annotation %s = %q: allowed are log, which only tells of refused calls, and stop, which ends the container after them", annotation.SeccompNotify, v)
	}
	p := b.spec.Linux.Seccomp
	if p == nil {
		b.notes = append(b.notes, "annotation "+annotation.SeccompNotify+" has no effect: the container has no seccomp profile")
		return nil
	}
	if p.ListenerPath != "" {
		return errs.Invalid("annotation %s: the container's seccomp profile names a listener of its own, %s", annotation.SeccompNotify, p.ListenerPath)
	}
	r := Refusals{Container: b.name, Stop: v == "stop", Errno: errno(p.DefaultErrnoRet), Errnos: map[string]uint{}}
	rest := unnamed(p)
	var rules []specs.LinuxSyscall
	for _, rule := range p.Syscalls {
		rules = append(rules, r.heard(rule)...)
	}
	if refuses(p.DefaultAction) && len(rest) > 0 {
		rules = append(rules, specs.LinuxSyscall{Names: rest, Action: specs.ActNotify})
		if kills(p.DefaultAction) {
			r.Kills = append(r.Kills, AllCalls)
		}
	}
	data, err := json.Marshal(r)
	p.Syscalls, p.ListenerPath, p.ListenerMetadata = rules, b.in.Node.SeccompListener, string(data)
	return err
}

// heard is a rule as it has to be for a listener.
func (r *Refusals) heard(rule specs.LinuxSyscall) []specs.LinuxSyscall {
	if !refuses(rule.Action) {
		return []specs.LinuxSyscall{rule}
	}
	asked := slices.DeleteFunc(slices.Clone(rule.Names), func(n string) bool { return n == unheard })
	var out []specs.LinuxSyscall
	if len(asked) < len(rule.Names) {
		same := rule
		same.Names = []string{unheard}
		out = append(out, same)
	}
	for _, n := range asked {
		if r.Errnos[n] = errno(rule.ErrnoRet); kills(rule.Action) {
			r.Kills = append(r.Kills, n)
		}
	}
	if len(asked) > 0 {
		out = append(out, specs.LinuxSyscall{Names: asked, Action: specs.ActNotify, Args: rule.Args})
	}
	return out
}

func errno(ret *uint) uint {
	if ret == nil {
		return 1 // EPERM, as the specification says
	}
	return *ret
}

func refuses(a specs.LinuxSeccompAction) bool { return a == specs.ActErrno || kills(a) }

func kills(a specs.LinuxSeccompAction) bool {
	return a == specs.ActKill || a == specs.ActKillProcess || a == specs.ActKillThread
}

// unnamed are the calls of this machine that no rule is about. One that is newer than
// all that the profile names is left out: runtimes let it fail with ENOSYS, for programs
// then try an older one. A call that is allowed for some arguments is no such call: to
// the others the default action applies, unheard.
func unnamed(p *specs.LinuxSeccomp) (list []string) {
	named, newest := map[string]bool{unheard: true}, seccomp.ScmpSyscall(0)
	for _, rule := range p.Syscalls {
		for _, n := range rule.Names {
			named[n] = true
			if nr, err := seccomp.GetSyscallFromName(n); err == nil {
				newest = max(newest, nr)
			}
		}
	}
	for _, n := range seccomp.Names() {
		if nr, err := seccomp.GetSyscallFromName(n); err == nil && nr <= newest && !named[n] {
			list = append(list, n)
		}
	}
	return list
}
