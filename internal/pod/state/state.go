// Package state is what is recorded about pods and containers: what was asked for
// (requests, written once), how far it came (statuses, replaced), and the views that
// are handed out of both. It is data and what can be derived from it; package pod
// changes it, and nothing else does.
package state

import (
	"encoding/json"
	"fmt"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/step"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Phase is where an object's life stands.
type Phase string

// The phases. A container is Live from created to exited: its times tell more.
const (
	Creating Phase = "creating"
	Ready    Phase = "ready"    // pods
	NotReady Phase = "notready" // pods
	Live     Phase = "live"     // containers
	Removing Phase = "removing"
)

// PodRequest is the immutable half of a pod's record.
type PodRequest struct {
	Config  PodConfig `json:"config"`
	Handler string    `json:"handler"`
	// Network is the configuration chosen at the start; empty for pods in the
	// host's network.
	Network cni.Config `json:"network"`
	// Cgroup is the pod's cgroup; OwnCgroup says that we made it and delete it.
	Cgroup    string `json:"cgroup"`
	OwnCgroup bool   `json:"ownCgroup"`
	Acts      Acts   `json:"acts,omitzero"`
}

// PodStatus is the changing half.
type PodStatus struct {
	Phase     Phase  `json:"phase"`
	Boot      string `json:"boot"`      // the kernel's boot id when it was made
	CreatedAt int64  `json:"createdAt"` // nanoseconds since 1970
	// IPs are the pod's addresses, Result what the network answered.
	IPs    []string        `json:"ips,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	// Attached says that a CNI DEL is due; Owed that one failed.
	Attached bool   `json:"attached,omitempty"`
	Owed     string `json:"owed,omitempty"`
	// Infra is the process that holds the shared PID namespace.
	Infra *Process `json:"infra,omitempty"`
	// Told is what plugins know of the pod: nothing, that it runs, that it has stopped.
	Told string `json:"told,omitempty"`
	// Overhead and Resources are what the kubelet told last, after the request.
	Overhead  *Resources `json:"overhead,omitempty"`
	Resources *Resources `json:"resources,omitempty"`
}

// Values of PodStatus.Told.
const (
	ToldRun  = "run"
	ToldStop = "stop"
)

// ContainerRequest is the immutable half of a container's record.
type ContainerRequest struct {
	Pod     string          `json:"pod"`
	Config  ContainerConfig `json:"config"`
	Handler string          `json:"handler"`
	Image   Image           `json:"image"`
	LogPath string          `json:"logPath"` // absolute; empty: no log
	// Target is the container whose PID namespace is joined.
	Target string `json:"target,omitempty"`
	// From is the checkpoint that its processes and files come from.
	From *Source `json:"from,omitempty"`
	// Volumes are the images that its mounts name.
	Volumes []Volume `json:"volumes,omitempty"`
	// SELinux are its labels.
	SELinux selinux.Labels `json:"selinux,omitzero"`
	// StopWith is the stop signal that an annotation names.
	StopWith string `json:"stopWith,omitempty"`
}

// Source is a checkpoint: a file, or an image that holds its files.
type Source struct {
	File  string `json:"file,omitempty"`
	Image string `json:"image,omitempty"` // id
}

// Volume is an image that is mounted into a container.
type Volume struct {
	Mount int   `json:"mount"` // index among the request's mounts
	Image Image `json:"image"`
}

// Image is what a container needs to know of its image.
type Image struct {
	// ID is the image's id, Ref the reference with a digest when one is known,
	// Name what the user asked for.
	ID, Ref, Name string
	// Platform is OS/ARCHITECTURE, with a variant OS/ARCHITECTURE/VARIANT.
	Platform string `json:",omitempty"`
	// Annotations are those of its manifest that may act.
	Annotations map[string]string `json:",omitempty"`
	Config      v1.ImageConfig
	// Artifact says that it has files, and no root file system.
	Artifact bool `json:",omitempty"`
}

// Process is a monitor and the first process of what it watches.
type Process struct {
	Monitor proc.ID `json:"monitor"`
	Init    proc.ID `json:"init"`
}

// ContainerStatus is the changing half. Times are nanoseconds since 1970, zero
// while not reached.
type ContainerStatus struct {
	Phase      Phase    `json:"phase"`
	Boot       string   `json:"boot"`
	CreatedAt  int64    `json:"createdAt"`
	StartedAt  int64    `json:"startedAt,omitempty"`
	FinishedAt int64    `json:"finishedAt,omitempty"`
	ExitCode   int32    `json:"exitCode,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Message    string   `json:"message,omitempty"`
	Process    *Process `json:"process,omitempty"`
	User       *User    `json:"user,omitempty"`
	// Resources are the limits in force; nil: those of the request.
	Resources *Resources `json:"resources,omitempty"`
	// Paused says that an operator froze it, or began to.
	Paused bool `json:"paused,omitempty"`
}

// User is who a container's process began as.
type User struct {
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"groups,omitempty"`
}

// State derives the CRI's state.
func (s ContainerStatus) State() cri.ContainerState {
	switch {
	case s.FinishedAt != 0:
		return cri.ContainerState_CONTAINER_EXITED
	case s.StartedAt != 0:
		return cri.ContainerState_CONTAINER_RUNNING
	case s.Phase == Creating:
		return cri.ContainerState_CONTAINER_UNKNOWN
	}
	return cri.ContainerState_CONTAINER_CREATED
}

// View is a consistent copy of an object at one instant. Its contents are shared
// and must not be changed.
type View[R, S any] struct {
	ID      string
	Request R
	Status  S
}

// PodView is a pod at one instant.
type PodView = View[PodRequest, PodStatus]

// ContainerView is a container at one instant.
type ContainerView = View[ContainerRequest, ContainerStatus]

// PodConfig is the CRI message, written to records as protobuf's JSON: environment
// values and the like need not be UTF-8.
type PodConfig struct{ *cri.PodSandboxConfig }

// ContainerConfig is the CRI message, like PodConfig.
type ContainerConfig struct{ *cri.ContainerConfig }

// Resources are the CRI message, like PodConfig.
type Resources struct{ *cri.LinuxContainerResources }

// MarshalJSON implements json.Marshaler.
func (r Resources) MarshalJSON() ([]byte, error) { return protojson.Marshal(r.LinuxContainerResources) }

// UnmarshalJSON implements json.Unmarshaler.
func (r *Resources) UnmarshalJSON(data []byte) error {
	r.LinuxContainerResources = &cri.LinuxContainerResources{}
	return decode(data, r.LinuxContainerResources)
}

// MarshalJSON implements json.Marshaler.
func (c PodConfig) MarshalJSON() ([]byte, error) { return protojson.Marshal(c.PodSandboxConfig) }

// UnmarshalJSON implements json.Unmarshaler.
func (c *PodConfig) UnmarshalJSON(data []byte) error {
	c.PodSandboxConfig = &cri.PodSandboxConfig{}
	return decode(data, c.PodSandboxConfig)
}

// MarshalJSON implements json.Marshaler.
func (c ContainerConfig) MarshalJSON() ([]byte, error) { return protojson.Marshal(c.ContainerConfig) }

// UnmarshalJSON implements json.Unmarshaler.
func (c *ContainerConfig) UnmarshalJSON(data []byte) error {
	c.ContainerConfig = &cri.ContainerConfig{}
	return decode(data, c.ContainerConfig)
}

// decode passes over fields of a newer version: a downgraded daemon keeps its pods.
func decode(data []byte, m proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, m); err != nil {
		return fmt.Errorf("cannot read the recorded %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// namespaceOptions never returns nil.
func (r *PodRequest) namespaceOptions() *cri.NamespaceOption {
	if o := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &cri.NamespaceOption{}
}

// HostNetwork tells whether the pod lives in the host's network namespace.
func (r *PodRequest) HostNetwork() bool {
	return r.namespaceOptions().GetNetwork() == cri.NamespaceMode_NODE
}

// HostIPC tells whether the pod lives in the host's IPC namespace.
func (r *PodRequest) HostIPC() bool { return r.namespaceOptions().GetIpc() == cri.NamespaceMode_NODE }

// SharedPID tells whether the pod's containers share one PID namespace.
func (r *PodRequest) SharedPID() bool {
	return r.namespaceOptions().GetPid() == cri.NamespaceMode_POD
}

// SharesPID tells whether the container wants the pod's PID namespace.
func (r *ContainerRequest) SharesPID() bool {
	return r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == cri.NamespaceMode_POD
}

// UserNS returns the pod's user namespace, nil if it has none of its own.
func (r *PodRequest) UserNS() *cri.UserNamespace {
	if u := r.namespaceOptions().GetUsernsOptions(); u != nil && u.GetMode() == cri.NamespaceMode_POD {
		return u
	}
	return r.Acts.userNS()
}

// Life is an object at one instant, with what was done to it since the daemon began.
type Life[V any] struct {
	View  V
	Trail []step.Entry
	// Busy says that the status is not known, because the record is being written.
	Busy bool
}
