package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), mode)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// runWith runs a pod with a handler of its own.
func runWith(w *world.World, name, handler string, change func(*cri.PodSandboxConfig)) string {
	w.T.Helper()
	c := w.PodConfig(name)
	if change != nil {
		change(c)
	}
	r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
	if err != nil {
		w.T.Fatalf("%s: %v\n%s", name, err, w.Log())
	}
	return r.GetPodSandboxId()
}

// Handlers differ in their profile, annotations, devices and monitors.
//
// Options: crio.runtime.privileged_seccomp_profile, crio.runtime.runtimes.NAME.inherit_default_runtime,
// crio.runtime.runtimes.NAME.seccomp_profile, crio.runtime.runtimes.NAME.default_annotations,
// crio.runtime.runtimes.NAME.allowed_annotations,
// crio.runtime.runtimes.NAME.privileged_without_host_devices,
// crio.runtime.runtimes.NAME.container_min_memory, crio.runtime.runtimes.NAME.monitor_cgroup,
// crio.runtime.runtimes.NAME.monitor_env, crio.runtime.runtimes.NAME.no_sync_log,
// crio.runtime.runtimes.NAME.exec_cpu_affinity
func TestHandlerOptions(t *testing.T) {
	dir := t.TempDir()
	profile := write(t, filepath.Join(dir, "no-mkdir.json"), `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`, 0o644)
	others, scope := fmt.Sprintf("/mtest-monitors-%d", os.Getpid()), ""
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		others, scope = "mtestmonitors.slice", ".scope"
	}
	w := world.New(t, world.Options{Extra: fmt.Sprintf(`[crio.runtime]
privileged_seccomp_profile = %[1]q
conmon_env = ["FROM=node"]
[crio.runtime.runtimes.strict]
inherit_default_runtime = true
seccomp_profile = %[1]q
default_annotations = {"run.oci.x" = "by the handler", "note" = "by the handler", "umask.crio.io" = "022", "shm-size.crio.io" = "4M"}
allowed_annotations = ["umask.crio.io"]
privileged_without_host_devices = true
container_min_memory = "20MiB"
monitor_cgroup = "pod"
monitor_env = ["FROM=handler"]
no_sync_log = true
exec_cpu_affinity = "first"
container_create_timeout = 60
[crio.runtime.runtimes.aside]
inherit_default_runtime = true
monitor_cgroup = %[2]q
`, profile, others)})
	w.AtEnd(func() {
		if scope == "" {
			removeCgroup(t, others)
		}
	})
	w.Pull()
	def := security(func(s *cri.LinuxContainerSecurityContext) {
		s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	})
	strict, plain := runWith(w, "strict", "strict", func(c *cri.PodSandboxConfig) {
		c.Annotations["umask.crio.io"], c.Annotations["note"] = "077", "by the pod"
		c.Linux.SecurityContext.Privileged = true
	}), w.Pod("plain", annotated("umask.crio.io", "077"))
	runCases(t, w, strict, []specCase{
		{"profile", "mkdir /x 2>&1; umask", ".*not permitted.*0077", def},
		{"shm", "df -k /dev/shm | tail -1 | awk '{print $2}'", "4096", nil},
		{"privileged", "mkdir /x 2>&1; ls /dev | grep -c full", ".*not permitted.*1", security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true })},
	})
	runCases(t, w, plain, []specCase{{"profile", "mkdir /x && umask", "0022", def}})
	ctr := w.Ctr(strict, "long", "sleep 1000", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "0-1"}
	})
	config := readFile(t, filepath.Join(factsOf(w, ctr).Bundle, "config.json"))
	for _, want := range []string{`"run.oci.x":"by the handler"`, `"note":"by the pod"`, `"execCPUAffinity":{"initial":"0","final":"0"}`, `"io.kubernetes.cri-o.RuntimeHandler":"strict"`} {
		if !strings.Contains(config, want) {
			t.Errorf("config.json lacks %s", want)
		}
	}
	if out, code := w.Exec(ctr, "grep Cpus_allowed_list /proc/self/status"); code != 0 || !strings.HasSuffix(out, "\t0") {
		t.Errorf("exec on the first processor: %q", out)
	}
	at := cgroupOf(t, factsOf(w, ctr).MonitorPid)
	if !strings.Contains(at, podFactsOf(w, strict).Cgroup) || !strings.HasSuffix(at, "crio-conmon-"+ctr+scope) {
		t.Errorf("the monitor of pod %s is in cgroup %s", podFactsOf(w, strict).Cgroup, at)
	}
	if env := readFile(t, fmt.Sprintf("/proc/%d/environ", factsOf(w, ctr).MonitorPid)); !strings.Contains(env, "FROM=handler") {
		t.Errorf("the monitor's environment: %q", env)
	}
	if args := readFile(t, fmt.Sprintf("/proc/%d/cmdline", factsOf(w, ctr).MonitorPid)); !strings.Contains(args, "--no-sync-log") {
		t.Errorf("the monitor's arguments: %q", args)
	}
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the monitor's cgroup is gone", func() bool { return len(findCgroups(t, "crio-conmon-"+ctr+scope)) == 0 })
	small := w.CtrConfig("small", "true")
	small.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 15 << 20}
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: strict, Config: small, SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), "strict") {
		t.Errorf("less memory than the handler needs: %v", err)
	}
	aside := w.Ctr(runWith(w, "aside", "aside", nil), "long", "sleep 1000", nil)
	if at := cgroupOf(t, factsOf(w, aside).MonitorPid); !strings.Contains(at, others) {
		t.Errorf("the monitor aside is in cgroup %s", at)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// cgroupOf is the path of a process in the first hierarchy with a controller.
func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	unified := ""
	for line := range strings.SplitSeq(readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid)), "\n") {
		if f := strings.SplitN(line, ":", 3); len(f) == 3 && strings.Contains(f[1], "memory") {
			return f[2]
		} else if len(f) == 3 && f[1] == "" {
			unified = f[2]
		}
	}
	return unified
}

// findCgroups lists the cgroups of a name.
func findCgroups(t *testing.T, name string) []string {
	t.Helper()
	out, _ := exec.Command("find", "/sys/fs/cgroup", "-name", name, "-type", "d").Output()
	return strings.Fields(string(out))
}

func removeCgroup(t *testing.T, path string) {
	t.Helper()
	for _, dir := range findCgroups(t, filepath.Base(path)) {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

// What the node gives every container.
//
// Options: crio.runtime.drop_infra_ctr, crio.runtime.infra_ctr_cpuset,
// crio.runtime.add_inheritable_capabilities, crio.runtime.device_ownership_from_security_context,
// crio.runtime.default_mounts_file, crio.runtime.bind_mount_prefix, crio.runtime.timezone
func TestNodeOptions(t *testing.T) {
	dir := t.TempDir()
	zone := "Asia/Tokyo"
	if _, err := os.Stat("/usr/share/zoneinfo/" + zone); err != nil {
		zone = "Local"
	}
	write(t, filepath.Join(dir, "secret/key"), "hidden", 0o600)
	host := filepath.Join(dir, "host")
	write(t, filepath.Join(host, "data/file"), "of the host", 0o644)
	if err := os.Symlink("/data", filepath.Join(host, "link")); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, world.Options{Extra: fmt.Sprintf(`[crio.runtime]
drop_infra_ctr = false
infra_ctr_cpuset = "0"
add_inheritable_capabilities = true
device_ownership_from_security_context = true
default_mounts_file = %q
bind_mount_prefix = %q
timezone = %q
min_injected_gomaxprocs = 3
`, write(t, filepath.Join(dir, "mounts.conf"), filepath.Join(dir, "secret")+":/run/secrets\n/no/such:/x\n", 0o644), host, zone)})
	w.Pull()
	pod := w.Pod("node", nil)
	device := filepath.Join(w.Dir, "device")
	if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))); err != nil {
		t.Fatal(err)
	}
	runCases(t, w, pod, []specCase{
		{"secret", "cat /run/secrets/key; echo x >/run/secrets/key && cat /run/secrets/key", "hiddenx", nil},
		{"untouched", "cat /run/secrets/key", "hidden", nil},
		{"inheritable", "grep CapInh /proc/self/status | awk '{print $2}'", "0*[1-9a-f][0-9a-f]*", nil},
		{"device", "ls -ln /dev/extra | awk '{print $3, $4}'", "1000 2000", func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: device, ContainerPath: "/dev/extra", Permissions: "rw"}}
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = id(1000), id(2000)
		}},
		{"prefix", "cat /m/file", "of the host", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: "/link", ContainerPath: "/m"}}
		}},
		{"prefix-made", "ls /m | wc -l", "0", func(c *cri.ContainerConfig) {
			c.Mounts = []*cri.Mount{{HostPath: "/made/here", ContainerPath: "/m"}}
		}},
		{"gomaxprocs", "echo $GOMAXPROCS", "", nil},
	})
	if _, err := os.Stat(filepath.Join(host, "made/here")); err != nil {
		t.Error("an absent source is not made on the host:", err)
	}
	if zone != "Local" {
		runCases(t, w, pod, []specCase{{"zone", "date +%z", "\\+0900", nil}})
	}
	infra := podFactsOf(w, pod).Infra.Init.Pid
	if infra == 0 || !strings.Contains(readFile(t, fmt.Sprintf("/proc/%d/status", infra)), "Cpus_allowed_list:\t0\n") {
		t.Errorf("the pod's pause process is %d", infra)
	}
	own := w.Ctr(pod, "own-pid", "sleep 1000", nil)
	if out, _ := w.Exec(own, "echo $(cat /proc/1/comm)"); out != "sleep" {
		t.Errorf("the container shares a PID namespace that it did not ask for: process 1 is %q", out)
	}
	w.Restart()
	if now := podFactsOf(w, pod).Infra.Init.Pid; now != infra {
		t.Errorf("the pause process was %d and is %d", infra, now)
	}
}

// A volume shows the pod's logs, for reading, until the pod stops; what a container left
// in the volume is no way out of it.
func TestLogsInVolume(t *testing.T) {
	made := ""
	for p := "/var/lib/kubelet/pods"; p != "/"; p = filepath.Dir(p) {
		if _, err := os.Stat(p); err != nil {
			made = p
		}
	}
	if made != "" {
		if err := os.MkdirAll("/var/lib/kubelet/pods", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", "/var/lib/kubelet/pods", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, world.Options{Extra: allowAll})
	w.AtEnd(func() {
		unix.Unmount("/var/lib/kubelet/pods", unix.MNT_DETACH)
		if made != "" {
			os.RemoveAll(made)
		}
	})
	w.Pull()
	volume := "/var/lib/kubelet/pods/uid-logs/volumes/kubernetes.io~empty-dir/mylogs"
	if err := os.MkdirAll(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	pod := w.Pod("logs", annotated("link-logs.crio.io", "mylogs"))
	w.Output(pod, "first", "echo hello", nil)
	runCases(t, w, pod, []specCase{{"second", "cut -d' ' -f4 /v/logs/first.log; touch /v/logs/x 2>&1", "hello\n.*Read-only.*", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: volume, ContainerPath: "/v"}}
	}}})
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(volume); err != nil {
		t.Errorf("the kubelet could not delete the volume of a stopped pod: %v", err)
	}
	victim := t.TempDir()
	if err := os.MkdirAll(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(volume, "logs")); err != nil {
		t.Fatal(err)
	}
	config := w.PodConfig("logs2")
	config.Metadata.Uid = "uid-logs"
	annotated("link-logs.crio.io", "mylogs")(config)
	if _, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: config}); err == nil {
		t.Error("a link in the volume is followed")
	}
}

// An image of another platform runs with that platform's runtime.
//
// Options: crio.runtime.runtimes.NAME.platform_runtime_paths
func TestRuntimeOfPlatform(t *testing.T) {
	dir := t.TempDir()
	wrapper := filepath.Join(dir, "wrapper")
	w := world.New(t, world.Options{Late: true, Extra: fmt.Sprintf(`[crio.runtime.runtimes.runc]
platform_runtime_paths = {"other/machine" = %q}
allowed_annotations = ["platform-runtime-path.crio.io"]
`, wrapper)})
	write(t, wrapper, fmt.Sprintf("#!/bin/sh\necho called >>%s/log\nexec %s runc \"$@\"\n", dir, w.Bin()), 0o755)
	w.Start()
	w.Pull()
	pod := w.Pod("platform", annotated("platform-runtime-path.crio.io", "other/machine"))
	runCases(t, w, pod, []specCase{{"other", "echo runs", "runs", nil}})
	if _, err := os.Stat(filepath.Join(dir, "log")); err != nil {
		t.Error("the platform's runtime was not called")
	}
	config := w.CtrConfig("unknown", "true")
	config.Annotations = map[string]string{"platform-runtime-path.crio.io": "/bin/sh"}
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), "other/machine") {
		t.Errorf("a platform that has no runtime: %v", err)
	}
}

// Options: crio.runtime.uid_mappings, crio.runtime.gid_mappings, crio.runtime.read_only
func TestReadOnlyNodeWithMappedIDs(t *testing.T) {
	w := world.New(t, world.Options{Extra: `[crio.runtime]
read_only = true
uid_mappings = "0:200000:65536"
gid_mappings = "0:200000:65536"
`})
	w.Pull()
	runCases(t, w, w.Pod("mapped", nil), []specCase{{"main", "awk '{print $1, $2, $3}' /proc/self/uid_map; touch /x 2>&1; touch /tmp/x /run/x /var/tmp/x /dev/shm/x && echo written",
		"0 200000 65536\n.*Read-only.*written", nil}})
	node := w.Pod("node", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}
	})
	runCases(t, w, node, []specCase{{"main", "awk '{print $2}' /proc/self/uid_map", "0", nil}})
}

// Options change while the daemon runs: hooks, handlers, what is allowed.
//
// Options: crio.runtime.hooks_dir
func TestReloadOfHandlers(t *testing.T) {
	hooks, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	write(t, filepath.Join(hooks, "a.json"), fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","echo ran >>%s"]},"when":{"always":true},"stages":["createRuntime"]}`, log), 0o644)
	w := world.New(t, world.Options{})
	w.Pull()
	umask := annotated("umask.crio.io", "077")
	before := w.Pod("before", umask)
	runCases(t, w, before, []specCase{{"main", "umask", "0022", nil}})
	w.SetConf(w.ConfText() + fmt.Sprintf("[crio.runtime]\nhooks_dir = [%q]\n[crio.runtime.runtimes.runc]\nallowed_annotations = [\"umask.crio.io\"]\n", hooks))
	w.Eventually("the reload", func() bool { return strings.Contains(w.Log(), "configuration reloaded") })
	runCases(t, w, before, []specCase{{"after", "umask", "0077", nil}})
	if data := readFile(t, log); data != "ran\n" {
		t.Errorf("the hook: %q", data)
	}
	good := w.ConfText()
	w.SetConf(strings.Replace(good, "umask.crio.io", "umask.crio", 1))
	w.Eventually("the refusal", func() bool { return strings.Contains(w.Log(), "the present one stays") })
	runCases(t, w, before, []specCase{{"still", "umask", "0077", nil}})
	w.SetConf(good)
}
