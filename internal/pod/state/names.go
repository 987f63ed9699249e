package state

import (
	"fmt"
	"strconv"
	"strings"

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

// KubeName is what the journal calls a container: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT.
func KubeName(pod *cri.PodSandboxMetadata, own *cri.ContainerMetadata) string {
	return strings.Join([]string{"k8s", own.GetName(), pod.GetName(), pod.GetNamespace(), pod.GetUid(), strconv.FormatUint(uint64(own.GetAttempt()), 10)}, "_")
}
