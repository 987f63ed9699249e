package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/cdi"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon/facts"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/hooks"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/device"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/perf"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/qos"
	"github.com/monocrio/monocrio/internal/secrets"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// specMaker gathers the facts that package spec builds from. It implements
// pod.Specs.
type specMaker struct {
	node    spec.Node
	ready   handlers
	reject  []string // absent_mount_sources_to_reject
	volumes string   // image_volumes
	self    string   // our executable, for the infra process
	cdi     cdi.Devices
	log     *slog.Logger
	conf    *config.Runtime
	runDir  string
	hooks   *hooks.Folders
	ids     *idrange.Pool
	labels  *selinux.Labeler // nil: SELinux is off
	tuner   *perf.Tuner
	classes *qos.Classes
	// artifacts is nil where none are kept.
	artifacts Artifacts
	nodeIDs   idrange.Map       // uid_mappings and gid_mappings
	secrets   []secrets.Entry   // of mounts.conf
	seccomp   map[string][]byte // default profiles, by handler
}

func newSpecMaker(c *config.Config, hs handlers, self, criu string, log *slog.Logger) (*specMaker, error) {
	ctl := cgroup.Available()
	m := &specMaker{conf: &c.Runtime, runDir: c.Crio.RunDir, hooks: &hooks.Folders{Dirs: c.Runtime.HooksDir, Log: log}, ready: hs, reject: c.Runtime.AbsentMountSources, volumes: c.Image.ImageVolumes, self: self, cdi: cdi.Devices{Dirs: c.Runtime.CDISpecDirs}, log: log}
	m.node = spec.Node{
		CgroupV2: cgroup.Unified(), SwapAccounting: ctl.Swap, HugePages: ctl.HugePageSizes,
		AppArmorDefault: c.Runtime.AppArmorProfile,
		Env:             c.Runtime.DefaultEnv, PidsLimit: c.Runtime.PidsLimit, ReadOnly: c.Runtime.ReadOnly, CRIUConfig: criu,
		AllCapabilities: facts.Capabilities(), SeccompListener: seccompSocket(c),
		InheritableCapabilities: c.Runtime.AddInheritableCaps, DeviceOwnership: c.Runtime.DeviceOwnership,
		MinGOMAXPROCS: int64(c.Runtime.MinGOMAXPROCS), InfraCPUs: c.Runtime.InfraCPUSet, SharedCPUs: c.Runtime.SharedCPUSet,
	}
	for _, n := range c.Runtime.DefaultCapabilities {
		n = "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		if !slices.Contains(m.node.AllCapabilities, n) {
			return nil, errs.Invalid("[crio.runtime] default_capabilities: this kernel has no capability %q", n)
		}
		m.node.Capabilities = append(m.node.Capabilities, n)
	}
	var err error
	if m.node.AppArmor, err = facts.AppArmor(c.Runtime.AppArmorProfile, log); err != nil {
		return nil, err
	}
	if m.node.Rlimits, err = facts.Rlimits(c.Runtime.DefaultUlimits); err != nil {
		return nil, err
	}
	for _, d := range c.Runtime.AdditionalDevices {
		list, err := facts.ParseDevice("[crio.runtime] additional_devices", d)
		if err != nil {
			return nil, err
		}
		m.node.Devices = append(m.node.Devices, list...)
	}
	if m.node.Localtime, err = facts.Localtime(c.Runtime.Timezone); err != nil {
		return nil, err
	}
	if u, g := c.Runtime.UIDMappings, c.Runtime.GIDMappings; u != "" || g != "" {
		if m.nodeIDs, err = idrange.Whole(u, g); err != nil {
			return nil, errs.Invalid("[crio.runtime] uid_mappings = %q, gid_mappings = %q: %w", u, g, err)
		}
	}
	if m.secrets, err = facts.DefaultMounts(c.Runtime.DefaultMountsFile); err != nil {
		return nil, err
	}
	return m, m.profiles()
}

// Check implements pod.Specs.
func (*specMaker) Check(r *cri.LinuxContainerResources) error {
	if err := spec.CheckResources(r); err != nil {
		return err
	}
	return facts.CheckCPUs(r.GetCpusetCpus())
}

// Limits implements pod.Specs.
func (m *specMaker) Limits(list ...*cri.LinuxContainerResources) *specs.LinuxResources {
	out, notes := spec.Limits(m.node, list...)
	for _, n := range notes {
		m.log.Warn(n)
	}
	return out
}

// Infra implements pod.Specs.
func (m *specMaker) Infra(_ context.Context, r pod.SpecRequest) (*specs.Spec, error) {
	s := spec.Infra(m.input(&r), m.self)
	oci.FitToHost(s)
	return s, nil
}

// Container implements pod.Specs.
func (m *specMaker) Container(ctx context.Context, r pod.SpecRequest) (*specs.Spec, *state.User, error) {
	in := m.input(&r)
	in.ImageAnnotations = r.Image.Annotations
	in.Config, in.Image, in.ProcessLabel, in.MountLabel = r.Config, r.Image.Config, r.SELinux.Process, r.SELinux.Mount
	var err error
	if in.Passwd, err = facts.ReadInRoot(r.Rootfs, "/etc/passwd"); err != nil {
		return nil, nil, err
	}
	if in.Group, err = facts.ReadInRoot(r.Rootfs, "/etc/group"); err != nil {
		return nil, nil, err
	}
	if in.Mounts, err = m.mounts(&r); err != nil {
		return nil, nil, err
	}
	if in.Volumes, err = m.imageVolumes(&r); err != nil {
		return nil, nil, err
	}
	for _, d := range r.Config.GetDevices() {
		list, err := facts.FindDevice(d)
		if err != nil {
			return nil, nil, err
		}
		in.Devices = append(in.Devices, list...)
	}
	if err := m.container(&in, &r); err != nil {
		return nil, nil, err
	}
	if err := m.security(ctx, &in); err != nil {
		return nil, nil, err
	}
	res, err := spec.Build(in)
	if err != nil {
		return nil, nil, err
	}
	if err := m.injectCDI(res.Spec, r.Config); err != nil {
		return nil, nil, err
	}
	if err := facts.CheckAppArmor(res.Spec.Process.ApparmorProfile); err != nil {
		return nil, nil, err
	}
	notes, err := m.classes.Assign(in.Acting(), r.Config.GetMetadata().GetName(), res.Spec)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range slices.Concat(res.Notes, notes, oci.FitToHost(res.Spec)) {
		m.log.Warn("a part of the request has no effect on this node", "ctr", r.ID, "why", n)
	}
	if err := m.tuner.Prepare(r.ID, in.Acting(), r.Config.GetMetadata().GetName(), m.conf.SharedCPUSet, res.Spec); err != nil {
		return nil, nil, err
	}
	m.relabel(&in, ctrDir(&r))
	m.hooks.Inject(res.Spec, hooks.Facts{Annotations: res.Spec.Annotations, Command: res.Spec.Process.Args[0], BindMounts: len(r.Config.GetMounts()) > 0})
	u := res.User
	return res.Spec, &state.User{UID: u.GetUid(), GID: u.GetGid(), Groups: u.GetSupplementalGroups()}, nil
}

// injectCDI adds the devices that the request names by CDI.
func (m *specMaker) injectCDI(s *specs.Spec, c *cri.ContainerConfig) error {
	var field []string
	for _, d := range c.GetCDIDevices() {
		field = append(field, d.GetName())
	}
	names, err := cdi.Names(field, c.GetAnnotations())
	if err != nil {
		return err
	}
	return m.cdi.Inject(s, names)
}

// security reads what a privileged container and a profile need.
func (m *specMaker) security(ctx context.Context, in *spec.Input) (err error) {
	sc := in.Config.GetLinux().GetSecurityContext()
	if ref := in.SeccompArtifact(); ref != "" {
		in.Artifact, err = m.artifact(ctx, ref)
		return err
	}
	if sc.GetPrivileged() && !in.Node.PrivilegedNoHostDevices {
		list, err := device.Host()
		if err != nil {
			return err
		}
		for _, d := range list {
			in.HostDevices = append(in.HostDevices, facts.Device(d, d.Path, "rwm"))
		}
	}
	ref := ""
	if p := sc.GetSeccomp(); p.GetProfileType() == cri.SecurityProfile_Localhost {
		ref = p.GetLocalhostRef()
	} else if p == nil {
		ref, _ = strings.CutPrefix(sc.GetSeccompProfilePath(), "localhost/") //nolint:staticcheck // old clients still send it
		if ref == sc.GetSeccompProfilePath() {                               //nolint:staticcheck // as above
			ref = ""
		}
	}
	if ref == "" || sc.GetPrivileged() {
		return nil
	}
	if !filepath.IsAbs(ref) {
		return errs.Invalid("seccomp profile %q: an absolute path is needed", ref)
	}
	if in.Localhost, err = os.ReadFile(ref); err != nil {
		return errs.Invalid("seccomp profile: %w", err)
	}
	return nil
}

// Artifacts holds OCI artifacts.
type Artifacts interface {
	// Profile is the seccomp profile in an artifact; one that is not here is pulled.
	Profile(ctx context.Context, ref string) ([]byte, error)
}

// artifact reads the seccomp profile in an artifact.
func (m *specMaker) artifact(ctx context.Context, ref string) ([]byte, error) {
	if m.artifacts == nil {
		return nil, errs.Unimplemented("annotation %s = %q: this node keeps no OCI artifacts", annotation.SeccompProfile, ref)
	}
	data, err := m.artifacts.Profile(ctx, ref)
	if err != nil {
		return nil, errs.Errorf(errs.KindOf(err), "annotation %s = %q: %w", annotation.SeccompProfile, ref, err)
	}
	return data, nil
}

// input is what pods' infra processes and containers have in common.
func (m *specMaker) input(r *pod.SpecRequest) spec.Input {
	name := handlerName(r.Handler)
	h := m.conf.Runtimes[name]
	node := m.node
	node.PrivilegedNoHostDevices, node.Seccomp, node.ExecFirstCPU = h.PrivilegedNoHost, m.seccomp[name], h.ExecCPUAffinity == "first"
	if slices.ContainsFunc(r.Config.GetMounts(), (*cri.Mount).GetRecursiveReadOnly) {
		node.RecursiveReadOnly = m.ready.features[name]().RecursiveReadOnlyMounts
	}
	return spec.Input{ID: r.ID, Rootfs: r.Rootfs, CgroupsPath: r.CgroupsPath, PIDNamespace: r.PIDNamespace, Node: node, Pod: podFacts(r),
		Allowed: m.allowed(r.Handler, &r.Pod.Request), DefaultAnnotations: h.DefaultAnnotations, LogPath: r.LogPath, StopSignal: r.StopSignal}
}

func podFacts(r *pod.SpecRequest) spec.Pod {
	req, c := &r.Pod.Request, r.Pod.Request.Config
	md := c.GetMetadata()
	p := spec.Pod{
		ID: r.Pod.ID, Name: md.GetName(), Namespace: md.GetNamespace(), UID: md.GetUid(),
		Privileged: c.GetLinux().GetSecurityContext().GetPrivileged(),
		ResolvConf: filepath.Join(r.Files, files.Resolv), Hosts: filepath.Join(r.Files, files.Hosts),
		HostnameFile: filepath.Join(r.Files, files.Hostname), Annotations: c.GetAnnotations(),
		CgroupParent: c.GetLinux().GetCgroupParent(), Handler: req.Handler, CNIResult: string(r.Pod.Status.Result), IPs: r.Pod.Status.IPs, Ports: c.GetPortMappings(),
		Overhead: c.GetLinux().GetOverhead(), Resources: c.GetLinux().GetResources(),
	}
	// The container's own option counts: a container may use the node's PID
	// namespace beside others that do not.
	o := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o == nil {
		o = c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	}
	p.HostPID = o.GetPid() == cri.NamespaceMode_NODE
	if data, err := os.ReadFile(p.HostnameFile); err == nil {
		p.Hostname = strings.TrimSpace(string(data))
	}
	ns := func(kind string) string { return filepath.Join(r.Files, kind) }
	if !req.HostNetwork() {
		p.Net, p.UTS = ns("net"), ns("uts")
	}
	p.Shm = "/dev/shm"
	if !req.HostIPC() {
		p.IPC, p.Shm = ns("ipc"), ns(files.Shm)
	}
	if req.UserNS() != nil {
		p.User = ns("user")
	}
	return p
}

// mounts resolves the sources of the request's mounts. An absent source is made as
// a folder, as Kubernetes expects, unless the configuration forbids it.
func (m *specMaker) mounts(req *pod.SpecRequest) ([]spec.Mount, error) {
	var list []spec.Mount
	for n, r := range req.Config.GetMounts() {
		if r.GetImage().GetImage() != "" {
			one, err := facts.ImageMount(r, req.Volumes[n])
			if err != nil {
				return nil, err
			}
			list = append(list, one)
			continue
		}
		src := r.GetHostPath()
		if !filepath.IsAbs(src) || strings.ContainsRune(src, 0) {
			return nil, errs.Invalid("mount at %q: host_path %q is not an absolute path", r.GetContainerPath(), src)
		}
		real, err := m.hostPath(src)
		if errors.Is(err, fs.ErrNotExist) {
			if slices.Contains(m.reject, filepath.Clean(src)) {
				return nil, errs.Invalid("mount at %q: host path %s does not exist (absent_mount_sources_to_reject)", r.GetContainerPath(), src)
			}
			if err = os.MkdirAll(real, 0o755); err == nil {
				real, err = m.hostPath(src)
			}
		}
		if err != nil {
			return nil, errs.Invalid("mount at %q: host path %s can be neither found nor made: %w", r.GetContainerPath(), src, err)
		}
		list = append(list, spec.Mount{Mount: r, Source: real})
	}
	return list, nil
}

// hostPath follows the symbolic links of a path of the host, where we see the host. A
// path that is not there is returned too, to be made.
func (m *specMaker) hostPath(src string) (string, error) {
	if m.conf.BindMountPrefix == "" {
		real, err := filepath.EvalSymlinks(src)
		if err != nil {
			real = src
		}
		return real, err
	}
	real, err := securejoin.SecureJoin(m.conf.BindMountPrefix, src)
	if err == nil {
		_, err = os.Lstat(real)
	}
	return real, err
}

// imageVolumes makes the folders of the image's VOLUMEs, as image_volumes says.
func (m *specMaker) imageVolumes(r *pod.SpecRequest) (list []spec.Volume, err error) {
	if m.volumes == "ignore" {
		return nil, nil
	}
	n := 0
	for v := range r.Image.Config.Volumes {
		dst := path.Clean("/" + v)
		if dst == "/" || slices.ContainsFunc(r.Config.GetMounts(), func(m *cri.Mount) bool { return path.Clean(m.GetContainerPath()) == dst }) {
			continue
		}
		dir, err := securejoin.SecureJoin(r.Rootfs, dst)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return nil, errs.Invalid("the image's volume %s cannot be made: %w", v, err)
		}
		if m.volumes == "bind" {
			src := filepath.Join(ctrDir(r), "volumes", strconv.Itoa(n))
			if err := os.MkdirAll(src, 0o755); err != nil {
				return nil, err
			}
			list = append(list, spec.Volume{Path: dst, Source: src})
			n++
		}
	}
	return list, nil
}

var _ pod.Specs = (*specMaker)(nil)

// bootID tells one boot of the kernel from another.
var bootID = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
})
