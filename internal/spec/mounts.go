package spec

import (
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// mounts puts the kernel's file systems first, then the pod's files, the image's
// volumes and the request's mounts, so that each can cover what came before. The
// request's are sorted by depth, or a parent would hide its child.
func (b *builder) mounts() error {
	m := b.kernelMounts()
	asked := map[string]bool{}
	for _, r := range b.in.Mounts {
		asked[path.Clean("/"+r.GetContainerPath())] = true
	}
	p := b.in.Pod
	for _, f := range []struct{ dst, src string }{
		{"/etc/resolv.conf", p.ResolvConf}, {"/etc/hosts", p.Hosts}, {"/etc/hostname", p.HostnameFile}, {"/dev/shm", p.Shm},
	} {
		if f.src == "" || asked[f.dst] {
			continue
		}
		opts := []string{"rbind", "rprivate", "nosuid", "nodev", "noexec", "rw"}
		if f.dst != "/dev/shm" && (b.sc.GetReadonlyRootfs() || b.in.Node.ReadOnly) {
			opts[len(opts)-1] = "ro"
		}
		m = append(m, specs.Mount{Destination: f.dst, Type: "bind", Source: f.src, Options: opts})
	}
	m = append(m, b.extraMounts(asked)...)
	for _, v := range b.in.Volumes {
		m = append(m, specs.Mount{Destination: v.Path, Type: "bind", Source: v.Source, Options: []string{"rbind", "rprivate", "rw"}})
	}
	if b.in.Node.ReadOnly {
		for _, d := range []string{"/run", "/tmp", "/var/tmp"} {
			if !asked[d] {
				m = append(m, specs.Mount{Destination: d, Type: "tmpfs", Source: "tmpfs", Options: []string{"rw", "rprivate", "nosuid", "nodev", "tmpcopyup"}})
			}
		}
	}
	var mine []specs.Mount
	for _, r := range b.in.Mounts {
		one, err := b.mount(r)
		if err != nil {
			return err
		}
		mine = append(mine, one)
	}
	sort.SliceStable(mine, func(i, j int) bool { return depth(mine[i].Destination) < depth(mine[j].Destination) })
	b.spec.Mounts = slices.DeleteFunc(m, func(k specs.Mount) bool { return asked[k.Destination] })
	b.spec.Mounts = append(b.spec.Mounts, mine...)
	return nil
}

func depth(p string) int { return strings.Count(path.Clean(p), "/") }

func (b *builder) kernelMounts() []specs.Mount {
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	cgroup := []string{"nosuid", "noexec", "nodev", "relatime", "ro"}
	if b.sc.GetPrivileged() {
		sys[3], cgroup[4] = "rw", "rw"
	}
	if b.in.Node.CgroupV2 && b.acts.Is(annotation.CgroupWritable, b.name, "true") {
		cgroup[4] = "rw"
	}
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
	}
	if b.in.Pod.User != "" {
		// A user namespace may mount sysfs only if it owns the network namespace,
		// and devpts only with a group that it maps.
		if b.in.Pod.Net == "" {
			m[4] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: append([]string{"rbind"}, sys...)}
		}
	}
	return m
}

func (b *builder) mount(r Mount) (specs.Mount, error) {
	dst := r.GetContainerPath()
	fail := func(format string, args ...any) (specs.Mount, error) {
		return specs.Mount{}, errs.Invalid("mount at %q: "+format, append([]any{dst}, args...)...)
	}
	if dst == "" || strings.ContainsRune(dst, 0) {
		return fail("container_path is empty or has a null byte")
	}
	dst = path.Clean("/" + dst)
	if dst == "/" {
		return fail("nothing can be mounted over the root file system")
	}
	opts := []string{"rbind"}
	switch r.GetPropagation() {
	case cri.MountPropagation_PROPAGATION_PRIVATE:
		opts = append(opts, "rprivate")
	case cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		opts = append(opts, "rslave")
		b.rootPropagation("rslave")
	case cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		if !b.sc.GetPrivileged() {
			return fail("bidirectional propagation needs a privileged container")
		}
		opts = append(opts, "rshared")
		b.rootPropagation("rshared")
	default:
		return fail("propagation %d is unknown", r.GetPropagation())
	}
	switch {
	case r.GetRecursiveReadOnly() && !r.GetReadonly():
		return fail("recursive_read_only needs readonly")
	case r.GetRecursiveReadOnly() && r.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE:
		return fail("recursive_read_only needs private propagation")
	case r.GetRecursiveReadOnly() && !b.in.Node.RecursiveReadOnly:
		return specs.Mount{}, errs.Unimplemented("%.0wmount at %q: recursive read-only mounts need Linux 5.12 and a runtime that knows them", errs.RROUnsupported, dst)
	case r.GetRecursiveReadOnly():
		opts = append(opts, "rro")
	case r.GetReadonly():
		opts = append(opts, "ro")
	default:
		opts = append(opts, "rw")
	}
	if r.GetImage() != nil { // nobody looked at what is in it before it came here
		opts = append(opts, "nosuid", "nodev")
	}
	for _, o := range r.GetMountOptions() {
		if o != "noexec" && o != "nodev" && o != "nosuid" {
			return fail("mount option %q: noexec, nodev and nosuid are allowed", o)
		}
		opts = append(opts, o)
	}
	m := specs.Mount{Destination: dst, Type: "bind", Source: r.Source, Options: opts}
	m.UIDMappings, m.GIDMappings = IDMap(r.GetUidMappings()), IDMap(r.GetGidMappings())
	return m, nil
}

// IDMap turns the CRI's id mappings into the specification's.
func IDMap(list []*cri.IDMapping) (m []specs.LinuxIDMapping) {
	for _, e := range list {
		m = append(m, specs.LinuxIDMapping{ContainerID: e.GetContainerId(), HostID: e.GetHostId(), Size: e.GetLength()})
	}
	return m
}

// rootPropagation lets mount events reach the container's mounts; shared wins over
// slave.
func (b *builder) rootPropagation(p string) {
	if b.spec.Linux.RootfsPropagation != "rshared" {
		b.spec.Linux.RootfsPropagation = p
	}
}
