// Package annotation knows the annotations that make a pod or a container different:
// their names, the older spellings, what each does, and who may use them.
//
// Whoever may make a pod writes its annotations, so none acts unless the administrator
// allows it: by a runtime handler, or by a workload that the pod activates. What is not
// allowed is taken away before anything looks at it, the OCI runtime included. Only the
// annotations of CRI requests come here; those of archives never act, and of images only
// the seccomp profile, which can but confine.
//
// It imports nothing of ours.
package annotation

import (
	"maps"
	"slices"
	"strings"
)

// Names of annotations that act.
const (
	UserNS         = "userns-mode.crio.io"
	Devices        = "devices.crio.io"
	ShmSize        = "shm-size.crio.io"
	UnifiedCgroup  = "unified-cgroup.crio.io"
	CgroupWritable = "cgroup2-mount-hierarchy-rw.crio.io"
	Umask          = "umask.crio.io"
	SeccompProfile = "seccomp-profile.crio.io"
	SeccompNotify  = "seccomp-notifier-action.crio.io"
	LinkLogs       = "link-logs.crio.io"
	DisableFIPS    = "disable-fips.crio.io"
	SkipRelabel    = "try-skip-volume-selinux-label.crio.io"
	PlatformPath   = "platform-runtime-path.crio.io"
	PodOverhead    = "pod-linux-overhead.crio.io"
	PodResources   = "pod-linux-resources.crio.io"
	CPULoad        = "cpu-load-balancing.crio.io"
	CPUQuota       = "cpu-quota.crio.io"
	IRQLoad        = "irq-load-balancing.crio.io"
	CPUCStates     = "cpu-c-states.crio.io"
	CPUGovernor    = "cpu-freq-governor.crio.io"
	CPUShared      = "cpu-shared.crio.io"
	SkipGOMAXPROCS = "skip-gomaxprocs.crio.io"
	TraceSyscall   = "io.containers.trace-syscall"
	StopSignal     = "org.opencontainers.image.stopSignal"
)

// Known is one annotation, or with Prefix all whose names begin so.
type Known struct {
	Name string
	// Old is the former spelling; Name wins where both are given.
	Old    string
	Prefix bool
	// Scoped annotations may be meant for one container: NAME/CONTAINER.
	Scoped bool
	Effect string
	// Engine says that only the engine sets it; old files may allow it all the same.
	Engine bool
	// Inert says that it may be allowed and has no effect yet.
	Inert bool
}

// Performance are those that give a container its processors undisturbed.
func Performance() []string {
	return []string{CPULoad, CPUQuota, IRQLoad, CPUCStates, CPUGovernor, CPUShared}
}

// internalPrefix begins the names under which the engine notes in config.json what it
// did; nobody else may write such notes.
const internalPrefix = "io.kubernetes.cri-o."

// Table lists the annotations that act, in the order of the manual.
func Table() []Known {
	old := func(s string) string { return internalPrefix + s }
	return []Known{
		{Name: UserNS, Old: old("userns-mode"), Effect: "a user namespace for the pod: auto or private, with options"},
		{Name: Devices, Old: old("Devices"), Scoped: true, Effect: "devices HOST:CONTAINER:PERMISSIONS, of those in allowed_devices"},
		{Name: ShmSize, Old: old("ShmSize"), Effect: "size of /dev/shm"},
		{Name: UnifiedCgroup, Old: old("UnifiedCgroup"), Scoped: true, Effect: "files of the container's cgroup v2: KEY=VALUE;KEY=VALUE"},
		{Name: CgroupWritable, Old: old("cgroup2-mount-hierarchy-rw"), Scoped: true, Effect: "true: /sys/fs/cgroup can be written to (cgroup v2)"},
		{Name: Umask, Old: old("umask"), Scoped: true, Effect: "umask of the first process, octal"},
		{Name: SeccompProfile, Old: "seccomp-profile.kubernetes.cri-o.io", Scoped: true, Effect: "reference of an OCI artifact that holds a seccomp profile, for containers that ask for none; NAME/POD: of all containers; an image may have it too"},
		{Name: SeccompNotify, Old: old("seccompNotifierAction"), Effect: "log calls that seccomp forbids; stop: end the container after them"},
		{Name: LinkLogs, Old: old("LinkLogs"), Effect: "name of an emptyDir in which the pod's logs are to be seen, below logs"},
		{Name: DisableFIPS, Old: old("DisableFIPS"), Scoped: true, Effect: "true: containers see a kernel without FIPS mode"},
		{Name: SkipRelabel, Old: old("TrySkipVolumeSELinuxLabel"), Scoped: true, Effect: "true: volumes whose top folder has the right SELinux label are not relabelled"},
		{Name: PlatformPath, Old: old("PlatformRuntimePath"), Effect: "platform whose runtime of platform_runtime_paths is used: OS/ARCH[/VARIANT]"},
		{Name: PodOverhead, Old: old("PodLinuxOverhead"), Engine: true, Effect: "noted by the daemon for virtual machines: the pod's overhead as JSON"},
		{Name: PodResources, Old: old("PodLinuxResources"), Engine: true, Effect: "noted by the daemon for virtual machines: the pod's resources as JSON"},
		{Name: "spoofed.crio.io", Old: old("Spoofed"), Engine: true, Effect: "noted by the daemon"},
		{Name: CPULoad, Scoped: true, Effect: "disable: the scheduler leaves the container's processors alone"},
		{Name: CPUQuota, Scoped: true, Effect: "disable: no CFS quota on pinned processors"},
		{Name: IRQLoad, Scoped: true, Effect: "disable or housekeeping: interrupts stay off the container's processors"},
		{Name: CPUCStates, Scoped: true, Effect: "enable, disable or max_latency:N"},
		{Name: CPUGovernor, Scoped: true, Effect: "frequency governor of the container's processors"},
		{Name: CPUShared, Scoped: true, Effect: "enable: the processors of shared_cpuset too"},
		{Name: SkipGOMAXPROCS, Scoped: true, Effect: "true: no GOMAXPROCS is injected"},
		{Name: TraceSyscall, Effect: "for an OCI hook that records system calls"},
		{Name: "io.kubernetes.cri.rdt-class", Effect: "RDT class of a container"},
		{Name: "rdt.resources.beta.kubernetes.io/", Prefix: true, Effect: "RDT class of the pod or a container"},
		{Name: "io.kubernetes.cri.blockio-class", Effect: "block I/O class of a container"},
		{Name: "blockio.resources.beta.kubernetes.io/", Prefix: true, Effect: "block I/O class of the pod or a container"},
		{Name: StopSignal, Effect: "signal that asks the container to end"},
		{Name: "bundle", Effect: "passed to the OCI runtime"},
		{Name: "org.systemd.property.", Prefix: true, Effect: "property of the container's systemd unit, by the OCI runtime"},
		{Name: "org.criu.config", Effect: "configuration of criu, by the OCI runtime"},
		{Name: "module.wasm.image/variant", Prefix: true, Effect: "how WebAssembly runs, by the OCI runtime"},
		{Name: "io.kubernetes.cri.container-type", Effect: "passed to the OCI runtime"},
		{Name: "run.oci.", Prefix: true, Effect: "options of crun"},
	}
}

func (k Known) spells(name string) bool {
	if k.Prefix {
		return strings.HasPrefix(name, k.Name)
	}
	return name == k.Name || k.Old != "" && name == k.Old
}

// split parts NAME/CONTAINER, or the older NAME.CONTAINER; the container is "" for all.
func (k Known) split(key string) (container string, old, ok bool) {
	if k.Prefix {
		return "", false, strings.HasPrefix(key, k.Name)
	}
	for _, name := range []string{k.Name, k.Old} {
		rest, begins := strings.CutPrefix(key, name)
		switch {
		case name == "" || !begins:
		case rest == "":
			return "", name == k.Old, true
		case k.Scoped && len(rest) > 1 && (rest[0] == '/' || rest[0] == '.' && name == k.Old):
			return rest[1:], name == k.Old, true
		}
	}
	return "", false, false
}

// find returns the annotation of a key.
func find(key string) (k Known, container string, old, ok bool) {
	for _, k := range Table() {
		if container, old, ok := k.split(key); ok {
			return k, container, old, true
		}
	}
	return Known{}, "", false, false
}

// Allowable tells whether a name may stand in allowed_annotations: that of an
// annotation in either spelling, or the beginning of such names.
func Allowable(name string) bool {
	return slices.ContainsFunc(Table(), func(k Known) bool { return k.spells(name) })
}

// Allowed are the names that the administrator lets act.
type Allowed []string

// permits tells whether the key of an annotation is allowed. Names are compared
// exactly, in either spelling; one that ends in '.' or '/' allows all that begin so.
func (a Allowed) permits(k Known, key string) bool {
	return !k.Engine && slices.ContainsFunc(a, func(name string) bool {
		if !k.Prefix {
			return k.spells(name)
		}
		return name == key || name == k.Name || strings.HasPrefix(key, name) && strings.HasSuffix(name, ".")
	})
}

// Strip returns the annotations without those that would act and may not, and without
// those that pretend to be the engine's own notes.
func (a Allowed) Strip(all map[string]string) map[string]string {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(key, _ string) bool {
		k, _, _, ok := find(key)
		if !ok {
			return reserved(key)
		}
		return !a.permits(k, key)
	})
	return out
}

// reserved tells names under which only the engine writes.
func reserved(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	return strings.HasPrefix(key, internalPrefix) || strings.HasSuffix(domain, ".crio.io")
}

// Acting are the annotations that act, by their names, for a pod and each container.
type Acting struct {
	all map[string]string
}

// Acting picks those that act. Later maps win over earlier ones: a container's own
// over its pod's.
func (a Allowed) Acting(list ...map[string]string) Acting { return a.ActingOver(nil, list...) }

// ActingOver is Acting over annotations of the administrator, which all act.
func (a Allowed) ActingOver(own map[string]string, list ...map[string]string) Acting {
	out := Acting{all: map[string]string{}}
	out.add(own, func(Known, string) bool { return true })
	for _, m := range list {
		out.add(m, a.permits)
	}
	return out
}

func (a Acting) add(m map[string]string, permits func(Known, string) bool) {
	newer := map[string]bool{} // the new spelling was seen: it wins
	for _, key := range slices.Sorted(maps.Keys(m)) {
		k, container, old, ok := find(key)
		if !ok || !permits(k, key) {
			continue
		}
		name := key
		if !k.Prefix {
			name = scoped(k.Name, container)
		}
		if old && newer[name] {
			continue
		}
		newer[name] = !old
		a.all[name] = m[key]
	}
}

func scoped(name, container string) string {
	if container == "" {
		return name
	}
	return name + "/" + container
}

// Get is the value of an annotation for a container: its own wins over one for all.
// With an empty container only the latter counts.
func (a Acting) Get(name, container string) (value string, ok bool) {
	if container != "" {
		if v, ok := a.all[scoped(name, container)]; ok {
			return v, true
		}
	}
	value, ok = a.all[name]
	return value, ok
}

// Is tells whether an annotation has the value.
func (a Acting) Is(name, container, value string) bool {
	v, _ := a.Get(name, container)
	return v == value
}
