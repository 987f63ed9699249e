package state

import (
	"net/netip"
	"os"
	"strings"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/spec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RootIDs is the host's view of the pod's root user.
func (r *PodRequest) RootIDs() (uid, gid int) {
	if u := r.UserNS(); u != nil {
		return int(u.GetUids()[0].GetHostId()), int(u.GetGids()[0].GetHostId())
	}
	return 0, 0
}

// Hostname is what the pod is called: its own name, or the host's in the host's
// network.
func (r *PodRequest) Hostname() string {
	if h := r.Config.GetHostname(); h != "" && !r.HostNetwork() {
		return h
	}
	if r.HostNetwork() {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	name := r.Config.GetMetadata().GetName()
	if len(name) > maxHostname { // as the kubelet shortens it
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	return name
}

// maxHostname is the longest host name that DNS allows, in bytes.
const maxHostname = 63

// Namespaces lists the namespaces that the pod owns.
func (r *PodRequest) Namespaces() (list []namespace.Kind) {
	if r.UserNS() != nil {
		list = append(list, namespace.User)
	}
	if !r.HostIPC() {
		list = append(list, namespace.IPC)
	}
	if !r.HostNetwork() {
		list = append(list, namespace.Net, namespace.UTS)
	}
	return list
}

// Mappings turns the CRI's id mappings into those of the kernel floor.
func Mappings(list []*cri.IDMapping) (m []namespace.Mapping) {
	for _, e := range list {
		m = append(m, namespace.Mapping{Container: e.GetContainerId(), Host: e.GetHostId(), Size: e.GetLength()})
	}
	return m
}

// CNI is what the network is told about a pod whose network namespace is at netns;
// with hostPorts it is asked to map them.
func (r *PodRequest) CNI(id, netns string, hostPorts bool) (cni.Request, error) {
	c := r.Config
	n := cni.Request{
		ID: id, NetNS: netns,
		PodName: c.GetMetadata().GetName(), PodNamespace: c.GetMetadata().GetNamespace(), PodUID: c.GetMetadata().GetUid(),
		Annotations: c.GetAnnotations(), CgroupPath: r.Cgroup,
	}
	var err error
	if n.IngressBPS, err = spec.Bandwidth(c.GetAnnotations(), "kubernetes.io/ingress-bandwidth"); err != nil {
		return n, err
	}
	if n.EgressBPS, err = spec.Bandwidth(c.GetAnnotations(), "kubernetes.io/egress-bandwidth"); err != nil {
		return n, err
	}
	if !hostPorts {
		return n, nil
	}
	for _, m := range c.GetPortMappings() {
		if m.GetHostPort() == 0 {
			continue
		}
		for _, port := range []int32{m.GetHostPort(), m.GetContainerPort()} {
			if port < 1 || port > 65535 {
				return n, errs.Invalid("cannot map host port %d to container port %d: ports are 1 to 65535", m.GetHostPort(), m.GetContainerPort())
			}
		}
		if ip := m.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return n, errs.Invalid("cannot map host port %d: host_ip %q is no address", m.GetHostPort(), ip)
			}
		}
		n.Ports = append(n.Ports, cni.Port{HostIP: m.GetHostIp(), HostPort: int(m.GetHostPort()),
			ContainerPort: int(m.GetContainerPort()), Protocol: strings.ToLower(m.GetProtocol().String())})
	}
	return n, nil
}

// Word is a state of the CRI in one word.
func Word(s cri.ContainerState) string {
	switch s {
	case cri.ContainerState_CONTAINER_CREATED:
		return "created"
	case cri.ContainerState_CONTAINER_RUNNING:
		return "running"
	case cri.ContainerState_CONTAINER_EXITED:
		return "exited"
	}
	return "being made or removed"
}
