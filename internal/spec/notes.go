package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strconv"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// annotations are the handler's under the pod's under the container's, without those
// that may not act, and what the engine notes itself, under the names that hooks,
// virtual machines and other tools know from CRI-O.
func (b *builder) annotations() map[string]string {
	asked := maps.Clone(b.in.Pod.Annotations)
	if asked == nil {
		asked = map[string]string{}
	}
	maps.Copy(asked, b.in.Config.GetAnnotations())
	a := maps.Clone(b.in.DefaultAnnotations)
	if a == nil {
		a = map[string]string{}
	}
	maps.Copy(a, b.in.Allowed.Strip(asked))
	for k, v := range b.facts() {
		if v != "" {
			a[k] = v
		}
	}
	return a
}

const noted = "io.kubernetes.cri-o."

// facts are the engine's notes for others; empty ones are left out.
func (b *builder) facts() map[string]string {
	c, p, in := b.in.Config, b.in.Pod, b.in
	n := map[string]string{
		"io.container.manager":                "cri-o",
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.sandbox-id":        p.ID,
		"io.kubernetes.cri.sandbox-name":      p.Name,
		"io.kubernetes.cri.sandbox-namespace": p.Namespace,
		"io.kubernetes.cri.container-name":    c.GetMetadata().GetName(),
		"org.opencontainers.image.stopSignal": in.StopSignal,
		"org.criu.config":                     in.Node.CRIUConfig,
	}
	for k, v := range map[string]string{
		"ContainerType": "container", "ContainerID": in.ID, "SandboxID": p.ID, "SandboxName": p.Name, "Namespace": p.Namespace,
		"ContainerName": fmt.Sprintf("k8s_%s_%s_%s_%s_%d", c.GetMetadata().GetName(), p.Name, p.Namespace, p.UID, c.GetMetadata().GetAttempt()),
		"KubeName":      p.Name, "HostName": p.Hostname, "CgroupParent": p.CgroupParent, "RuntimeHandler": p.Handler,
		"HostNetwork": strconv.FormatBool(p.Net == ""), "PortMappings": text(p.Ports), "CNIResult": p.CNIResult,
		"ResolvPath": p.ResolvConf, "HostnamePath": p.HostnameFile, "ShmPath": p.Shm,
		"Created": in.Created, "LogPath": in.LogPath, "MountPoint": in.Rootfs,
		"Image": c.GetImage().GetImage(), "ImageName": in.ImageName, "ImageRef": in.ImageRef,
		"TTY": strconv.FormatBool(c.GetTty()), "Stdin": strconv.FormatBool(c.GetStdin()), "StdinOnce": strconv.FormatBool(c.GetStdinOnce()),
		"PrivilegedRuntime":  strconv.FormatBool(b.sc.GetPrivileged()),
		"SeccompProfilePath": profileText(b.sc), "Volumes": volumes(in.Mounts),
		"Metadata": text(c.GetMetadata()), "Labels": text(c.GetLabels()), "Annotations": text(in.Allowed.Strip(c.GetAnnotations())),
	} {
		n[noted+k] = v
	}
	for i, ip := range p.IPs {
		n[noted+"IP."+strconv.Itoa(i)] = ip
	}
	return n
}

// text is a value as JSON; "" if it is empty.
func text(v any) string {
	data, err := json.Marshal(v)
	if err != nil || string(data) == "null" {
		return ""
	}
	return string(data)
}

// profileText names the seccomp profile in the words of the old CRI field.
func profileText(sc *cri.LinuxContainerSecurityContext) string {
	switch p := sc.GetSeccomp(); {
	case p == nil:
		return sc.GetSeccompProfilePath() //nolint:staticcheck // old clients still send it
	case p.GetProfileType() == cri.SecurityProfile_Localhost:
		return "localhost/" + path.Clean(p.GetLocalhostRef())
	case p.GetProfileType() == cri.SecurityProfile_RuntimeDefault:
		return "runtime/default"
	}
	return "unconfined"
}

func volumes(list []Mount) string {
	type volume struct {
		ContainerPath string `json:"container_path"`
		HostPath      string `json:"host_path"`
		Readonly      bool   `json:"readonly"`
		Propagation   int32  `json:"propagation"`
	}
	var out []volume
	for _, m := range list {
		out = append(out, volume{m.GetContainerPath(), m.Source, m.GetReadonly(), int32(m.GetPropagation())})
	}
	return text(out)
}
