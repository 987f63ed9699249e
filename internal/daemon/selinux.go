package daemon

import (
	"path/filepath"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/daemon/machine"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/spec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// labelPod gives a pod its SELinux labels, with a level of its own unless it asks for
// one. A pod in the node's network has none if hostnetwork_disable_selinux says so.
func (m *specMaker) labelPod(r *state.PodRequest, others func() []state.PodView) (done func(), err error) {
	done = func() {}
	if m.labels == nil || m.conf.HostNetworkSELinux && r.HostNetwork() {
		return done, nil
	}
	sc := r.Config.GetLinux().GetSecurityContext()
	o := m.seOptions(r, sc.GetSelinuxOptions())
	if o.Level == "" {
		var used []string
		for _, v := range others() {
			used = append(used, v.Request.Acts.Level, v.Request.Config.GetLinux().GetSecurityContext().GetSelinuxOptions().GetLevel())
		}
		if o.Level, done, err = m.labels.Take(used); err != nil {
			return nil, err
		}
	}
	r.Acts.Level = o.Level
	if r.Acts.SELinux, err = m.labels.For(o, sc.GetPrivileged()); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// labelContainer gives a container of a labelled pod its labels: what its own options
// do not say is the pod's.
func (m *specMaker) labelContainer(p *state.PodRequest, c *state.ContainerRequest) (err error) {
	if m.labels == nil || p.Acts.SELinux == (selinux.Labels{}) {
		return nil
	}
	sc := c.Config.GetLinux().GetSecurityContext()
	o := m.seOptions(p, sc.GetSelinuxOptions())
	if sc.GetSelinuxOptions() == nil {
		o = m.seOptions(p, p.Config.GetLinux().GetSecurityContext().GetSelinuxOptions())
	}
	if o.Level == "" {
		o.Level = p.Acts.Level
	}
	c.SELinux, err = m.labels.For(o, sc.GetPrivileged())
	return err
}

func (m *specMaker) seOptions(p *state.PodRequest, asked *cri.SELinuxOption) selinux.Options {
	o := selinux.Options{User: asked.GetUser(), Role: asked.GetRole(), Type: asked.GetType(), Level: asked.GetLevel()}
	if machine.Is(m.conf, p.Handler) {
		return machine.Label(o)
	}
	return o
}

// relabel gives what the container gets to see from the node its label: mounts that ask
// for it, and what was made for this container alone.
func (m *specMaker) relabel(in *spec.Input, r string) {
	if m.labels == nil || in.MountLabel == "" {
		return
	}
	skip := in.Acting().Is(annotation.SkipRelabel, in.Config.GetMetadata().GetName(), "true")
	paths := map[string]bool{}
	for _, mnt := range in.Mounts {
		if mnt.GetSelinuxRelabel() {
			paths[mnt.Source] = skip
		}
	}
	for _, v := range in.Volumes {
		paths[v.Source] = false
	}
	if len(in.Node.Secrets) > 0 {
		paths[filepath.Join(r, "secrets")] = false
	}
	for path, skip := range paths {
		if err := m.labels.Relabel(path, in.MountLabel, skip); err != nil {
			m.log.Warn("a mount may be out of the container's reach", "ctr", in.ID, "path", path, "err", err)
		}
	}
}
