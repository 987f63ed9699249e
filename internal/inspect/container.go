package inspect

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// container answers about a container, or about a pod's infra container, whose id is
// the pod's. The full id is needed.
func (s *server) container(id string) (*Container, error) {
	if v, err := s.Model.Container(id); err == nil && v.ID == id {
		p, err := s.Model.Pod(v.Request.Pod)
		if err != nil {
			return nil, err
		}
		return s.ofContainer(&p, &v), nil
	}
	if p, err := s.Model.Pod(id); err == nil && p.ID == id {
		return s.ofInfra(&p), nil
	}
	return nil, errs.NotFound("container", id)
}

func (s *server) ofContainer(p *state.PodView, v *state.ContainerView) *Container {
	c, md := v.Request.Config, v.Request.Config.GetMetadata()
	out := s.common(p)
	out.Name = longName(md.GetName(), p, md.GetAttempt())
	if v.Status.Process != nil && v.Status.FinishedAt == 0 {
		out.Pid = v.Status.Process.Init.Pid
	}
	out.Image, out.ImageRef = v.Request.Image.Name, v.Request.Image.Ref
	out.CreatedTime, out.LogPath = v.Status.CreatedAt, v.Request.LogPath
	out.Labels, out.Annotations = notNil(c.GetLabels()), notNil(c.GetAnnotations())
	if spec, err := s.Model.Spec(v.ID); err == nil { // its bundle may be gone
		if spec.Root != nil {
			out.Root = spec.Root.Path
		}
		for k, v := range spec.Annotations {
			if strings.HasPrefix(k, internalPrefix) {
				out.CrioAnnotations[k] = v
			}
		}
	}
	sc := c.GetLinux().GetSecurityContext()
	out.annotate(map[string]string{
		"ContainerID": v.ID, "ContainerName": out.Name, "ContainerType": "container", "Created": at(v.Status.CreatedAt),
		"Image": c.GetImage().GetImage(), "ImageName": v.Request.Image.Name, "ImageRef": v.Request.Image.Ref,
		"LogPath": v.Request.LogPath, "MountPoint": out.Root, "RuntimeHandler": v.Request.Handler,
		"Annotations": text(out.Annotations), "Labels": text(out.Labels), "Metadata": text(md),
		"Volumes": volumes(c.GetMounts()), "SeccompProfilePath": profile(sc.GetSeccomp()),
		"Stdin": strconv.FormatBool(c.GetStdin()), "StdinOnce": strconv.FormatBool(c.GetStdinOnce()), "TTY": strconv.FormatBool(c.GetTty()),
	})
	return out
}

func (s *server) ofInfra(p *state.PodView) *Container {
	c, md := p.Request.Config, p.Request.Config.GetMetadata()
	out := s.common(p)
	out.Name = longName("POD", p, md.GetAttempt())
	out.CreatedTime, out.Labels, out.Annotations = p.Status.CreatedAt, notNil(c.GetLabels()), notNil(c.GetAnnotations())
	if p.Status.Infra != nil {
		out.Pid, out.Root = p.Status.Infra.Init.Pid, filepath.Join(s.PodDir(p.ID), "infra/rootfs")
	}
	_, ctrs := s.Model.Lives()
	for i := range ctrs { // any process of the pod leads to its namespaces and cgroup
		v := &ctrs[i].View
		if out.Pid == 0 && v.Request.Pod == p.ID && v.Status.Phase == state.Live && v.Status.State() == cri.ContainerState_CONTAINER_RUNNING && v.Status.Process != nil {
			out.Pid = v.Status.Process.Init.Pid
		}
	}
	out.annotate(map[string]string{
		"ContainerID": p.ID, "ContainerName": out.Name, "ContainerType": "sandbox", "Created": at(p.Status.CreatedAt),
		"MountPoint": out.Root, "RuntimeHandler": p.Request.Handler, "LogPath": c.GetLogDirectory(),
		"Annotations": text(out.Annotations), "Labels": text(out.Labels), "Metadata": text(md),
		"PortMappings": text(append([]*cri.PortMapping{}, c.GetPortMappings()...)), "SeccompProfilePath": profile(c.GetLinux().GetSecurityContext().GetSeccomp()),
	})
	return out
}

// common is what a container has from its pod.
func (s *server) common(p *state.PodView) *Container {
	md := p.Request.Config.GetMetadata()
	out := &Container{Sandbox: p.ID, IPs: append([]string{}, p.Status.IPs...), HostNetwork: p.Request.HostNetwork(), CrioAnnotations: map[string]string{managerKey: "cri-o"}}
	out.annotate(map[string]string{
		"SandboxID": p.ID, "SandboxName": md.GetName(), "Namespace": md.GetNamespace(), "KubeName": md.GetName(), "HostName": p.Request.Hostname(),
		"HostNetwork": strconv.FormatBool(out.HostNetwork), "CgroupParent": p.Request.Cgroup, "CNIResult": string(p.Status.Result),
		"ResolvPath": filepath.Join(s.PodDir(p.ID), "resolv.conf"), "HostnamePath": filepath.Join(s.PodDir(p.ID), "hostname"),
		"ShmPath": shmPath(s.PodDir(p.ID), p),
	})
	for i, ip := range p.Status.IPs {
		out.CrioAnnotations[internalPrefix+"IP."+strconv.Itoa(i)] = ip
	}
	return out
}

// The keys under which CRI-O keeps its state, which hooks and others look at.
const (
	internalPrefix = "io.kubernetes.cri-o."
	managerKey     = "io.container.manager"
)

// annotate adds what is known; an empty value is not.
func (c *Container) annotate(m map[string]string) {
	for k, v := range m {
		if v != "" {
			c.CrioAnnotations[internalPrefix+k] = v
		}
	}
}

// longName is what containers are called where only one name space is: as the kubelet
// first called them.
func longName(name string, p *state.PodView, attempt uint32) string {
	md := p.Request.Config.GetMetadata()
	return fmt.Sprintf("k8s_%s_%s_%s_%s_%d", name, md.GetName(), md.GetNamespace(), md.GetUid(), attempt)
}

func shmPath(dir string, p *state.PodView) string {
	if p.Request.HostIPC() {
		return "/dev/shm"
	}
	return filepath.Join(dir, "shm")
}

func at(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

// text is JSON inside a string, as these annotations have it.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(data)
}

// profile is a seccomp profile in the words of old annotations.
func profile(p *cri.SecurityProfile) string {
	switch {
	case p == nil:
		return ""
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault:
		return "runtime/default"
	case p.GetProfileType() == cri.SecurityProfile_Localhost:
		return "localhost/" + p.GetLocalhostRef()
	}
	return "unconfined"
}

func volumes(mounts []*cri.Mount) string {
	type volume struct {
		ContainerPath string `json:"container_path"`
		HostPath      string `json:"host_path"`
		Readonly      bool   `json:"readonly"`
		Propagation   int32  `json:"propagation"`
		SELinux       bool   `json:"selinux_relabel"`
	}
	list := []volume{}
	for _, m := range mounts {
		list = append(list, volume{m.GetContainerPath(), m.GetHostPath(), m.GetReadonly(), int32(m.GetPropagation()), m.GetSelinuxRelabel()})
	}
	return text(list)
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}
