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
	"github.com/moby/sys/capability"
	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/cdi"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/hooks"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/device"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/secrets"
	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
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
	nodeIDs idrange.Map       // uid_mappings and gid_mappings
	secrets []secrets.Entry   // of mounts.conf
	seccomp map[string][]byte // default profiles, by handler
}

func newSpecMaker(c *config.Config, hs handlers, self, criu string, log *slog.Logger) (*specMaker, error) {
	ctl := cgroup.Available()
	m := &specMaker{conf: &c.Runtime, runDir: c.Crio.RunDir, hooks: &hooks.Folders{Dirs: c.Runtime.HooksDir, Log: log}, ready: hs, reject: c.Runtime.AbsentMountSources, volumes: c.Image.ImageVolumes, self: self, cdi: cdi.Devices{Dirs: c.Runtime.CDISpecDirs}, log: log}
	m.node = spec.Node{
		CgroupV2: cgroup.Unified(), SwapAccounting: ctl.Swap, HugePages: ctl.HugePageSizes,
		SELinux: c.Runtime.SELinux && selinux.GetEnabled(), AppArmorDefault: c.Runtime.AppArmorProfile,
		Env: c.Runtime.DefaultEnv, PidsLimit: c.Runtime.PidsLimit, ReadOnly: c.Runtime.ReadOnly, CRIUConfig: criu,
		AllCapabilities: knownCapabilities(), SeccompListener: seccompSocket(c),
		InheritableCapabilities: c.Runtime.AddInheritableCaps, DeviceOwnership: c.Runtime.DeviceOwnership, HostNetworkUnlabelled: c.Runtime.HostNetworkSELinux,
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
	if m.node.AppArmor, err = appArmor(c.Runtime.AppArmorProfile, log); err != nil {
		return nil, err
	}
	if m.node.Rlimits, err = rlimits(c.Runtime.DefaultUlimits); err != nil {
		return nil, err
	}
	for _, d := range c.Runtime.AdditionalDevices {
		list, err := parseDevice("[crio.runtime] additional_devices", d)
		if err != nil {
			return nil, err
		}
		m.node.Devices = append(m.node.Devices, list...)
	}
	if m.node.Localtime, err = localtime(c.Runtime.Timezone); err != nil {
		return nil, err
	}
	if u, g := c.Runtime.UIDMappings, c.Runtime.GIDMappings; u != "" || g != "" {
		if m.nodeIDs, err = idrange.Whole(u, g); err != nil {
			return nil, errs.Invalid("[crio.runtime] uid_mappings = %q, gid_mappings = %q: %w", u, g, err)
		}
	}
	if m.secrets, err = defaultMounts(c.Runtime.DefaultMountsFile); err != nil {
		return nil, err
	}
	return m, m.profiles()
}

// appArmor loads the default profile where the kernel has AppArmor, and tells
// whether profiles can be used. A profile that the operator names must be there.
func appArmor(name string, log *slog.Logger) (bool, error) {
	if !lsm.AppArmorEnabled() {
		return false, nil
	}
	err := lsm.LoadAppArmorDefault(context.Background(), name)
	if err != nil && name != lsm.AppArmorDefault {
		return false, errs.Errorf(errs.KindOf(err), "[crio.runtime] apparmor_profile: %w", err)
	}
	if err != nil {
		log.Warn("containers run without AppArmor", "err", err)
	}
	return err == nil, nil
}

// hasMountSetattr tells whether mounts can be made read-only with all below them
// (mount_setattr(2), Linux 5.12).
func hasMountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
}

func knownCapabilities() (names []string) {
	list, err := capability.ListSupported()
	if err != nil {
		list = capability.ListKnown()
	}
	for _, c := range list {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// rlimits reads NAME=SOFT:HARD; one number is both, "unlimited" or -1 is none.
func rlimits(list []string) (out []specs.POSIXRlimit, err error) {
	for _, e := range list {
		name, text, ok := strings.Cut(e, "=")
		soft, hard, two := strings.Cut(text, ":")
		if !two {
			hard = soft
		}
		s, err1 := limit(soft)
		h, err2 := limit(hard)
		if !ok || err1 != nil || err2 != nil || s > h {
			return nil, errs.Invalid("[crio.runtime] default_ulimits: %q: write NAME=SOFT:HARD, for example nofile=1024:4096", e)
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: s, Hard: h})
	}
	return out, nil
}

func limit(s string) (uint64, error) {
	if s == "unlimited" || s == "-1" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// parseDevice reads HOST[:CONTAINER[:PERMISSIONS]].
func parseDevice(where, s string) ([]spec.Device, error) {
	part := strings.Split(s, ":")
	if len(part) > 3 || !filepath.IsAbs(part[0]) {
		return nil, errs.Invalid("%s: %q: write HOST:CONTAINER:PERMISSIONS", where, s)
	}
	d := &cri.Device{HostPath: part[0], ContainerPath: part[0], Permissions: "rwm"}
	if len(part) > 1 {
		d.ContainerPath = part[1]
	}
	if len(part) > 2 {
		d.Permissions = part[2]
	}
	return findDevice(d)
}

func findDevice(d *cri.Device) ([]spec.Device, error) {
	found, err := device.Find(d.GetHostPath())
	if err != nil {
		return nil, err
	}
	var list []spec.Device
	for _, f := range found {
		to := d.GetContainerPath()
		if to == "" {
			to = d.GetHostPath()
		}
		to = filepath.Join(to, strings.TrimPrefix(f.Path, d.GetHostPath()))
		list = append(list, toSpec(f, to, d.GetPermissions()))
	}
	return list, nil
}

func toSpec(f device.Device, to, access string) spec.Device {
	if access == "" {
		access = "rwm"
	}
	return spec.Device{Path: to, Type: f.Type, Major: f.Major, Minor: f.Minor, Mode: f.Mode, UID: f.UID, GID: f.GID, Access: access}
}

// Check implements pod.Specs.
func (*specMaker) Check(r *cri.LinuxContainerResources) error { return spec.CheckResources(r) }

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
func (m *specMaker) Container(_ context.Context, r pod.SpecRequest) (*specs.Spec, *state.User, error) {
	in := m.input(&r)
	in.Config, in.Image = r.Config, r.Image.Config
	var err error
	if in.Passwd, err = readInRoot(r.Rootfs, "/etc/passwd"); err != nil {
		return nil, nil, err
	}
	if in.Group, err = readInRoot(r.Rootfs, "/etc/group"); err != nil {
		return nil, nil, err
	}
	if in.Mounts, err = m.mounts(&r); err != nil {
		return nil, nil, err
	}
	if in.Volumes, err = m.imageVolumes(&r); err != nil {
		return nil, nil, err
	}
	for _, d := range r.Config.GetDevices() {
		list, err := findDevice(d)
		if err != nil {
			return nil, nil, err
		}
		in.Devices = append(in.Devices, list...)
	}
	if err := m.container(&in, &r); err != nil {
		return nil, nil, err
	}
	if err := m.security(&in); err != nil {
		return nil, nil, err
	}
	res, err := spec.Build(in)
	if err != nil {
		return nil, nil, err
	}
	if err := m.injectCDI(res.Spec, r.Config); err != nil {
		return nil, nil, err
	}
	if err := checkAppArmor(res.Spec.Process.ApparmorProfile); err != nil {
		return nil, nil, err
	}
	for _, n := range append(res.Notes, oci.FitToHost(res.Spec)...) {
		m.log.Warn("a part of the request has no effect on this node", "ctr", r.ID, "why", n)
	}
	m.relabel(&in, res.Spec)
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

// checkAppArmor refuses a profile that the kernel does not have.
func checkAppArmor(name string) error {
	if name == "" || name == "unconfined" {
		return nil
	}
	there, err := lsm.AppArmorLoaded(name)
	if err == nil && !there {
		err = errs.Precondition("AppArmor profile %q is not loaded on this node", name)
	}
	return err
}

// security reads what a privileged container and a localhost profile need.
func (m *specMaker) security(in *spec.Input) error {
	sc := in.Config.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !in.Node.PrivilegedNoHostDevices {
		list, err := device.Host()
		if err != nil {
			return err
		}
		for _, d := range list {
			in.HostDevices = append(in.HostDevices, toSpec(d, d.Path, "rwm"))
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
	var err error
	if in.Localhost, err = os.ReadFile(ref); err != nil {
		return errs.Invalid("seccomp profile: %w", err)
	}
	return nil
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
		Privileged: c.GetLinux().GetSecurityContext().GetPrivileged(), SELinux: c.GetLinux().GetSecurityContext().GetSelinuxOptions(),
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

// maxAccounts bounds /etc/passwd and /etc/group: they are the image's.
const maxAccounts = 10 << 20

// readInRoot reads a file of a root file system without leaving it; absence is an
// empty file.
func readInRoot(root, name string) ([]byte, error) {
	p, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return nil, err
	}
	fi, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if fi.Size() > maxAccounts {
		return nil, errs.Invalid("the image's %s has %d bytes; %d are the most", name, fi.Size(), maxAccounts)
	}
	return os.ReadFile(p)
}

// mounts resolves the sources of the request's mounts. An absent source is made as
// a folder, as Kubernetes expects, unless the configuration forbids it.
func (m *specMaker) mounts(req *pod.SpecRequest) ([]spec.Mount, error) {
	var list []spec.Mount
	for n, r := range req.Config.GetMounts() {
		if r.GetImage().GetImage() != "" {
			one, err := imageMount(r, req.Volumes[n])
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

// imageMount finds what of a mounted image is wanted, without leaving the image.
func imageMount(r *cri.Mount, volume string) (spec.Mount, error) {
	fail := func(format string, args ...any) (spec.Mount, error) {
		return spec.Mount{}, errs.Invalid("%.0wmount at %q of image %s: "+format, append([]any{errs.ImageVolumeMountFailed, r.GetContainerPath(), r.GetImage().GetImage()}, args...)...)
	}
	switch sub := r.GetImageSubPath(); {
	case r.GetHostPath() != "":
		return fail("host_path %q and image exclude each other", r.GetHostPath())
	case !r.GetReadonly():
		return fail("images are mounted read-only; set readonly")
	case r.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE:
		return fail("images are mounted with private propagation")
	case filepath.IsAbs(sub) || sub != "" && !filepath.IsLocal(sub):
		return fail("image_sub_path %q leaves the image", sub)
	}
	src, err := securejoin.SecureJoin(volume, r.GetImageSubPath())
	if err == nil {
		_, err = os.Lstat(src)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fail("image_sub_path %q is not in the image", r.GetImageSubPath())
	}
	return spec.Mount{Mount: r, Source: src}, err
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

// relabel gives mounts that ask for it the container's SELinux label.
func (m *specMaker) relabel(in *spec.Input, s *specs.Spec) {
	if !m.node.SELinux || s.Linux.MountLabel == "" {
		return
	}
	skip := in.Acting().Is(annotation.SkipRelabel, in.Config.GetMetadata().GetName(), "true")
	for _, r := range in.Mounts {
		if !r.GetSelinuxRelabel() {
			continue
		}
		if has, err := selinux.FileLabel(r.Source); skip && err == nil && has == s.Linux.MountLabel {
			continue // so has what is in it, the pod says; to look at all of it may take minutes
		}
		if err := selinux.Chcon(r.Source, s.Linux.MountLabel, true); err != nil {
			m.log.Warn("cannot relabel a mount", "ctr", in.ID, "path", r.Source, "err", err)
		}
	}
}

var _ pod.Specs = (*specMaker)(nil)

// bootID tells one boot of the kernel from another.
var bootID = sync.OnceValues(func() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
})
