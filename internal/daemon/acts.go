package daemon

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon/facts"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/linux/signal"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/secrets"
	"github.com/monocrio/monocrio/internal/spec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod implements pod.Specs.
func (m *specMaker) Pod(_ string, r *state.PodRequest, others func() []state.PodView) (done func(), err error) {
	acted, err := m.podActs(r, others)
	if err != nil {
		return nil, err
	}
	labelled, err := m.labelPod(r, others)
	if err != nil {
		acted()
		return nil, err
	}
	return func() { acted(); labelled() }, nil
}

// podActs does what annotations say of a pod.
func (m *specMaker) podActs(r *state.PodRequest, others func() []state.PodView) (done func(), err error) {
	allowed := m.allowed(r.Handler, r)
	acts := allowed.ActingOver(m.conf.Runtimes[r.Handler].DefaultAnnotations, r.Config.GetAnnotations())
	own := allowed.Acting(r.Config.GetAnnotations()) // what cannot be is an error here; of a handler it is let be
	h, _ := m.conf.Effective(r.Handler)
	// The machine of a pod is made with its infra process, and lives as long.
	r.Acts.Infra = !m.conf.DropInfraCtr || h.Type == config.TypeVM
	if _, asked := own.Get(annotation.ShmSize, ""); asked && r.HostIPC() {
		return nil, errs.Invalid("annotation %s: the pod uses the node's IPC namespace and /dev/shm", annotation.ShmSize)
	}
	if v, ok := acts.Get(annotation.ShmSize, ""); ok && !r.HostIPC() {
		if r.Acts.ShmSize, err = config.ParseBytes(v); err != nil || r.Acts.ShmSize <= 0 {
			return nil, errs.Invalid("annotation %s = %q: a size above 0 is needed, for example 128Mi", annotation.ShmSize, v)
		}
	}
	if v, ok := acts.Get(annotation.LinkLogs, ""); ok {
		if r.Acts.LogsIn, err = facts.LogsIn(r, v); err != nil {
			return nil, err
		}
	}
	if _, asked := own.Get(annotation.UserNS, ""); asked && r.UserNS() != nil {
		return nil, errs.Invalid("annotation %s: the pod has a user namespace already (userns_options)", annotation.UserNS)
	}
	if v, ok := acts.Get(annotation.UserNS, ""); ok && r.UserNS() == nil {
		return m.userNS(r, v, others)
	}
	if m.mapped(r) {
		r.Acts.UIDs, r.Acts.GIDs = facts.FromRanges(m.nodeIDs.UIDs), facts.FromRanges(m.nodeIDs.GIDs)
	}
	return func() {}, nil
}

// mapped tells whether a pod has the node's mapping: one that says nothing of user
// namespaces, and needs none of what they take away.
func (m *specMaker) mapped(r *state.PodRequest) bool {
	sc := r.Config.GetLinux().GetSecurityContext()
	o := sc.GetNamespaceOptions()
	return len(m.nodeIDs.UIDs) > 0 && o.GetUsernsOptions() == nil && !sc.GetPrivileged() &&
		!r.HostNetwork() && !r.HostIPC() && o.GetPid() != cri.NamespaceMode_NODE
}

// userNS finds the ids of a user namespace that an annotation asks for.
func (m *specMaker) userNS(r *state.PodRequest, text string, others func() []state.PodView) (done func(), err error) {
	want, err := idrange.Parse(text)
	if err != nil {
		return nil, errs.Invalid("annotation %s: %w", annotation.UserNS, err)
	}
	used := func() (list []idrange.Map) {
		for _, p := range others() {
			if u := p.Request.UserNS(); u != nil {
				list = append(list, idrange.Map{UIDs: facts.ToRanges(u.GetUids()), GIDs: facts.ToRanges(u.GetGids())})
			}
		}
		return list
	}
	sc := r.Config.GetLinux().GetSecurityContext()
	uid, gid := int64(-1), int64(-1)
	if u := sc.GetRunAsUser(); u != nil {
		uid, gid = u.GetValue(), u.GetValue()
	}
	if g := sc.GetRunAsGroup(); g != nil {
		gid = g.GetValue()
	}
	ids, done, err := m.ids.Take(want, uid, gid, used)
	if err != nil {
		return nil, errs.Errorf(errs.KindOf(err), "annotation %s = %q: %w", annotation.UserNS, text, err)
	}
	r.Acts.UIDs, r.Acts.GIDs = facts.FromRanges(ids.UIDs), facts.FromRanges(ids.GIDs)
	return done, nil
}

// Admit implements pod.Specs.
func (m *specMaker) Admit(p *state.PodRequest, c *state.ContainerRequest) error {
	if err := m.labelContainer(p, c); err != nil {
		return err
	}
	h := m.conf.Runtimes[p.Handler]
	acts := m.allowed(p.Handler, p).ActingOver(h.DefaultAnnotations, p.Config.GetAnnotations(), c.Config.GetAnnotations())
	if v, ok := acts.Get(annotation.StopSignal, ""); ok {
		if signal.Parse(v) == 0 {
			return errs.Invalid("annotation %s = %q: Linux has no such signal", annotation.StopSignal, v)
		}
		c.StopWith = v
	}
	paths := h.PlatformRuntimePaths
	platform, asked := acts.Get(annotation.PlatformPath, "")
	if !asked {
		platform = c.Image.Platform
	}
	switch _, there := paths[platform]; {
	case there:
		c.Handler = platformHandler(p.Handler, platform)
	case asked:
		return errs.Invalid("annotation %s = %q: the handler %s has runtimes for %s", annotation.PlatformPath, platform, p.Handler,
			strings.Join(slices.Sorted(maps.Keys(paths)), ", "))
	}
	return nil
}

// allowed are the annotations that may act on a pod.
func (m *specMaker) allowed(handler string, r *state.PodRequest) annotation.Allowed {
	return m.conf.Allowed(handlerName(handler), r.Config.GetAnnotations())
}

// container adds to the input what the node's options, workloads and annotations say of
// one container.
func (m *specMaker) container(in *spec.Input, r *pod.SpecRequest) (err error) {
	name, annotations := r.Config.GetMetadata().GetName(), in.Pod.Annotations
	for _, w := range m.conf.Activated(annotations) {
		workload := m.conf.Workloads[w]
		cpu, err := workload.For(name, annotations)
		if err != nil {
			return err
		}
		in.CPU = append(in.CPU, spec.CPU{Shares: int64(cpu.CPUShares), Quota: cpu.CPUQuota, Period: int64(cpu.CPUPeriod), Cpuset: cpu.CPUSet, Limit: cpu.CPULimit})
	}
	if err := facts.CheckCPUs(r.Config.GetLinux().GetResources().GetCpusetCpus()); err != nil {
		return err
	}
	if err := m.askedDevices(in, name); err != nil {
		return err
	}
	if in.FIPSFile, err = m.fipsFile(in, name); err != nil {
		return err
	}
	uid, gid := r.Pod.Request.RootIDs()
	copied, err := secrets.Copy(m.secrets, filepath.Join(ctrDir(r), "secrets"), uid, gid)
	for _, c := range copied {
		in.Node.Secrets = append(in.Node.Secrets, spec.Volume{Path: c.Dest, Source: c.Path})
	}
	in.Created, in.ImageName, in.ImageRef = time.Now().Format(time.RFC3339Nano), r.Image.Name, r.Image.Ref
	return err
}

// ctrDir is the folder of a container's bundle.
func ctrDir(r *pod.SpecRequest) string {
	return filepath.Join(filepath.Dir(filepath.Dir(r.Files)), "containers", r.ID)
}

// askedDevices adds those of the annotation, as far as the node allows them.
func (m *specMaker) askedDevices(in *spec.Input, name string) error {
	v, ok := in.Acting().Get(annotation.Devices, name)
	if !ok {
		return nil
	}
	for d := range strings.SplitSeq(v, ",") {
		if d = strings.TrimSpace(d); d == "" {
			continue
		}
		host, _, _ := strings.Cut(d, ":")
		if !slices.Contains(m.conf.AllowedDevices, host) {
			return errs.Invalid("annotation %s: device %s is not among allowed_devices of [crio.runtime]: %s", annotation.Devices, host, strings.Join(m.conf.AllowedDevices, ", "))
		}
		list, err := facts.ParseDevice("annotation "+annotation.Devices, d)
		if err != nil {
			return err
		}
		in.Devices = append(in.Devices, list...)
	}
	return nil
}

// fipsSign is where the kernel tells that it is in FIPS mode.
const fipsSign = "/proc/sys/crypto/fips_enabled"

// fipsFile is what a container sees there if it must not know of FIPS mode.
func (m *specMaker) fipsFile(in *spec.Input, name string) (string, error) {
	if !in.Acting().Is(annotation.DisableFIPS, name, "true") {
		return "", nil
	}
	if _, err := os.Stat(fipsSign); errors.Is(err, fs.ErrNotExist) {
		return "", nil // this kernel has no such mode
	}
	path := filepath.Join(m.runDir, "fips_enabled")
	return path, fsx.WriteFile(path, []byte("0\n"), 0o644, fsx.Process)
}

// profiles reads the seccomp profile files of the node and of handlers; a handler
// without one of its own has the node's.
func (m *specMaker) profiles() (err error) {
	if m.node.Seccomp, err = facts.ReadProfile("seccomp_profile", m.conf.SeccompProfile, m.log); err != nil {
		return err
	}
	if m.node.PrivilegedSeccomp, err = facts.ReadProfile("privileged_seccomp_profile", m.conf.PrivilegedSeccomp, m.log); err != nil {
		return err
	}
	m.seccomp = map[string][]byte{}
	for name, h := range m.conf.Runtimes {
		data, err := facts.ReadProfile("seccomp_profile of handler "+name, h.SeccompProfile, m.log)
		if err != nil {
			return err
		}
		if m.seccomp[name] = data; data == nil {
			m.seccomp[name] = m.node.Seccomp
		}
	}
	return nil
}

// idPool is where annotations' user namespaces get their ids.
func idPool(c *config.Runtime) *idrange.Pool {
	return &idrange.Pool{SubUID: "/etc/subuid", SubGID: "/etc/subgid", User: "containers", MinUID: c.MinimumUID, MinGID: c.MinimumGID}
}
