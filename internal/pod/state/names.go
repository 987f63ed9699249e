package state

import (
	"fmt"
	"strconv"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodName is the name that a pod's identity makes: what the kubelet repeats when it
// asks again.
func PodName(md *cri.PodSandboxMetadata) string {
	return fmt.Sprintf("%q/%q/%q/%d", md.GetNamespace(), md.GetName(), md.GetUid(), md.GetAttempt())
}

// ContainerName is the same of a container of a pod.
func ContainerName(pod string, md *cri.ContainerMetadata) string {
	return pod + "/" + strconv.Quote(md.GetName()) + "/" + strconv.FormatUint(uint64(md.GetAttempt()), 10)
}

// FullName is what people call a pod.
func FullName(md *cri.PodSandboxMetadata) string { return md.GetNamespace() + "/" + md.GetName() }

// Reasons of a container's end, as kubectl shows them.
const (
	ReasonCompleted   = "Completed"
	ReasonError       = "Error"
	ReasonOOM         = "OOMKilled"
	ReasonMonitorLost = "MonitorLost"
	ReasonUnknown     = "ContainerStatusUnknown"
	ReasonNeverRan    = "ContainerCannotRun"
)

// ExitUnknown is the code of an end that nobody saw.
const ExitUnknown = 255
