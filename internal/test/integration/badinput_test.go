package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// refused checks that a call failed with a code and a text that names all words.
func refused(t *testing.T, what string, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: code %s, want %s: %v", what, status.Code(err), code, err)
		return
	}
	text := status.Convert(err).Message()
	t.Logf("%s: %s", what, text)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s: the text does not say %q: %s", what, w, text)
		}
	}
}

type (
	podChange = func(*cri.PodSandboxConfig)
	ctrChange = func(*cri.ContainerConfig)
)

func badPods(w *world.World) []struct {
	what   string
	code   codes.Code
	words  []string
	change podChange
} {
	file := filepath.Join(w.Dir, "crio.conf")
	ns := func(c *cri.PodSandboxConfig) *cri.NamespaceOption { return c.Linux.SecurityContext.NamespaceOptions }
	maps := func(mode cri.NamespaceMode, uids, gids []*cri.IDMapping) podChange {
		return func(c *cri.PodSandboxConfig) {
			ns(c).UsernsOptions = &cri.UserNamespace{Mode: mode, Uids: uids, Gids: gids}
		}
	}
	one := func(container, host, n uint32) []*cri.IDMapping {
		return []*cri.IDMapping{{ContainerId: container, HostId: host, Length: n}}
	}
	sysctl := func(k, v string) podChange {
		return func(c *cri.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{k: v} }
	}
	port := func(p *cri.PortMapping) podChange {
		return func(c *cri.PodSandboxConfig) { c.PortMappings = []*cri.PortMapping{p} }
	}
	resources := func(r *cri.LinuxContainerResources) podChange {
		return func(c *cri.PodSandboxConfig) { c.Linux.Resources = r }
	}
	const bad = codes.InvalidArgument
	return []struct {
		what   string
		code   codes.Code
		words  []string
		change podChange
	}{
		{"no name", bad, []string{"metadata.name"}, func(c *cri.PodSandboxConfig) { c.Metadata.Name = "" }},
		{"no namespace", bad, []string{"metadata.namespace"}, func(c *cri.PodSandboxConfig) { c.Metadata.Namespace = "" }},
		{"no uid", bad, []string{"metadata.uid"}, func(c *cri.PodSandboxConfig) { c.Metadata.Uid = "" }},
		{"null byte in name", bad, []string{"metadata.name"}, func(c *cri.PodSandboxConfig) { c.Metadata.Name = "a\x00b" }},
		{"semicolon in name", bad, []string{"a;b=c"}, func(c *cri.PodSandboxConfig) { c.Metadata.Name = "a;b=c" }},
		{"relative log folder", bad, []string{"log_directory", "logs/x"}, func(c *cri.PodSandboxConfig) { c.LogDirectory = "logs/x" }},
		{"log folder below a file", bad, []string{"log", file}, func(c *cri.PodSandboxConfig) { c.LogDirectory = file + "/logs" }},
		{"null byte in log folder", bad, []string{"log_directory"}, func(c *cri.PodSandboxConfig) { c.LogDirectory = "/tmp/a\x00b" }},
		{"long host name", bad, []string{"hostname", "64"}, func(c *cri.PodSandboxConfig) { c.Hostname = strings.Repeat("h", 65) }},
		{"host name with slash", bad, []string{"hostname"}, func(c *cri.PodSandboxConfig) { c.Hostname = "../etc" }},
		{"pid namespace of a target", bad, []string{"PID", "TARGET"}, func(c *cri.PodSandboxConfig) { ns(c).Pid = cri.NamespaceMode_TARGET }},
		{"unknown network mode", bad, []string{"network"}, func(c *cri.PodSandboxConfig) { ns(c).Network = 77 }},
		{"unknown pid mode", bad, []string{"PID"}, func(c *cri.PodSandboxConfig) { ns(c).Pid = 77 }},
		{"user namespace without maps", bad, []string{"mapping"}, maps(cri.NamespaceMode_POD, nil, nil)},
		{"two maps", bad, []string{"one uid"}, maps(cri.NamespaceMode_POD, append(one(0, 1000, 10), one(10, 5000, 10)...), one(0, 1000, 10))},
		{"map without root", bad, []string{"container id 0"}, maps(cri.NamespaceMode_POD, one(1, 1000, 10), one(1, 1000, 10))},
		{"empty map", bad, []string{"length"}, maps(cri.NamespaceMode_POD, one(0, 1000, 0), one(0, 1000, 0))},
		{"map past the end", bad, []string{"4294967294"}, maps(cri.NamespaceMode_POD, one(0, 4294967290, 65536), one(0, 4294967290, 65536))},
		{"map beside the host's user namespace", bad, []string{"NODE"}, maps(cri.NamespaceMode_NODE, one(0, 1000, 10), nil)},
		{"sysctl of the node", bad, []string{"vm.swappiness"}, sysctl("vm.swappiness", "1")},
		{"sysctl that leaves its folder", bad, []string{"sysctl", ".."}, sysctl("net.ipv4.../../x", "1")},
		{"sysctl of the host's network", bad, []string{"net.ipv4.ip_forward", "net"}, func(c *cri.PodSandboxConfig) {
			ns(c).Network, c.Hostname = cri.NamespaceMode_NODE, ""
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}},
		{"sysctl that is not there", bad, []string{"net.ipv4.nonsense"}, sysctl("net.ipv4.nonsense", "1")},
		{"sysctl with a bad value", bad, []string{"net.ipv4.ip_forward"}, sysctl("net.ipv4.ip_forward", "maybe")},
		{"cgroup parent that leaves", bad, []string{"../../etc"}, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "/kubepods/../../etc" }},
		{"cgroup parent of systemd", bad, []string{"kubepods.slice", "cgroupfs"}, func(c *cri.PodSandboxConfig) { c.Linux.CgroupParent = "kubepods.slice" }},
		{"negative memory", bad, []string{"memory", "-5"}, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: -5})},
		{"negative shares", bad, []string{"cpu_shares", "-7"}, resources(&cri.LinuxContainerResources{CpuShares: -7})},
		{"name server with a line feed", bad, []string{"nameserver", `\n`}, func(c *cri.PodSandboxConfig) {
			c.DnsConfig = &cri.DNSConfig{Servers: []string{"1.1.1.1\nsearch evil"}}
		}},
		{"port out of range", bad, []string{"70000", "65535"}, port(&cri.PortMapping{HostPort: 70000, ContainerPort: 80})},
		{"no container port", bad, []string{"8080", "port 0"}, port(&cri.PortMapping{HostPort: 8080})},
		{"port on no address", bad, []string{"host_ip", "nonsense"}, port(&cri.PortMapping{HostPort: 8080, ContainerPort: 80, HostIp: "nonsense"})},
		{"host port of another pod", codes.AlreadyExists, []string{"18080", "in use"}, port(&cri.PortMapping{HostPort: 18080, ContainerPort: 81})},
		{"bandwidth", bad, []string{"kubernetes.io/ingress-bandwidth", "lots"}, func(c *cri.PodSandboxConfig) {
			c.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "lots"}
		}},
	}
}

func TestBadPods(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pod("owner", func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{HostPort: 18080, ContainerPort: 80}}
	})
	held := w.Holds()
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{})
	refused(t, "nothing", err, codes.InvalidArgument, "metadata")
	_, err = w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("h"), RuntimeHandler: "no/such"})
	refused(t, "unknown handler", err, codes.NotFound, "no/such", "runc")
	for _, c := range badPods(w) {
		config := w.PodConfig("bad")
		c.change(config)
		r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: config})
		refused(t, c.what, err, c.code, c.words...)
		if err == nil {
			w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: r.GetPodSandboxId()})
		}
	}
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind: %s", l)
	}
	// What is odd and harmless is data.
	for _, name := range []string{"../../../tmp/evil", strings.Repeat("n", 10000), "ünï©ødé ☃", "a b\tc", "-rf", "%s%n"} {
		id := w.Pod("odd", func(c *cri.PodSandboxConfig) { c.Metadata.Name, c.Hostname, c.LogDirectory = name, "", "" })
		r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
		if err != nil || r.GetStatus().GetMetadata().GetName() != name {
			t.Errorf("pod %.40q: %v", name, err)
		}
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			t.Error(err)
		}
	}
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind by odd names: %s", l)
	}
}

func badContainers(w *world.World) []struct {
	what   string
	code   codes.Code
	words  []string
	change ctrChange
} {
	file := filepath.Join(w.Dir, "crio.conf")
	sc := func(c *cri.ContainerConfig) *cri.LinuxContainerSecurityContext { return c.Linux.SecurityContext }
	mount := func(m *cri.Mount) ctrChange { return func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{m} } }
	device := func(d *cri.Device) ctrChange { return func(c *cri.ContainerConfig) { c.Devices = []*cri.Device{d} } }
	seccomp := func(ref string) ctrChange {
		return func(c *cri.ContainerConfig) {
			sc(c).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}
		}
	}
	resources := func(r *cri.LinuxContainerResources) ctrChange {
		return func(c *cri.ContainerConfig) { c.Linux.Resources = r }
	}
	env := func(k, v string) ctrChange {
		return func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: k, Value: []byte(v)}} }
	}
	const bad = codes.InvalidArgument
	return []struct {
		what   string
		code   codes.Code
		words  []string
		change ctrChange
	}{
		{"no name", bad, []string{"metadata.name"}, func(c *cri.ContainerConfig) { c.Metadata.Name = "" }},
		{"no metadata", bad, []string{"metadata"}, func(c *cri.ContainerConfig) { c.Metadata = nil }},
		{"no image", bad, []string{"image"}, func(c *cri.ContainerConfig) { c.Image = nil }},
		{"absent image", codes.NotFound, []string{"test/absent:7"}, func(c *cri.ContainerConfig) { c.Image.Image = w.Addr + "/test/absent:7" }},
		{"no reference", bad, []string{"UPPER::x"}, func(c *cri.ContainerConfig) { c.Image.Image = "UPPER::x" }},
		{"log that leaves its folder", bad, []string{"log_path", "../evil.log"}, func(c *cri.ContainerConfig) { c.LogPath = "../evil.log" }},
		{"log with an absolute path", bad, []string{"log_path", "/tmp/evil.log"}, func(c *cri.ContainerConfig) { c.LogPath = "/tmp/evil.log" }},
		{"log with a null byte", bad, []string{"log_path"}, func(c *cri.ContainerConfig) { c.LogPath = "a\x00.log" }},
		{"long log name", bad, []string{"log"}, func(c *cri.ContainerConfig) { c.LogPath = strings.Repeat("l", 300) }},
		{"relative host path", bad, []string{"host_path", "etc"}, mount(&cri.Mount{HostPath: "etc", ContainerPath: "/x"})},
		{"host path below a file", bad, []string{file}, mount(&cri.Mount{HostPath: file + "/x", ContainerPath: "/x"})},
		{"mount over the root", bad, []string{`"/"`}, mount(&cri.Mount{HostPath: "/tmp", ContainerPath: "/"})},
		{"mount over the root by detours", bad, []string{`"/"`}, mount(&cri.Mount{HostPath: "/tmp", ContainerPath: "/x/.."})},
		{"mount nowhere", bad, []string{"container_path"}, mount(&cri.Mount{HostPath: "/tmp"})},
		{"unknown propagation", bad, []string{"/x", "propagation"}, mount(&cri.Mount{HostPath: "/tmp", ContainerPath: "/x", Propagation: 9})},
		{"recursive read-only, writable", bad, []string{"/x", "recursive"}, mount(&cri.Mount{HostPath: "/tmp", ContainerPath: "/x", RecursiveReadOnly: true})},
		{"privileged in a pod that is not", bad, []string{"privileged"}, func(c *cri.ContainerConfig) { sc(c).Privileged = true }},
		{"group alone", bad, []string{"run_as_group", "run_as_user"}, func(c *cri.ContainerConfig) { sc(c).RunAsGroup = &cri.Int64Value{Value: 7} }},
		{"user twice", bad, []string{"run_as_user", "run_as_username"}, func(c *cri.ContainerConfig) {
			sc(c).RunAsUser, sc(c).RunAsUsername = &cri.Int64Value{Value: 7}, "root"
		}},
		{"unknown user", bad, []string{"nobody-knows", "/etc/passwd"}, func(c *cri.ContainerConfig) { sc(c).RunAsUsername = "nobody-knows" }},
		{"negative user", bad, []string{"run_as_user", "-3"}, func(c *cri.ContainerConfig) { sc(c).RunAsUser = &cri.Int64Value{Value: -3} }},
		{"stdin_once alone", bad, []string{"stdin_once", "stdin"}, func(c *cri.ContainerConfig) { c.StdinOnce = true }},
		{"pod's PID namespace where none is shared", bad, []string{"PID namespace"}, func(c *cri.ContainerConfig) { sc(c).NamespaceOptions.Pid = cri.NamespaceMode_POD }},
		{"target that is not there", codes.NotFound, []string{"0123abc", "target"}, func(c *cri.ContainerConfig) {
			sc(c).NamespaceOptions.Pid, sc(c).NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, "0123abc"
		}},
		{"host network in a pod with its own", bad, []string{"network namespace", "NODE"}, func(c *cri.ContainerConfig) { sc(c).NamespaceOptions.Network = cri.NamespaceMode_NODE }},
		{"unknown capability", bad, []string{"BOGUS"}, func(c *cri.ContainerConfig) {
			sc(c).Capabilities = &cri.Capability{AddCapabilities: []string{"BOGUS"}}
		}},
		{"absent device", bad, []string{"/dev/no-such"}, device(&cri.Device{HostPath: "/dev/no-such", ContainerPath: "/dev/x", Permissions: "rwm"})},
		{"device that is a file", bad, []string{"/etc/hostname"}, device(&cri.Device{HostPath: "/etc/hostname", ContainerPath: "/dev/x", Permissions: "rwm"})},
		{"device permissions", bad, []string{"/dev/x", "xyz"}, device(&cri.Device{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "xyz"})},
		{"seccomp profile with a relative path", bad, []string{"seccomp", "profile.json"}, seccomp("profile.json")},
		{"absent seccomp profile", bad, []string{"seccomp", "/no/such.json"}, seccomp("/no/such.json")},
		{"seccomp profile that is no JSON", bad, []string{"seccomp", file}, seccomp(file)},
		{"seccomp profile without a name", bad, []string{"localhost_ref"}, seccomp("")},
		{"AppArmor on a node without it", codes.FailedPrecondition, []string{"AppArmor", "my-profile"}, func(c *cri.ContainerConfig) {
			sc(c).Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "my-profile"}
		}},
		{"negative memory", bad, []string{"memory_limit_in_bytes", "-5"}, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: -5})},
		{"memory for no process", bad, []string{"memory", "4096"}, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 4096})},
		{"swap below memory", bad, []string{"memory_swap_limit_in_bytes"}, resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 32 << 20})},
		{"negative quota period", bad, []string{"cpu_period", "-1"}, resources(&cri.LinuxContainerResources{CpuPeriod: -1})},
		{"cpus that are no list", bad, []string{"cpuset_cpus", "all"}, resources(&cri.LinuxContainerResources{CpusetCpus: "all"})},
		{"cpus that are not there", bad, []string{"cpuset_cpus", "4096"}, resources(&cri.LinuxContainerResources{CpusetCpus: "4096"})},
		{"oom score", bad, []string{"oom_score_adj", "5000"}, resources(&cri.LinuxContainerResources{OomScoreAdj: 5000})},
		{"variable without a name", bad, []string{"environment variable"}, env("", "x")},
		{"variable with =", bad, []string{"environment variable", "A=B"}, env("A=B", "x")},
		{"variable with a null byte", bad, []string{"environment variable", "NUL"}, env("NUL", "x\x00y")},
		{"argument with a null byte", bad, []string{"command"}, func(c *cri.ContainerConfig) { c.Command = []string{"sh", "a\x00b"} }},
		{"supplemental group", bad, []string{"supplemental_groups", "-1"}, func(c *cri.ContainerConfig) { sc(c).SupplementalGroups = []int64{-1} }},
		{"masked path", bad, []string{"masked_paths", "proc/x"}, func(c *cri.ContainerConfig) { sc(c).MaskedPaths = []string{"proc/x"} }},
		{"unknown stop signal", bad, []string{"stop_signal", "999"}, func(c *cri.ContainerConfig) { c.StopSignal = 999 }},
	}
}

func TestBadContainers(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("bad", nil)
	held := w.Holds()
	for _, c := range badContainers(w) {
		config := w.CtrConfig("bad", "true")
		c.change(config)
		r, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("bad")})
		refused(t, c.what, err, c.code, c.words...)
		if err == nil {
			w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: r.GetContainerId()})
		}
	}
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: "0123abc", Config: w.CtrConfig("x", "true")})
	refused(t, "no such pod", err, codes.NotFound, "0123abc")
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod})
	refused(t, "no config", err, codes.InvalidArgument, "metadata")
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind: %s", l)
	}
	if entries, _ := os.ReadDir(filepath.Join(w.Dir, "podlogs")); len(entries) > 1 {
		t.Errorf("logs were made outside the pod's folder: %v", entries)
	}
	// A program that is not there is the runtime's finding.
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: func() *cri.ContainerConfig {
		c := w.CtrConfig("absent", "")
		c.Command = []string{"/no/such-program"}
		return c
	}()})
	refused(t, "absent program", err, codes.Internal, "/no/such-program", "no such file")
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind: %s", l)
	}
}

// TestBadIDs gives each verb ids that cannot be one.
func TestBadIDs(t *testing.T) {
	w := world.New(t, world.Options{})
	pod := w.Pod("victim", nil)
	for _, id := range []string{"", "../../etc", strings.Repeat("a", 10000), "a\x00b", "☃", "G", "0123456789abcdef", "*", "."} {
		for what, call := range map[string]func(context.Context) error{
			"PodSandboxStatus": func(ctx context.Context) error {
				_, err := w.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
				return err
			},
			"ContainerStatus": func(ctx context.Context) error {
				_, err := w.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
				return err
			},
			"StartContainer": func(ctx context.Context) error {
				_, err := w.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
				return err
			},
			"ExecSync": func(ctx context.Context) error {
				_, err := w.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
				return err
			},
			"ReopenContainerLog": func(ctx context.Context) error {
				_, err := w.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id})
				return err
			},
		} {
			if err := call(w.Ctx()); status.Code(err) != codes.NotFound {
				t.Errorf("%s of %.20q: %v", what, id, err)
			}
		}
		for what, call := range map[string]func(context.Context) error{
			"StopPodSandbox": func(ctx context.Context) error {
				_, err := w.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
				return err
			},
			"RemovePodSandbox": func(ctx context.Context) error {
				_, err := w.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
				return err
			},
			"StopContainer": func(ctx context.Context) error {
				_, err := w.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
				return err
			},
			"RemoveContainer": func(ctx context.Context) error {
				_, err := w.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
				return err
			},
		} {
			if err := call(w.Ctx()); err != nil { // absence is success
				t.Errorf("%s of %.20q: %v", what, id, err)
			}
		}
	}
	if r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the victim: %v %v", r, err)
	}
}

// TestBadConfig starts daemons whose crio.conf cannot be meant: each must end with 1
// and name file, line and key.
func TestBadConfig(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	good, err := os.ReadFile(w.Conf)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Count(string(good), "\n") + 2
	path := filepath.Join(w.Dir, "bad.conf")
	for _, c := range []struct {
		what, text string
		words      []string
	}{
		{"syntax", "[crio.runtime\npids_limit = 5\n", []string{fmt.Sprintf("%s:%d:", path, line-1)}},
		{"wrong type", "[crio.runtime]\npids_limit = \"many\"\n", []string{fmt.Sprintf("%s:%d:", path, line), "pids_limit"}},
		{"wrong word", "[crio.runtime]\ncgroup_manager = \"openrc\"\n", []string{"cgroup_manager", "openrc", "systemd", "cgroupfs"}},
		{"duration", "[crio.runtime]\ncontainer_create_timeout = \"soon\"\n", []string{"soon"}},
		{"capability", "[crio.runtime]\ndefault_capabilities = [\"FLY\"]\n", []string{"default_capabilities", "FLY"}},
		{"ulimit", "[crio.runtime]\ndefault_ulimits = [\"nofile\"]\n", []string{"default_ulimits", "nofile"}},
		{"runtime that is not there", "[crio.runtime]\n[crio.runtime.runtimes.other]\nruntime_path = \"/no/such/runtime\"\n", []string{"other", "runtime_path", "/no/such/runtime"}},
		{"default runtime without a section", "[crio.runtime]\ndefault_runtime = \"kata\"\n", []string{"default_runtime", "kata"}},
		{"memory size", "[crio.runtime]\n[crio.runtime.runtimes.runc]\ncontainer_min_memory = \"much\"\n", []string{"container_min_memory", "much"}},
	} {
		if err := os.WriteFile(path, append(good, c.text...), 0o644); err != nil {
			t.Fatal(err)
		}
		_, text, code := w.Run("timeout", "20", "crio", "-c", path)
		if code != 1 {
			t.Errorf("%s: exit status %d, want 1: %s", c.what, code, text)
		}
		for _, word := range c.words {
			if !strings.Contains(text, word) {
				t.Errorf("%s: the text does not say %q: %s", c.what, word, text)
			}
		}
	}
	_, text, code := w.Run("timeout", "20", "crio", "-c", filepath.Join(w.Dir, "absent.conf"))
	if code != 1 || !strings.Contains(text, "absent.conf") {
		t.Errorf("absent file: exit status %d: %s", code, text)
	}
}

func TestSecondDaemon(t *testing.T) {
	w := world.New(t, world.Options{})
	pod := w.Pod("first", nil)
	_, text, code := w.Run("timeout", "20", "crio", "-c", w.Conf)
	if code != 1 || !strings.Contains(text, filepath.Join(w.Dir, "state/lock")) {
		t.Errorf("exit status %d: %s", code, text)
	}
	if r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || r.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("the first daemon's pod: %v %v", r, err)
	}
}

// network is the condition NetworkReady.
func network(w *world.World) *cri.RuntimeCondition {
	w.T.Helper()
	r, err := w.RuntimeServiceClient.Status(w.Ctx(), &cri.StatusRequest{})
	if err != nil {
		w.T.Fatal(err)
	}
	for _, c := range r.GetStatus().GetConditions() {
		if c.GetType() == cri.NetworkReady {
			return c
		}
	}
	w.T.Fatal("no condition NetworkReady")
	return nil
}

// TestNoNetwork begins without a CNI configuration, gets a broken one, and then a
// good one.
func TestNoNetwork(t *testing.T) {
	w := world.New(t, world.Options{Net: "-"})
	run := func() error {
		_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("net")})
		return err
	}
	if c := network(w); c.GetStatus() || !strings.Contains(c.GetMessage(), w.NetDir) {
		t.Errorf("without a configuration: %v", c)
	}
	refused(t, "no network", run(), codes.Unavailable, w.NetDir)
	host := w.PodConfig("host")
	host.Hostname, host.Linux.SecurityContext.NamespaceOptions.Network = "", cri.NamespaceMode_NODE
	if _, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: host}); err != nil {
		t.Errorf("a pod in the host's network: %v", err)
	}
	broken := filepath.Join(w.NetDir, "10-broken.conflist")
	write := func(path, text string) {
		if err := os.MkdirAll(w.NetDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ text, word string }{
		{"{\n \"cniVersion\": \"1.1.0\",\n \"name\": \"x\",\n oops\n}", "4"},
		{`{"cniVersion": "1.1.0", "name": "x", "plugins": [{"bridge": "b0"}]}`, "type"},
		{`{"cniVersion": "9.9.9", "name": "x", "plugins": [{"type": "bridge"}]}`, "cniVersion"},
	} {
		write(broken, c.text)
		w.Eventually("the status names the broken file and "+c.word, func() bool {
			m := network(w)
			return !m.GetStatus() && strings.Contains(m.GetMessage(), broken) && strings.Contains(m.GetMessage(), c.word)
		})
	}
	refused(t, "broken network", run(), codes.Unavailable, broken)
	write(filepath.Join(w.NetDir, "20-good.conflist"), world.Conflist)
	w.Eventually("the network is ready", func() bool { return network(w).GetStatus() })
	if err := run(); err != nil {
		t.Error(err)
	}
}

// fill takes all room of a file system.
func fill(t *testing.T, dir string) (free func()) {
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1 << 20; n > 0; {
		if _, err := f.Write(make([]byte, n)); err != nil {
			n /= 2
		}
	}
	f.Close()
	return func() { os.Remove(path) }
}

// TestFullDisk fills the file system of the records under the daemon.
func TestFullDisk(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	state := filepath.Join(w.Dir, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	w.AtEnd(func() { unix.Unmount(state, 0) })
	w.Start()
	w.Pull()
	pod := w.Pod("full", nil)
	ctr := w.Ctr(pod, "brief", "while [ ! -e /stop ]; do sleep 0.05; done; exit 9", nil)
	held := append(w.Holds(), "mount "+state)
	free := fill(t, state)
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("more")})
	refused(t, "pod on a full disk", err, codes.Internal, "no space left on device", state)
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig("more", "true")})
	refused(t, "container on a full disk", err, codes.Internal, "no space left on device", state)
	for _, l := range w.Leaks(held...) {
		t.Errorf("left behind: %s", l)
	}
	w.Exec(ctr, "touch /stop") // what ends meanwhile is told once it can be written down
	w.Eventually("the exit cannot be recorded", func() bool { return strings.Contains(w.Log(), "cannot record an exit") })
	free()
	if st := w.WaitExit(ctr); st.GetExitCode() != 9 {
		t.Errorf("the code of the exit that could not be recorded at once: %d", st.GetExitCode())
	}
	w.Pod("more", nil)
}
