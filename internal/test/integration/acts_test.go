package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// annotated is a change that gives a pod annotations.
func annotated(kv ...string) func(*cri.PodSandboxConfig) {
	return func(c *cri.PodSandboxConfig) {
		for i := 0; i < len(kv); i += 2 {
			c.Annotations[kv[i]] = kv[i+1]
		}
	}
}

const allowAll = `[crio.runtime.runtimes.runc]
allowed_annotations = ["userns-mode.crio.io", "devices.crio.io", "shm-size.crio.io", "umask.crio.io", "link-logs.crio.io",
  "org.opencontainers.image.stopSignal", "unified-cgroup.crio.io", "cgroup2-mount-hierarchy-rw.crio.io", "disable-fips.crio.io"]
`

// What annotations do where they are allowed, and that they do nothing elsewhere.
//
// Options: crio.runtime.allowed_devices, crio.runtime.runtimes.NAME.allowed_annotations
func TestAnnotationsAct(t *testing.T) {
	w := world.New(t, world.Options{Extra: allowAll + `[crio.runtime]
allowed_devices = ["/dev/full", "/dev/loop-control"]
`})
	w.Pull()
	pod := w.Pod("acts", annotated("shm-size.crio.io", "8Mi", "io.kubernetes.cri-o.umask", "077", "umask.crio.io/other", "0",
		"devices.crio.io/dev", "/dev/full:/dev/mine:rw", "devices.crio.io/bad", "/dev/null"))
	runCases(t, w, pod, []specCase{
		{"shm", "df -k /dev/shm | tail -1 | awk '{print $2}'", "8192", nil},
		{"umask", "umask", "0077", nil},
		{"other", "umask", "0000", nil},
		{"dev", "(echo x >/dev/mine) 2>&1; ls /dev | grep -c mine", ".*No space left.*1", nil},
		{"nodev", "ls /dev | grep -c mine", "0", nil},
	})
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		two := w.Pod("two", annotated("io.kubernetes.cri-o.UnifiedCgroup.unified", "memory.high=20480000;pids.max=77", "cgroup2-mount-hierarchy-rw.crio.io/writable", "true"))
		runCases(t, w, two, []specCase{
			{"unified", "cat /sys/fs/cgroup/memory.high /sys/fs/cgroup/pids.max", "20480000\n77", nil},
			{"writable", "cat /sys/fs/cgroup/memory.high; mkdir /sys/fs/cgroup/x && rmdir /sys/fs/cgroup/x && echo made", "max\nmade", nil},
			{"read-only", "mkdir /sys/fs/cgroup/x 2>&1", ".*Read-only.*", nil},
		})
	}
	stop := w.Ctr(w.Pod("stop", annotated("org.opencontainers.image.stopSignal", "SIGUSR1")), "main", "trap 'exit 7' USR1; trap : TERM; echo ready; while :; do sleep 1; done", nil)
	w.Eventually("it handles signals", func() bool { return strings.Contains(w.LogText(w.Status(stop).GetLogPath()), "ready") })
	if st := w.Status(stop); st.GetStopSignal() != cri.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("the stop signal is %s", st.GetStopSignal())
	}
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: stop, Timeout: 30}); err != nil || w.Status(stop).GetExitCode() != 7 {
		t.Errorf("stopped by SIGUSR1: %v, code %d", err, w.Status(stop).GetExitCode())
	}
	bad := w.CtrConfig("bad", "true")
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: bad, SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), "allowed_devices") {
		t.Errorf("a device that is not allowed: %v", err)
	}
	for _, c := range []struct{ key, value, want string }{
		{"shm-size.crio.io", "many", "size"}, {"userns-mode.crio.io", "host", "auto and private"}, {"link-logs.crio.io", "../x", "emptyDir"},
	} {
		config := w.PodConfig("refused")
		annotated(c.key, c.value)(config)
		if _, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: config}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s=%s: %v", c.key, c.value, err)
		}
	}
}

func TestAnnotationsDoNotAct(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("acts", annotated("shm-size.crio.io", "8Mi", "umask.crio.io", "077", "userns-mode.crio.io", "auto", "link-logs.crio.io", "../x",
		"io.kubernetes.cri-o.SandboxID", "forged", "run.oci.x", "y", "note2", "kept"))
	out, _ := w.Output(pod, "plain", "umask; df -k /dev/shm | tail -1 | awk '{print $2}'; cat /proc/self/uid_map | awk '{print $2}'", nil)
	if strings.Fields(out)[0] != "0022" || strings.Fields(out)[1] != "65536" || strings.Fields(out)[2] != "0" {
		t.Errorf("annotations act that nobody allows: %q", out)
	}
	files, err := registry.Busybox()
	if err == nil { // what an image says of itself is nobody's request
		evil := map[string]string{"umask.crio.io": "077", "run.oci.x": "y", "devices.crio.io": "/dev/fuse"}
		_, err = w.Registry.Add("test/evil", "1", registry.Image{Layers: []map[string]registry.File{files}, Annotations: evil, Config: v1.ImageConfig{Labels: evil}})
	}
	if err != nil {
		t.Fatal(err)
	}
	image := &cri.ImageSpec{Image: w.Addr + "/test/evil:1", Annotations: map[string]string{"umask.crio.io": "077"}}
	if _, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: image}); err != nil {
		t.Fatal(err)
	}
	runCases(t, w, pod, []specCase{{"evil", "umask; ls /dev | grep -c fuse", "0022\n0", func(c *cri.ContainerConfig) { c.Image = image }}})
	ctr := w.Create(pod, "spec", "true", func(c *cri.ContainerConfig) { c.Image = image })
	data, err := os.ReadFile(filepath.Join(factsOf(w, ctr).Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"umask.crio.io": false, "run.oci.x": false, "forged": false, `"note2":"kept"`: true, `"io.container.manager":"cri-o"`: true,
		`"io.kubernetes.cri-o.SandboxID":"` + pod: true} {
		if strings.Contains(string(data), text) != want {
			t.Errorf("config.json has %s: %v, want %v", text, !want, want)
		}
	}
}

// A workload's pods may use what it allows, and get its resources.
//
// Options: crio.runtime.workloads.NAME.activation_annotation, crio.runtime.workloads.NAME.annotation_prefix,
// crio.runtime.workloads.NAME.allowed_annotations, crio.runtime.workloads.NAME.resources.cpushares,
// crio.runtime.workloads.NAME.resources.cpuquota, crio.runtime.workloads.NAME.resources.cpuperiod,
// crio.runtime.workloads.NAME.resources.cpuset, crio.runtime.workloads.NAME.resources.cpulimit
func TestWorkloads(t *testing.T) {
	w := world.New(t, world.Options{Extra: `[crio.runtime.workloads.slow]
activation_annotation = "example.org/slow"
annotation_prefix = "example.org"
allowed_annotations = ["umask.crio.io"]
[crio.runtime.workloads.slow.resources]
cpushares = 77
cpulimit = 250
cpuperiod = 50000
cpuset = "0"
`})
	w.Pull()
	shares := "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || { cat /sys/fs/cgroup/cpu.weight; cut -d' ' -f1 /sys/fs/cgroup/cpu.max; }; umask; grep Cpus_allowed_list /proc/self/status | cut -f2"
	slow := w.Pod("slow", annotated("example.org/slow", "", "umask.crio.io", "027", "example.org/own", `{"cpushares": 99, "cpuquota": 30000}`, "example.org/bad", "{"))
	plain := w.Pod("plain", annotated("umask.crio.io", "027"))
	asked := func(c *cri.ContainerConfig) { c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 500} }
	runCases(t, w, slow, []specCase{
		{"all", shares, "(77\n|[0-9]+\n)12500\n0027\n0", asked},
		{"own", shares, "(99\n|[0-9]+\n)30000\n0027\n0", asked},
	})
	runCases(t, w, plain, []specCase{{"all", shares, "(500\n|[0-9]+\n)(-1|max)\n0022\n.*", asked}})
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: slow, Config: w.CtrConfig("bad", "true"), SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), "example.org/bad") {
		t.Errorf("a broken override: %v", err)
	}
}

// Pods with annotated user namespaces have ids of their own, also after a restart.
func TestUserNamespaceByAnnotation(t *testing.T) {
	w := world.New(t, world.Options{Extra: allowAll, Late: true})
	sub := filepath.Join(w.Dir, "sub")
	if err := os.WriteFile(sub, []byte("containers:300000:200000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		if _, err := os.Stat(path); err != nil {
			t.Skip(path + " is not there to be mounted over")
		}
		if err := unix.Mount(sub, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		w.AtEnd(func() { unix.Unmount(path, unix.MNT_DETACH) })
	}
	w.Start()
	w.Pull()
	script := "awk '{print $1, $2, $3}' /proc/self/uid_map; id -u; stat -c %u /bin /dev/shm"
	first := w.Pod("first", annotated("userns-mode.crio.io", "auto:size=65536"))
	runCases(t, w, first, []specCase{{"ids", script, "0 300000 65536\n0\n0\n0", nil}})
	w.Restart()
	second := w.Pod("second", annotated("userns-mode.crio.io", "auto:size=65536"))
	runCases(t, w, second, []specCase{{"ids", script, "0 365536 65536\n0\n0\n0", nil}})
	runCases(t, w, first, []specCase{{"again", script, "0 300000 65536\n0\n0\n0", nil}})
	keep := w.Pod("keep", func(c *cri.PodSandboxConfig) {
		annotated("userns-mode.crio.io", "auto:size=5000;keep-id=true")(c)
		c.Linux.SecurityContext.RunAsUser = id(1000)
	})
	runCases(t, w, keep, []specCase{{"ids", "grep -w 1000 /proc/self/uid_map | awk '{print $1, $2, $3}'; id -u", ".*1000 1000 1.*1000",
		security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) })}})
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: first}); err != nil {
		t.Fatal(err)
	}
	third := w.Pod("third", annotated("userns-mode.crio.io", "auto:size=65536"))
	runCases(t, w, third, []specCase{{"ids", script, "0 300000 65536\n0\n0\n0", nil}})
}

// Hooks run at each stage, with the container's state, for the containers that they are
// meant for.
//
// Options: crio.runtime.hooks_dir
func TestHooks(t *testing.T) {
	hooks, log := t.TempDir(), filepath.Join(t.TempDir(), "log")
	w := world.New(t, world.Options{Extra: fmt.Sprintf("[crio.runtime]\nhooks_dir = [%q]\n", hooks)})
	w.Pull()
	for _, stage := range []string{"prestart", "createRuntime", "poststart", "poststop"} {
		text := fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","tr , '\\n' | grep '\"id\"' | tr -d '\\n' >>%s; echo ' %s' >>%[1]s"]},"when":{"annotations":{"^hooked$":"^yes$"}},"stages":["%[2]s"]}`, log, stage)
		if err := os.WriteFile(filepath.Join(hooks, stage+".json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// In the container's namespaces; the second sees its root file system.
	shm := filepath.Join(w.Dir, "run/pods/*/shm")
	for stage, at := range map[string]string{"createContainer": shm, "startContainer": "/dev/shm"} {
		text := fmt.Sprintf(`{"version":"1.0.0","hook":{"path":"/bin/sh","args":["sh","-c","cat >/dev/null; echo %s >>$(ls -d %s)/hooks"]},"when":{"annotations":{"^hooked$":"^yes$"}},"stages":["%[1]s"]}`, stage, at)
		if err := os.WriteFile(filepath.Join(hooks, stage+".json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(hooks, "broken.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := w.Pod("other", annotated("hooked", "no"))
	w.Output(other, "main", "true", nil)
	if data, err := os.ReadFile(log); err == nil {
		t.Errorf("hooks run for whom they are not meant: %s", data)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: other}); err != nil {
		t.Fatal(err)
	}
	pod := w.Pod("hooked", annotated("hooked", "yes"))
	inside, st := w.Output(pod, "main", "cat /dev/shm/hooks", nil)
	ctr := st.GetId()
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, stage := range []string{"prestart", "createRuntime", "poststart", "poststop"} {
		if !strings.Contains(string(data), " "+stage+"\n") {
			t.Errorf("%s did not run: %s", stage, data)
		}
	}
	if strings.Count(string(data), ctr) != 4 {
		t.Errorf("hooks are not told the container's state: %s", data)
	}
	if !strings.Contains(w.Log(), "broken.json") {
		t.Error("a broken hook file is not told")
	}
	if inside != "createContainer\nstartContainer\n" {
		t.Errorf("hooks in the container: %q", inside)
	}
}
