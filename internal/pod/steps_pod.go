package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podSteps() []step[*Pod] {
	return []step[*Pod]{
		{"files", (*Pod).filesUp, (*Pod).filesDown},
		{"cgroup", (*Pod).cgroupUp, (*Pod).cgroupDown},
		{"namespaces", (*Pod).namespacesUp, (*Pod).namespacesDown},
		{"network", (*Pod).networkUp, (*Pod).networkDown},
		{"infra", (*Pod).infraUp, (*Pod).infraDown},
	}
}

// Names of a pod's files below its RUN folder; the pinned namespaces are beside
// them under their kinds.
const (
	FileShm        = "shm"
	FileResolvConf = "resolv.conf"
	FileHosts      = "hosts"
	FileHostname   = "hostname"
)

// shmSize is the size of a pod's /dev/shm in bytes: Docker's choice, which programs
// have come to expect.
const shmSize = 64 << 20

func (p *Pod) filesUp(_ context.Context) error {
	config, dir := p.req.Config, p.runDir()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if d := config.GetLogDirectory(); d != "" {
		if err := makeLogDir(d); err != nil {
			return err
		}
	}
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{
		{FileResolvConf, resolv}, {FileHosts, p.hosts(nil)}, {FileHostname, p.hostname() + "\n"},
	} {
		if err := fsx.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o644, fsx.Process); err != nil {
			return err
		}
	}
	if p.req.HostIPC() {
		return nil
	}
	uid, gid := p.rootIDs()
	return mount.Shm(filepath.Join(dir, FileShm), shmSize, uid, gid)
}

func (p *Pod) filesDown(context.Context) error {
	if !p.req.HostIPC() {
		if err := mount.Unmount(filepath.Join(p.runDir(), FileShm)); err != nil {
			return err
		}
	}
	return os.RemoveAll(p.runDir())
}

// makeLogDir makes a folder that a request names.
func makeLogDir(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot make the log folder %s: %w", dir, err)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.ELOOP) {
		return errs.With(errs.KindInvalid, err)
	}
	return err
}

// rootIDs is the host's view of the pod's root user.
func (p *Pod) rootIDs() (uid, gid int) {
	if u := p.req.UserNS(); u != nil {
		return int(u.GetUids()[0].GetHostId()), int(u.GetGids()[0].GetHostId())
	}
	return 0, 0
}

// hostname is what the pod is called: its own name, or the host's in the host's
// network.
func (p *Pod) hostname() string {
	if h := p.req.Config.GetHostname(); h != "" && !p.req.HostNetwork() {
		return h
	}
	if p.req.HostNetwork() {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	name := p.req.Config.GetMetadata().GetName()
	if len(name) > maxHostname { // as the kubelet shortens it
		name = strings.TrimRight(name[:maxHostname], "-.")
	}
	return name
}

// maxHostname is the longest host name that DNS allows, in bytes.
const maxHostname = 63

// hosts is the pod's /etc/hosts, for containers that the kubelet gives none.
func (p *Pod) hosts(ips []string) string {
	if p.req.HostNetwork() {
		if data, err := os.ReadFile("/etc/hosts"); err == nil {
			return string(data)
		}
	}
	return spec.Hosts(p.hostname(), ips)
}

// resolvConf is the pod's DNS configuration; without one it is the host's.
func resolvConf(dns *cri.DNSConfig) (string, error) {
	if text, err := spec.ResolvConf(dns); text != "" || err != nil {
		return text, err
	}
	data, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

func (p *Pod) cgroupUp(ctx context.Context) error {
	linux := p.req.Config.GetLinux()
	var limits *specs.LinuxResources
	if linux.GetOverhead() != nil || linux.GetResources() != nil {
		limits = p.m.Specs.Limits(linux.GetResources(), linux.GetOverhead())
	}
	return p.m.Cgroups.Create(ctx, p.req.Cgroup, limits)
}

func (p *Pod) cgroupDown(ctx context.Context) error {
	if !p.req.OwnCgroup {
		return nil // the kubelet's: it made it and deletes it
	}
	return p.m.Cgroups.Remove(ctx, p.req.Cgroup)
}

// kinds lists the namespaces that the pod owns.
func (p *Pod) kinds() (list []namespace.Kind) {
	if p.req.UserNS() != nil {
		list = append(list, namespace.User)
	}
	if !p.req.HostIPC() {
		list = append(list, namespace.IPC)
	}
	if !p.req.HostNetwork() {
		list = append(list, namespace.Net, namespace.UTS)
	}
	return list
}

// check refuses what a step would refuse, before anything is made.
func (p *Pod) check() error {
	if err := p.m.Specs.Check(p.req.Config.GetLinux().GetResources()); err != nil {
		return err
	}
	if _, err := resolvConf(p.req.Config.GetDnsConfig()); err != nil {
		return err
	}
	if _, err := p.networkRequest(); err != nil && !p.req.HostNetwork() {
		return err
	}
	return namespace.CheckSysctls(p.req.Config.GetLinux().GetSysctls(), p.kinds())
}

// sysctls are those of the configuration that fit the pod's namespaces, under those
// of the pod.
func (p *Pod) sysctls() map[string]string {
	all := map[string]string{}
	for k, v := range p.m.Sysctls {
		if namespace.CheckSysctls(map[string]string{k: v}, p.kinds()) == nil {
			all[k] = v
		}
	}
	for k, v := range p.req.Config.GetLinux().GetSysctls() {
		all[k] = v
	}
	return all
}

func (p *Pod) namespacesUp(ctx context.Context) error {
	r := namespace.PinRequest{Kinds: p.kinds(), Dir: p.runDir(), Sysctls: p.sysctls()}
	if len(r.Kinds) == 0 {
		return nil
	}
	if !p.req.HostNetwork() {
		r.Hostname = p.hostname()
	}
	if u := p.req.UserNS(); u != nil {
		r.UserMap = &namespace.UserMap{UIDs: idMap(u.GetUids()), GIDs: idMap(u.GetGids())}
	}
	return p.m.Namespaces.Pin(ctx, r)
}

func idMap(list []*cri.IDMapping) (m []namespace.Mapping) {
	for _, e := range list {
		m = append(m, namespace.Mapping{Container: e.GetContainerId(), Host: e.GetHostId(), Size: e.GetLength()})
	}
	return m
}

func (p *Pod) namespacesDown(context.Context) error { return p.m.Namespaces.Unpin(p.runDir()) }

// networkRequest is what the network is told about the pod.
func (p *Pod) networkRequest() (cni.Request, error) {
	c := p.req.Config
	r := cni.Request{
		ID: p.id, NetNS: p.m.NamespacePath(p.id, string(namespace.Net)),
		PodName: c.GetMetadata().GetName(), PodNamespace: c.GetMetadata().GetNamespace(), PodUID: c.GetMetadata().GetUid(),
		Annotations: c.GetAnnotations(), CgroupPath: p.req.Cgroup,
	}
	var err error
	if r.IngressBPS, err = spec.Bandwidth(c.GetAnnotations(), "kubernetes.io/ingress-bandwidth"); err != nil {
		return r, err
	}
	if r.EgressBPS, err = spec.Bandwidth(c.GetAnnotations(), "kubernetes.io/egress-bandwidth"); err != nil {
		return r, err
	}
	if p.m.DisableHostPorts {
		return r, nil
	}
	for _, m := range c.GetPortMappings() {
		if m.GetHostPort() == 0 {
			continue
		}
		for _, n := range []int32{m.GetHostPort(), m.GetContainerPort()} {
			if n < 1 || n > 65535 {
				return r, errs.Invalid("cannot map host port %d to container port %d: ports are 1 to 65535", m.GetHostPort(), m.GetContainerPort())
			}
		}
		if ip := m.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return r, errs.Invalid("cannot map host port %d: host_ip %q is no address", m.GetHostPort(), ip)
			}
		}
		r.Ports = append(r.Ports, cni.Port{HostIP: m.GetHostIp(), HostPort: int(m.GetHostPort()),
			ContainerPort: int(m.GetContainerPort()), Protocol: strings.ToLower(m.GetProtocol().String())})
	}
	return r, nil
}

func (p *Pod) networkUp(ctx context.Context) error {
	if p.req.HostNetwork() {
		return nil
	}
	r, err := p.networkRequest()
	if err != nil {
		return err
	}
	// A DEL is due from here on, whatever happens to us.
	if err := p.transition(func(s *state.PodStatus) { s.Attached = true }); err != nil {
		return err
	}
	res, err := p.m.Network.Attach(ctx, p.req.Network, r)
	if err != nil {
		return err
	}
	if err := fsx.WriteFile(filepath.Join(p.runDir(), FileHosts), []byte(p.hosts(res.IPs)), 0o644, fsx.Process); err != nil {
		return err
	}
	return p.transition(func(s *state.PodStatus) { s.IPs, s.Result = res.IPs, res.Raw })
}

// networkDown gives the addresses back. A plugin that fails does not hold the pod:
// the DEL is owed, and the sweep tries again.
func (p *Pod) networkDown(ctx context.Context) error {
	v := p.view()
	if !v.Status.Attached {
		return nil
	}
	err := p.detach(ctx, v)
	if err != nil {
		p.m.Log.Warn("the network of a pod could not be given back; the CNI DEL is owed and will be tried again", "pod", p.id, "err", err)
		p.m.sweepSoon()
		return p.transition(func(s *state.PodStatus) { s.Owed = err.Error() })
	}
	return p.transition(func(s *state.PodStatus) { s.Attached, s.Owed = false, "" })
}

func (p *Pod) detach(ctx context.Context, v state.PodView) error {
	r, err := p.networkRequest()
	if err != nil {
		return nil // it was refused at the start for the same reason: nothing was attached
	}
	if _, err := os.Stat(r.NetNS); err != nil {
		r.NetNS = ""
	}
	ctx, cancel := context.WithTimeout(ctx, undoTime/2)
	defer cancel()
	return p.m.Network.Detach(ctx, p.req.Network, r, v.Status.Result)
}
