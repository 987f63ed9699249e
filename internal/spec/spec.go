// Package spec turns what the CRI asks for into an OCI runtime specification.
//
// Build is a pure function of its Input: the request, the image's configuration,
// facts of the pod and facts of the node, all gathered by the caller. It touches no
// file and no kernel, so that golden tests can show every field. Contradictions in
// the request are errors of kind Invalid that name the field.
//
// It may import the CRI's and the runtime specification's types; it knows no
// runtime, no image store and no pod.
package spec

import (
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that a container's specification depends on.
type Input struct {
	ID     string
	Config *cri.ContainerConfig
	Image  v1.ImageConfig
	Pod    Pod
	Node   Node
	// Rootfs is the mounted root file system; Passwd and Group are the contents
	// of its /etc/passwd and /etc/group, empty if absent.
	Rootfs        string
	Passwd, Group []byte
	CgroupsPath   string
	// PIDNamespace is joined; "" with HostPID false means one of its own.
	PIDNamespace string
	// Mounts are the request's mounts with their sources resolved, in order.
	Mounts []Mount
	// Volumes are the image's VOLUMEs that are not covered by a mount, with the
	// folders that serve them; empty if the node has them made in the root file
	// system.
	Volumes []Volume
	// Devices are the request's devices as found on the node; HostDevices all of
	// the node's, for a privileged container.
	Devices, HostDevices []Device
	// Localhost is the content of the seccomp profile that the request names.
	Localhost []byte
	// Artifact is the content of the seccomp profile that SeccompArtifact names.
	Artifact []byte
	// ImageAnnotations are the image's own; of them the seccomp profile alone may act.
	ImageAnnotations map[string]string
	// ProcessLabel and MountLabel are SELinux labels; empty: none.
	ProcessLabel, MountLabel string
	// Allowed are the annotations of pod and container that may act; DefaultAnnotations
	// the handler's own, under them.
	Allowed            annotation.Allowed
	DefaultAnnotations map[string]string
	// CPU is what activated workloads say, in order, over the request's limits.
	CPU []CPU
	// FIPSFile is a file that stands for the kernel's sign of FIPS mode; "": the
	// kernel has none.
	FIPSFile string
	// What is noted for others in the specification's annotations.
	Created, LogPath, ImageName, ImageRef, StopSignal string
}

// Acting are the annotations that act on the container.
func (in *Input) Acting() annotation.Acting {
	return in.Allowed.ActingOver(in.DefaultAnnotations, in.Pod.Annotations, in.Config.GetAnnotations())
}

// Pod are the facts of the pod.
type Pod struct {
	ID, Name, Namespace, UID string
	Hostname                 string
	// Net, IPC, UTS and User are pinned namespaces; "" means the host's.
	Net, IPC, UTS, User string
	HostPID             bool
	// Privileged says that the pod may hold privileged containers.
	Privileged bool
	// Files of the pod; "" leaves the image's.
	ResolvConf, Hosts, HostnameFile, Shm string
	Annotations                          map[string]string
	// CgroupParent is what the kubelet names; its classes of pods are to be seen there.
	CgroupParent string
	// What is noted for others.
	Handler, CNIResult string
	IPs                []string
	Ports              []*cri.PortMapping
	Overhead           *cri.LinuxContainerResources
	Resources          *cri.LinuxContainerResources
}

// Node are the facts and settings of the node.
type Node struct {
	CgroupV2 bool
	// SwapAccounting says that a swap limit can be set.
	SwapAccounting bool
	// HugePages are the sizes that the kernel limits ("2MB").
	HugePages       []string
	AppArmor        bool
	AppArmorDefault string
	// Capabilities are the default ones; all names with CAP_.
	Capabilities []string
	// AllCapabilities are those that the kernel knows.
	AllCapabilities []string
	Env             []string
	Rlimits         []specs.POSIXRlimit
	Devices         []Device // for every container
	PidsLimit       int64    // <= 0: none
	// Seccomp is the content of the default profile; nil: the built-in one.
	Seccomp []byte
	// PrivilegedSeccomp is the profile of privileged containers; nil: none.
	PrivilegedSeccomp []byte
	// SeccompListener is the socket to which listeners of seccomp filters are sent; "":
	// nobody listens.
	SeccompListener string
	// RecursiveReadOnly says that mounts can be read-only with all below them.
	RecursiveReadOnly bool
	ReadOnly          bool
	// CRIUConfig is criu's configuration for this container's checkpoints; "": none.
	CRIUConfig string
	// PrivilegedNoHostDevices keeps the node's devices from privileged containers.
	PrivilegedNoHostDevices bool
	// InheritableCapabilities sets the default ones as inheritable too.
	InheritableCapabilities bool
	// DeviceOwnership gives devices to the user and group of the request.
	DeviceOwnership bool
	// Localtime is the file for /etc/localtime; "": the image's.
	Localtime string
	// Secrets are files and folders that every container gets to see.
	Secrets []Volume
	// MinGOMAXPROCS is the least GOMAXPROCS that is injected; 0: none is.
	MinGOMAXPROCS int64
	InfraCPUs     string // processors of infra processes
	SharedCPUs    string // processors that an annotation adds
	// ExecFirstCPU lets exec'd processes begin on the first processor of the
	// container's.
	ExecFirstCPU bool
}

// Mount is a mount of the request with its source resolved on the node.
type Mount struct {
	*cri.Mount
	Source string // absolute, symbolic links followed
	File   bool   // the source is no folder
}

// Volume is a VOLUME of the image and the folder that serves it.
type Volume struct{ Path, Source string }

// Device is a device of the node.
type Device struct {
	Path         string // in the container
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32
	UID, GID     uint32
	Access       string // "rwm"
}

// Result is the specification and what the status of the container tells of it.
type Result struct {
	Spec *specs.Spec
	User *cri.LinuxContainerUser
	// Notes tell what of the request has no effect on this node, for the log.
	Notes []string
}

// builder carries the pieces of one Build.
type builder struct {
	in    *Input
	sc    *cri.LinuxContainerSecurityContext // never nil
	acts  annotation.Acting
	name  string // of the container
	spec  *specs.Spec
	user  *cri.LinuxContainerUser
	notes []string
}

// Build makes the specification.
func Build(in Input) (*Result, error) {
	b := &builder{in: &in, sc: in.Config.GetLinux().GetSecurityContext(), acts: in.Acting(), name: in.Config.GetMetadata().GetName()}
	if b.sc == nil {
		b.sc = &cri.LinuxContainerSecurityContext{}
	}
	if err := b.contradictions(); err != nil {
		return nil, err
	}
	b.spec = &specs.Spec{
		Version: ociVersion, Hostname: "", Annotations: b.annotations(),
		Root:    &specs.Root{Path: in.Rootfs, Readonly: b.sc.GetReadonlyRootfs() || in.Node.ReadOnly},
		Process: &specs.Process{},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupsPath},
	}
	for _, part := range []func() error{b.process, b.capabilities, b.namespaces, b.mounts, b.devices, b.resources, b.acting, b.security, b.seccomp, b.notify} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return &Result{Spec: b.spec, User: b.user, Notes: b.notes}, nil
}

// ociVersion is what our specs need at least; runtimes of some distributions (crun
// before 1.9) refuse all that is newer.
const ociVersion = "1.0.2"

// contradictions refuses requests whose parts exclude each other.
func (b *builder) contradictions() error {
	name := b.in.Config.GetMetadata().GetName()
	switch {
	case b.sc.GetPrivileged() && !b.in.Pod.Privileged:
		return errs.Invalid("container %s: privileged, but its pod is not: set privileged in the pod's security context too", name)
	case b.sc.GetRunAsUser() != nil && b.sc.GetRunAsUsername() != "":
		return errs.Invalid("container %s: run_as_user and run_as_username exclude each other", name)
	case b.sc.GetRunAsGroup() != nil && b.sc.GetRunAsUser() == nil && b.sc.GetRunAsUsername() == "":
		return errs.Invalid("container %s: run_as_group needs run_as_user or run_as_username", name)
	case b.in.Config.GetStdinOnce() && !b.in.Config.GetStdin():
		return errs.Invalid("container %s: stdin_once needs stdin", name)
	}
	return nil
}

// namespaces joins the pod's and makes the container's own.
func (b *builder) namespaces() error {
	p := b.in.Pod
	add := func(t specs.LinuxNamespaceType, path string) {
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	for _, ns := range []struct {
		t    specs.LinuxNamespaceType
		path string
	}{{specs.NetworkNamespace, p.Net}, {specs.IPCNamespace, p.IPC}, {specs.UTSNamespace, p.UTS}} {
		if ns.path != "" {
			add(ns.t, ns.path)
		}
	}
	if p.User != "" {
		add(specs.UserNamespace, p.User) // its mappings are a property of it: the runtime reads them there
	}
	if b.in.PIDNamespace != "" || !p.HostPID {
		add(specs.PIDNamespace, b.in.PIDNamespace)
	}
	if b.in.Node.CgroupV2 && !b.sc.GetPrivileged() {
		add(specs.CgroupNamespace, "")
	}
	return nil
}

// Infra is the specification of the process that holds a pod's shared PID
// namespace: our own executable as pause, on an empty root file system.
func Infra(in Input, executable string) *specs.Spec {
	b := &builder{in: &in, sc: &cri.LinuxContainerSecurityContext{}}
	in.Config = &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "POD"}}
	b.spec = &specs.Spec{
		Version: ociVersion, Annotations: b.annotations(),
		Root: &specs.Root{Path: in.Rootfs, Readonly: true},
		Process: &specs.Process{Args: []string{"/pause"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{}},
		Linux: &specs.Linux{CgroupsPath: in.CgroupsPath, Resources: &specs.LinuxResources{
			Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			CPU:     &specs.LinuxCPU{Shares: new(uint64(2)), Cpus: in.Node.InfraCPUs},
		}},
		Mounts: []specs.Mount{
			{Destination: "/pause", Type: "bind", Source: executable, Options: []string{"bind", "ro", "nosuid", "nodev"}},
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}},
		},
	}
	b.spec.Annotations[noted+"ContainerType"] = "sandbox"
	b.spec.Annotations["io.kubernetes.cri.container-type"] = "sandbox"
	b.sandboxSize()
	_ = b.namespaces() // an error only by its form, that of the builder's steps
	return b.spec
}

func upper(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		out = append(out, strings.ToUpper(n))
	}
	return out
}
