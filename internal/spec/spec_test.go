package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\nbob:x:1001:1002::/home/bob:/bin/sh\n"
	groups = "root:x:0:\nweb:x:33:\nbobs:x:1002:\nextra:x:2000:web,bob\n"
)

// input is a plain container of a plain pod on a plain node.
func input() Input {
	return Input{
		ID:     strings.Repeat("c", 64),
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: "example.org/app:1"}, Linux: &cri.LinuxContainerConfig{}},
		Image:  v1.ImageConfig{Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin", "LANG=C"}, WorkingDir: "/srv"},
		Rootfs: "/rootfs", Passwd: []byte(passwd), Group: []byte(groups), CgroupsPath: "/pods/p/crio-c",
		Pod: Pod{ID: strings.Repeat("a", 64), Name: "web", Namespace: "default", UID: "1", Hostname: "web-0",
			Net: "/run/p/net", IPC: "/run/p/ipc", UTS: "/run/p/uts",
			ResolvConf: "/run/p/resolv.conf", Hosts: "/run/p/hosts", HostnameFile: "/run/p/hostname", Shm: "/run/p/shm"},
		Node: Node{CgroupV2: true, SwapAccounting: true, HugePages: []string{"2MB", "1GB"}, RecursiveReadOnly: true,
			Capabilities:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"},
			AllCapabilities: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_ADMIN"}},
	}
}

func security(in *Input) *cri.LinuxContainerSecurityContext {
	if in.Config.Linux.SecurityContext == nil {
		in.Config.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{}
	}
	return in.Config.Linux.SecurityContext
}

func mount(m *cri.Mount) Mount { return Mount{Mount: m, Source: m.GetHostPath()} }

// The golden files show whole specifications; a change of one is a change of what
// containers get.
//
// Options: crio.runtime.min_injected_gomaxprocs, crio.runtime.shared_cpuset
func TestGolden(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"plain":      func(*Input) {},
		"v1":         func(in *Input) { in.Node.CgroupV2, in.Node.SwapAccounting = false, false },
		"privileged": privileged,
		"host-namespaces": func(in *Input) {
			in.Pod.Net, in.Pod.IPC, in.Pod.UTS, in.Pod.HostPID, in.Pod.Shm = "", "", "", true, "/dev/shm"
		},
		"user-namespace":   func(in *Input) { in.Pod.User, in.Pod.Net = "/run/p/user", "" },
		"shared-pid":       func(in *Input) { in.PIDNamespace = "/proc/9/ns/pid" },
		"process":          process,
		"mounts":           manyMounts,
		"resources":        resources,
		"security":         confined,
		"selinux-apparmor": labels,
		"devices":          devices,
		"read-only-node":   func(in *Input) { in.Node.ReadOnly = true },
		"acting":           acting,
		"not-acting":       func(in *Input) { acting(in); in.Allowed = nil },
		"node-options":     nodeOptions,
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			change(&in)
			res, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			if s := res.Spec.Linux.Seccomp; s != nil { // hundreds of lines: the names are another test's
				s.Syscalls = nil
			}
			got, err := json.MarshalIndent(map[string]any{"spec": res.Spec, "notes": res.Notes, "user": res.User}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			compare(t, filepath.Join("testdata", name+".json"), append(got, '\n'))
		})
	}
}

func compare(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update writes it anew); got\n%s", path, got)
	}
}

func privileged(in *Input) {
	in.Pod.Privileged = true
	sc := security(in)
	sc.Privileged, sc.MaskedPaths, sc.ReadonlyPaths = true, []string{"/proc/kcore"}, []string{"/proc/sys"}
	sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	in.HostDevices = []Device{{Path: "/dev/sda", Type: "b", Major: 8, Mode: 0o660, GID: 6, Access: "rwm"}}
}

func process(in *Input) {
	c := in.Config
	c.Command, c.Args, c.WorkingDir = []string{"sh"}, []string{"-c", "true"}, "/tmp/../work"
	c.Tty, c.Stdin = true, true
	c.Envs = []*cri.KeyValue{{Key: "LANG", Value: []byte("de_DE")}, {Key: "BYTES", Value: []byte("a\xffb")}, {Key: "EMPTY"}}
	sc := security(in)
	sc.RunAsUsername, sc.RunAsGroup, sc.SupplementalGroups = "bob", &cri.Int64Value{Value: 500}, []int64{7, 2000}
	sc.NoNewPrivs = true
	in.Node.Env = []string{"NODE=1"}
	in.Node.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}
	in.Config.Annotations = map[string]string{"mine": "x"}
	in.StopSignal = "SIGQUIT"
}

func manyMounts(in *Input) {
	in.Pod.Privileged, security(in).Privileged = true, true
	in.Node.PrivilegedNoHostDevices = true
	in.Mounts = []Mount{
		mount(&cri.Mount{ContainerPath: "/a/b", HostPath: "/h/child"}),
		mount(&cri.Mount{ContainerPath: "/a", HostPath: "/h/parent", Readonly: true}),
		mount(&cri.Mount{ContainerPath: "/slave", HostPath: "/h/s", Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}),
		mount(&cri.Mount{ContainerPath: "/shared", HostPath: "/h/t", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}),
		mount(&cri.Mount{ContainerPath: "/rro", HostPath: "/h/r", Readonly: true, RecursiveReadOnly: true}),
		mount(&cri.Mount{ContainerPath: "/etc/hosts", HostPath: "/kubelet/hosts"}),
		mount(&cri.Mount{ContainerPath: "/opts", HostPath: "/h/o", MountOptions: []string{"noexec", "nosuid"}}),
		mount(&cri.Mount{ContainerPath: "/idmap", HostPath: "/h/i", UidMappings: []*cri.IDMapping{{HostId: 1000, Length: 10}}, GidMappings: []*cri.IDMapping{{HostId: 1000, Length: 10}}}),
	}
	in.Volumes = []Volume{{Path: "/data", Source: "/run/c/volumes/0"}}
}

func resources(in *Input) {
	in.Config.Linux.Resources = &cri.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20, OomScoreAdj: 979,
		CpusetCpus: "0-1", CpusetMems: "0", Unified: map[string]string{"memory.high": "60000000"},
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "16MB", Limit: 1}},
	}
	in.Node.PidsLimit = 100
}

func confined(in *Input) {
	sc := security(in)
	sc.Capabilities = &cri.Capability{AddCapabilities: []string{"net_admin", "CAP_NET_RAW"}, DropCapabilities: []string{"KILL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
	sc.RunAsUser, sc.SupplementalGroupsPolicy = &cri.Int64Value{Value: 33}, cri.SupplementalGroupsPolicy_Strict
	sc.ReadonlyRootfs = true
	sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/p.json"}
	in.Localhost = []byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}`)
}

func labels(in *Input) {
	in.Node.AppArmor, in.Node.AppArmorDefault = true, "crio-default"
	in.ProcessLabel, in.MountLabel = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
	security(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
}

func devices(in *Input) {
	in.Node.Devices = []Device{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o666, Access: "rwm"}}
	in.Devices = []Device{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, Mode: 0o600, UID: 5, Access: "r"}, {Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Access: "rw"}}
}

// acting has every annotation of this package's, allowed.
func acting(in *Input) {
	in.Allowed = annotation.Allowed{annotation.Umask, annotation.UnifiedCgroup, annotation.CgroupWritable, annotation.CPUShared,
		annotation.DisableFIPS, annotation.SkipGOMAXPROCS, "run.oci.", "org.systemd.property."}
	in.Pod.Annotations = map[string]string{
		annotation.Umask: "077", annotation.CgroupWritable: "true", annotation.DisableFIPS: "true", annotation.SkipGOMAXPROCS + "/main": "true",
		"io.kubernetes.cri-o.UnifiedCgroup.main": "memory.high=1000;io.max=ODowIHJicHM9MTAwCg==", annotation.UnifiedCgroup + "/other": "no pair",
		annotation.CPUShared + "/main": "enable", "run.oci.keep_original_groups": "1", "org.systemd.property.CPUWeight": "9", "note": "of the pod",
		"io.kubernetes.cri-o.SandboxID": "forged", "spoofed.crio.io": "forged", annotation.ShmSize: "forged",
	}
	in.Config.Annotations = map[string]string{"note": "of the container"}
	in.DefaultAnnotations = map[string]string{"run.oci.handler": "x", "note": "of the handler"}
	in.Config.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "2-3"}
	in.Node.SharedCPUs, in.Node.MinGOMAXPROCS, in.Node.ExecFirstCPU = "0-1", 4, true
	in.Pod.CgroupParent = "/kubepods/burstable/pod1"
	in.FIPSFile = "/run/crio/fips"
}

func nodeOptions(in *Input) {
	in.Node.InheritableCapabilities, in.Node.DeviceOwnership, in.Node.MinGOMAXPROCS = true, true, 2
	in.Node.Localtime = "/usr/share/zoneinfo/Asia/Tokyo"
	in.Node.Secrets = []Volume{{Path: "/run/secrets", Source: "/run/c/secrets/0"}}
	in.Pod.Net, in.Pod.UTS = "", ""
	in.Devices = []Device{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3, Mode: 0o600, Access: "r"}}
	sc := security(in)
	sc.RunAsUser, sc.RunAsGroup = &cri.Int64Value{Value: 33}, &cri.Int64Value{Value: 44}
	in.Pod.CgroupParent = "kubepods-burstable-pod1.slice"
	in.Config.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 2500, CpuQuota: 1, OomScoreAdj: 5}
	in.CPU = []CPU{{Shares: 3000, Cpuset: "0"}, {Limit: 250}}
	in.Pod.IPs, in.Pod.Handler, in.Created, in.ImageRef, in.LogPath = []string{"10.0.0.1", "fd00::1"}, "runc", "2026-01-02T03:04:05Z", "sha256:1", "/log/0.log"
	in.Pod.Ports = []*cri.PortMapping{{HostPort: 80, ContainerPort: 8080}}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Input)
		want   string
		kind   errs.Kind
	}{
		"nothing to run":      {func(in *Input) { in.Image.Entrypoint, in.Image.Cmd = nil, nil }, "nothing to run", errs.KindInvalid},
		"privileged in a pod": {func(in *Input) { security(in).Privileged = true }, "its pod is not", errs.KindInvalid},
		"group alone":         {func(in *Input) { security(in).RunAsGroup = &cri.Int64Value{Value: 1} }, "run_as_group", errs.KindInvalid},
		"two users":           {func(in *Input) { security(in).RunAsUser, security(in).RunAsUsername = &cri.Int64Value{}, "web" }, "exclude", errs.KindInvalid},
		"unknown user":        {func(in *Input) { security(in).RunAsUsername = "nobody-here" }, "nobody-here", errs.KindInvalid},
		"negative user":       {func(in *Input) { security(in).RunAsUser = &cri.Int64Value{Value: -1} }, "run_as_user -1", errs.KindInvalid},
		"huge group":          {func(in *Input) { security(in).SupplementalGroups = []int64{1 << 40} }, "supplemental_groups", errs.KindInvalid},
		"stdin once":          {func(in *Input) { in.Config.StdinOnce = true }, "stdin_once", errs.KindInvalid},
		"capability":          {func(in *Input) { security(in).Capabilities = &cri.Capability{AddCapabilities: []string{"FLY"}} }, "FLY", errs.KindInvalid},
		"environment name":    {func(in *Input) { in.Config.Envs = []*cri.KeyValue{{Key: "A=B"}} }, "A=B", errs.KindInvalid},
		"environment value":   {func(in *Input) { in.Config.Envs = []*cri.KeyValue{{Key: "A", Value: []byte{0}}} }, "\"A\"", errs.KindInvalid},
		"mount over the root": {func(in *Input) { in.Mounts = []Mount{mount(&cri.Mount{ContainerPath: "/x/.."})} }, "root file system", errs.KindInvalid},
		"mount at nothing":    {func(in *Input) { in.Mounts = []Mount{mount(&cri.Mount{HostPath: "/h"})} }, "container_path", errs.KindInvalid},
		"bidirectional": {func(in *Input) {
			in.Mounts = []Mount{mount(&cri.Mount{ContainerPath: "/a", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL})}
		}, "privileged", errs.KindInvalid},
		"rro but writable": {func(in *Input) { in.Mounts = []Mount{mount(&cri.Mount{ContainerPath: "/a", RecursiveReadOnly: true})} }, "needs readonly", errs.KindInvalid},
		"rro on an old kernel": {func(in *Input) {
			in.Node.RecursiveReadOnly = false
			in.Mounts = []Mount{mount(&cri.Mount{ContainerPath: "/a", Readonly: true, RecursiveReadOnly: true})}
		}, "recursive read-only", errs.KindUnimplemented},
		"mount option": {func(in *Input) {
			in.Mounts = []Mount{mount(&cri.Mount{ContainerPath: "/a", MountOptions: []string{"suid"}})}
		}, "suid", errs.KindInvalid},
		"device permissions": {func(in *Input) { in.Devices = []Device{{Path: "/dev/x", Access: "rx"}} }, "rx", errs.KindInvalid},
		"swap below memory": {func(in *Input) {
			in.Config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 5}
		}, "memory_swap_limit", errs.KindInvalid},
		"score": {func(in *Input) { in.Config.Linux.Resources = &cri.LinuxContainerResources{OomScoreAdj: 2000} }, "oom_score_adj", errs.KindInvalid},
		"localhost ref missing": {func(in *Input) {
			security(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost}
		}, "localhost_ref", errs.KindInvalid},
		"profile is no JSON": {func(in *Input) {
			security(in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/p"}
			in.Localhost = []byte("{")
		}, "/p", errs.KindInvalid},
		"apparmor absent": {func(in *Input) {
			security(in).Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "mine"}
		}, "mine", errs.KindPrecondition},
		"umask":            {allow(annotation.Umask, "999"), "octal", errs.KindInvalid},
		"unified cgroup":   {allow(annotation.UnifiedCgroup, "memory.high"), "KEY=VALUE", errs.KindInvalid},
		"unified path":     {allow(annotation.UnifiedCgroup, "../x.y=1"), "KEY=VALUE", errs.KindInvalid},
		"shared cpus":      {allow(annotation.CPUShared, "enable"), "shared_cpuset", errs.KindPrecondition},
		"shared cpus word": {allow(annotation.CPUShared, "yes"), "only enable", errs.KindInvalid},
	} {
		in := input()
		c.change(&in)
		_, err := Build(in)
		if err == nil || !strings.Contains(err.Error(), c.want) || errs.KindOf(err) != c.kind {
			t.Errorf("%s: %v (kind %d), want kind %d and %q", name, err, errs.KindOf(err), c.kind, c.want)
		}
		if errors.Is(err, errs.RROUnsupported) != (name == "rro on an old kernel") {
			t.Errorf("%s: %v has the wrong reason", name, err)
		}
	}
}

// allow gives a container an annotation that acts.
func allow(name, value string) func(*Input) {
	return func(in *Input) {
		in.Allowed, in.Pod.Annotations = annotation.Allowed{name}, map[string]string{name: value}
	}
}

// The built-in profile is what Kubernetes' documentation promises of the default.
func TestDefaultSeccomp(t *testing.T) {
	in := input()
	security(&in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	res, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	p := res.Spec.Linux.Seccomp
	allowed := func(name string) (plain bool) {
		for _, s := range p.Syscalls {
			if s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, name) {
				return true
			}
		}
		return false
	}
	if p.DefaultAction != specs.ActErrno {
		t.Errorf("default action %s", p.DefaultAction)
	}
	if all := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}; runtime.GOARCH == "amd64" && !slices.Equal(p.Architectures, all) {
		t.Errorf("architectures %v, want %v", p.Architectures, all)
	}
	for _, n := range []string{"read", "openat2", "clone", "futex", "io_uring_setup", "mount", "unshare", "keyctl", "bpf", "kexec_load", "reboot", "ptrace", "statx", "epoll_pwait2", "close_range"} {
		want := slices.Contains([]string{"read", "openat2", "futex", "statx", "epoll_pwait2", "close_range", "ptrace"}, n)
		if got := allowed(n); got != want {
			t.Errorf("%s: allowed without conditions: %v", n, got)
		}
	}
	security(&in).Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	if res, err = Build(in); err != nil {
		t.Fatal(err)
	}
	if p = res.Spec.Linux.Seccomp; !allowed("mount") || !allowed("unshare") {
		t.Error("CAP_SYS_ADMIN does not let mount and unshare through")
	}
}

// TestAnnotationsThatCommand: what runtimes obey does not come from requests.
func TestAnnotationsThatCommand(t *testing.T) {
	in := input()
	in.Config.Annotations = map[string]string{"bundle": "/x", "org.criu.config": "/evil", "org.systemd.property.ExecStart": "x", "run.oci.handler": "x", "note": "kept"}
	in.Node.CRIUConfig = "/run/crio/criu.conf"
	res, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	a := res.Spec.Annotations
	if a["note"] != "kept" || a["org.criu.config"] != "/run/crio/criu.conf" {
		t.Errorf("%v", a)
	}
	for k := range in.Config.Annotations {
		if _, there := a[k]; there && k != "note" && k != "org.criu.config" {
			t.Errorf("%s came through", k)
		}
	}
}

func TestInfra(t *testing.T) {
	in := input()
	in.Pod.Overhead = &cri.LinuxContainerResources{MemoryLimitInBytes: 5}
	in.Pod.Annotations = map[string]string{annotation.PodOverhead: "forged", annotation.PodResources: "forged"}
	in.Allowed, in.Node.InfraCPUs = annotation.Allowed{annotation.PodOverhead}, "3"
	s := Infra(in, "/usr/bin/pause")
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("testdata", "infra.json"), append(got, '\n'))
}
