package pod

import (
	"context"
	"os"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
)

func podSteps() step.Table[*Pod] {
	return step.Table[*Pod]{
		{Name: "files", Up: (*Pod).filesUp, Down: (*Pod).filesDown},
		{Name: "logs", Up: (*Pod).logsUp, Down: (*Pod).logsDown},
		{Name: "cgroup", Up: (*Pod).cgroupUp, Down: (*Pod).cgroupDown},
		{Name: "namespaces", Up: (*Pod).namespacesUp, Down: (*Pod).namespacesDown},
		{Name: "network", Up: (*Pod).networkUp, Down: (*Pod).networkDown},
		{Name: "infra", Up: (*Pod).infraUp, Down: (*Pod).infraDown},
		{Name: "plugins", Up: (*Pod).pluginsUp, Down: (*Pod).pluginsDown},
	}
}

func (p *Pod) filesUp(context.Context) error { return files.Make(p.runDir(), &p.req) }

func (p *Pod) filesDown(context.Context) error { return files.Remove(p.runDir(), &p.req) }

func (p *Pod) logsUp(context.Context) error { return files.ShowLogs(&p.req) }

func (p *Pod) logsDown(context.Context) error { return files.HideLogs(&p.req) }

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
	if _, err := files.ResolvConf(p.req.Config.GetDnsConfig()); err != nil {
		return err
	}
	if _, err := p.networkRequest(); err != nil && !p.req.HostNetwork() {
		return err
	}
	return namespace.CheckSysctls(p.req.Config.GetLinux().GetSysctls(), p.req.Namespaces())
}

func (p *Pod) namespacesUp(ctx context.Context) error {
	r := namespace.PinRequest{Kinds: p.req.Namespaces(), Dir: p.runDir(), Sysctls: p.req.Sysctls(p.m.Sysctls)}
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
	if err := files.WriteHosts(p.runDir(), &p.req, res.IPs); err != nil {
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
