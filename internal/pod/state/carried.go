package state

import (
	"time"

	"github.com/monocrio/monocrio/internal/selinux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Lease is a writable root file system held for one container.
type Lease struct {
	ID, Image, Pod string
	// UIDs and GIDs map the pod's user namespace; empty: none.
	UIDs, GIDs []specs.LinuxIDMapping
	MountLabel string
}

// SpecRequest is what the OCI spec of a container is made from.
type SpecRequest struct {
	ID      string
	Pod     View[PodRequest, PodStatus]
	Config  *cri.ContainerConfig
	Image   Image
	Handler string
	// Rootfs is the mounted root file system, Files the pod's RUN folder.
	Rootfs, Files string
	CgroupsPath   string
	// PIDNamespace is a path, "" for a namespace of its own; with HostPID none.
	PIDNamespace string
	// Volumes are where the images of the request's mounts are, by index.
	Volumes map[int]string
	SELinux selinux.Labels
	// LogPath and StopSignal are noted in the spec.
	LogPath, StopSignal string
}

// Event tells that an object changed; it can be queried when the event is sent.
type Event struct {
	Container, Pod string // Container is empty for an event of the pod itself
	Type           cri.ContainerEventType
	At             time.Time
	// Last is the pod as it was when the event tells that it is gone.
	Last *PodView
}
