package pod

import (
	"context"
	"encoding/json"
	"io"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What seams and events carry is data.
type (
	Lease       = state.Lease
	SpecRequest = state.SpecRequest
	Event       = state.Event
)

// Network attaches pods to networks (package cni).
type Network interface {
	// Select returns the configuration that a new pod gets; it is recorded before
	// Attach and given back to Detach.
	Select() (cni.Config, error)
	// Attach joins the namespace to the network. A failure leaves nothing behind.
	Attach(context.Context, cni.Config, cni.Request) (cni.Result, error)
	// Detach undoes Attach; absence is success, a namespace that is gone too.
	Detach(context.Context, cni.Config, cni.Request, json.RawMessage) error
	// GC frees what belongs to no pod of the list.
	GC(ctx context.Context, valid []string) error
}

// Namespaces pins namespaces as files of a folder (package linux/namespace).
type Namespaces interface {
	Pin(context.Context, namespace.PinRequest) error
	// Unpin unmounts and deletes what Pin made; absence is success.
	Unpin(dir string) error
}

// Cgroups makes the pods' cgroups (package linux/cgroup). Paths are what
// ParentPath returned.
type Cgroups interface {
	// ParentPath checks a cgroup parent as the CRI gives it. With an empty parent
	// it returns a path made from the pod's id, and true: the cgroup is ours.
	ParentPath(parent, id string) (path string, ours bool, err error)
	// ContainerPath is the OCI cgroupsPath of a container below a parent.
	ContainerPath(parent, id string) string
	// Create makes the cgroup with the limits that are given; one that is there
	// is kept and gets them too.
	Create(ctx context.Context, path string, limits *specs.LinuxResources) error
	// Remove deletes a cgroup and the empty ones below it; absence is success.
	Remove(ctx context.Context, path string) error
}

// Rootfs leases writable layers (package storage).
type Rootfs interface {
	// Lease makes the layer of container l.ID over the image, or finds it.
	Lease(context.Context, Lease) error
	// Mount mounts a leased layer and returns its folder.
	Mount(ctx context.Context, id string) (path string, err error)
	// Unmount and Release undo; absence is success.
	Unmount(ctx context.Context, id string) error
	Release(ctx context.Context, id string) error
	// Diff is what a layer changes, as a tar; the caller closes it.
	Diff(ctx context.Context, id string) (io.ReadCloser, error)
	// Leases lists the ids of all layers with our mark.
	Leases(context.Context) ([]string, error)
}

// Images resolves references against the local store (package image).
type Images interface {
	// Resolve never pulls; the kind of its error is NotFound if the image is
	// absent, and Denied if pods of the namespace must not use it.
	Resolve(ctx context.Context, image *cri.ImageSpec, namespace string) (state.Image, error)
}

// Handlers finds runtime handlers.
type Handlers interface {
	// Handler returns the named handler, for "" the default one; NotFound kind
	// with the names there are otherwise.
	Handler(name string) (*process.Handler, error)
}

// Specs builds OCI specs (package spec, with the facts of the node).
type Specs interface {
	// Pod decides what a pod's annotations change that is about to be recorded, and
	// notes it in the request; others are the pods there are. done is called when the
	// pod is listed, or gone.
	Pod(id string, r *state.PodRequest, others func() []state.PodView) (done func(), err error)
	// Admit does that for a container.
	Admit(*state.PodRequest, *state.ContainerRequest) error
	// Container tells also as whom the process begins.
	Container(context.Context, SpecRequest) (*specs.Spec, *state.User, error)
	// Infra is the spec of the process that holds a shared PID namespace.
	Infra(context.Context, SpecRequest) (*specs.Spec, error)
	// Check refuses resources that cannot be meant; nil is fine.
	Check(*cri.LinuxContainerResources) error
	// Limits turns the CRI's resources into the spec's.
	Limits(...*cri.LinuxContainerResources) *specs.LinuxResources
}

// Plugins hear of lives and may change them (package nri). Calls return when all
// plugins have answered.
type Plugins interface {
	// Hold keeps a plugin that is about to join waiting until release: what is being
	// made is told either step by step or as one of all that there are, never not at
	// all.
	Hold() (release func())
	Pod(context.Context, state.PodMoment, *state.PodView) error
	Container(context.Context, state.ContainerMoment, *state.PodView, *state.ContainerView) error
	// Create may change the specification of a container that is being made.
	Create(context.Context, *state.PodView, *state.ContainerView, *specs.Spec) error
	// Update returns the limits that are to be set instead.
	Update(context.Context, *state.PodView, *state.ContainerView, *cri.LinuxContainerResources) (*cri.LinuxContainerResources, error)
	UpdatePod(ctx context.Context, p *state.PodView, overhead, resources *cri.LinuxContainerResources) error
}
