package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/spec"
	"github.com/monocrio/monocrio/internal/step"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podSteps() step.Table[*Pod] {
	return step.Table[*Pod]{
		{Name: "files", Up: (*Pod).filesUp, Down: (*Pod).filesDown},
		{Name: "cgroup", Up: (*Pod).cgroupUp, Down: (*Pod).cgroupDown},
		{Name: "namespaces", Up: (*Pod).namespacesUp, Down: (*Pod).namespacesDown},
		{Name: "network", Up: (*Pod).networkUp, Down: (*Pod).networkDown},
		{Name: "infra", Up: (*Pod).infraUp, Down: (*Pod).infraDown},
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
		{FileResolvConf, resolv}, {FileHosts, p.hosts(nil)}, {FileHostname, p.req.Hostname() + "\n"},
	} {
		if err := fsx.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o644, fsx.Process); err != nil {
			return err
		}
	}
	if p.req.HostIPC() {
		return nil
	}
	uid, gid := p.req.RootIDs()
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

// hosts is the pod's /etc/hosts, for containers that the kubelet gives none.
func (p *Pod) hosts(ips []string) string {
	if p.req.HostNetwork() {
		if data, err := os.ReadFile("/etc/hosts"); err == nil {
			return string(data)
		}
	}
	return spec.Hosts(p.req.Hostname(), ips)
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
	return p.m.Cgroups.Create(ctx, p.req.Cgroup, p.limits(linux.GetResources(), linux.GetOverhead()))
}

func (p *Pod) cgroupDown(ctx context.Context) error {
	if !p.req.OwnCgroup {
		return nil // the kubelet's: it made it and deletes it
	}
	return p.m.Cgroups.Remove(ctx, p.req.Cgroup)
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
	return namespace.CheckSysctls(p.req.Config.GetLinux().GetSysctls(), p.req.Namespaces())
}

// sysctls are those of the configuration that fit the pod's namespaces, under those
// of the pod.
func (p *Pod) sysctls() map[string]string {
	all := map[string]string{}
	for k, v := range p.m.Sysctls {
		if namespace.CheckSysctls(map[string]string{k: v}, p.req.Namespaces()) == nil {
			all[k] = v
		}
	}
	for k, v := range p.req.Config.GetLinux().GetSysctls() {
		all[k] = v
	}
	return all
}

func (p *Pod) namespacesUp(ctx context.Context) error {
	r := namespace.PinRequest{Kinds: p.req.Namespaces(), Dir: p.runDir(), Sysctls: p.sysctls()}
	if len(r.Kinds) == 0 {
		return nil
	}
	if !p.req.HostNetwork() {
		r.Hostname = p.req.Hostname()
	}
	if u := p.req.UserNS(); u != nil {
		r.UserMap = &namespace.UserMap{UIDs: state.Mappings(u.GetUids()), GIDs: state.Mappings(u.GetGids())}
	}
	return p.m.Namespaces.Pin(ctx, r)
}

func (p *Pod) namespacesDown(context.Context) error { return p.m.Namespaces.Unpin(p.runDir()) }

// networkRequest is what the network is told about the pod.
func (p *Pod) networkRequest() (cni.Request, error) {
	return p.req.CNI(p.id, p.m.NamespacePath(p.id, string(namespace.Net)), !p.m.DisableHostPorts)
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
	ctx, cancel := context.WithTimeout(ctx, step.UndoTime/2)
	defer cancel()
	return p.m.Network.Detach(ctx, p.req.Network, r, v.Status.Result)
}
