package state

import (
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/selinux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Acts is what annotations and the node's options change of a pod beyond its request. It
// is decided once, when the pod is made: what an administrator changes later holds for
// later pods.
type Acts struct {
	// UIDs and GIDs map a user namespace that an annotation asks for.
	UIDs []specs.LinuxIDMapping `json:"uids,omitempty"`
	GIDs []specs.LinuxIDMapping `json:"gids,omitempty"`
	// ShmSize is the size of /dev/shm in bytes; 0: the default.
	ShmSize int64 `json:"shmSize,omitempty"`
	// LogsIn is the folder of a volume in which the pod's logs are to be seen.
	LogsIn string `json:"logsIn,omitempty"`
	// Level is the pod's own SELinux level, SELinux what follows from it and its options.
	Level   string         `json:"level,omitempty"`
	SELinux selinux.Labels `json:"selinux,omitzero"`
	// Infra gives the pod an infra process though it shares no PID namespace.
	Infra bool `json:"infra,omitempty"`
}

// userNS is the user namespace as the CRI would ask for it.
func (a *Acts) userNS() *cri.UserNamespace {
	if len(a.UIDs) == 0 {
		return nil
	}
	return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: idMappings(a.UIDs), Gids: idMappings(a.GIDs)}
}

func idMappings(list []specs.LinuxIDMapping) (out []*cri.IDMapping) {
	for _, m := range list {
		out = append(out, &cri.IDMapping{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Size})
	}
	return out
}

// HasInfra tells whether the pod has an infra process.
func (r *PodRequest) HasInfra() bool { return r.SharedPID() || r.Acts.Infra }

// Sysctls are those of the node that fit the pod's namespaces, under those of the pod.
func (r *PodRequest) Sysctls(node map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range node {
		if namespace.CheckSysctls(map[string]string{k: v}, r.Namespaces()) == nil {
			all[k] = v
		}
	}
	for k, v := range r.Config.GetLinux().GetSysctls() {
		all[k] = v
	}
	return all
}
