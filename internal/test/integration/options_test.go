package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// inTable adds lines to a table that crio.conf has, or a table that it has not.
func inTable(w *world.World, table, lines string) {
	w.T.Helper()
	head := "[" + table + "]\n"
	text := w.ConfText()
	if !strings.Contains(text, head) {
		text += head
	}
	w.SetConf(strings.Replace(text, head, head+lines+"\n", 1))
}

// configured starts a daemon with lines in tables: TABLE, LINES, TABLE, LINES...
func configured(t *testing.T, pairs ...string) *world.World {
	t.Helper()
	w := world.New(t, world.Options{Late: true})
	for i := 0; i < len(pairs); i += 2 {
		inTable(w, pairs[i], strings.ReplaceAll(pairs[i+1], "DIR", w.Dir))
	}
	w.Start()
	return w
}

// What the node gives every container.
//
// Options: crio.runtime.default_ulimits, crio.runtime.default_capabilities, crio.runtime.default_sysctls,
// crio.runtime.additional_devices, crio.runtime.pids_limit, crio.runtime.read_only
func TestNodeDefaults(t *testing.T) {
	w := configured(t, "crio.runtime", `default_ulimits = ["nofile=100:200"]
default_capabilities = ["KILL", "NET_RAW"]
default_sysctls = ["net.ipv4.ip_unprivileged_port_start=77"]
additional_devices = ["/dev/loop-control:/dev/nought:r"]
pids_limit = 55
read_only = true`)
	w.Pull()
	pod := w.Pod("defaults", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	for script, want := range map[string]string{
		"ulimit -Sn; ulimit -Hn":                            "100\n200",
		"grep CapPrm: /proc/1/status":                       "CapPrm:\t0000000000002020",
		": </dev/nought && echo opened":                     "opened",
		"(: >>/dev/nought) 2>/dev/null || echo denied":      "denied",
		"touch /x 2>/dev/null || echo read-only":            "read-only",
		"touch /tmp/x /run/x /var/tmp/x && echo written":    "written",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "77",
	} {
		out, _ := w.Exec(ctr, script)
		if out != want {
			t.Errorf("%s: %q, want %q", script, out, want)
		}
	}
	if got := limit(t, w, pod, ctr, "pids.max", "pids.max"); got != "55" {
		t.Errorf("pids.max is %s", got)
	}
}

// Where the daemon keeps things.
//
// Options: crio.root, crio.runroot, crio.log_dir, crio.state_dir, crio.run_dir, crio.api.listen,
// crio.runtime.container_exits_dir, crio.runtime.container_attach_socket_dir, crio.image.big_files_temporary_dir,
// crio.network.network_dir, crio.network.cni_cache_dir, crio.nri.nri_listen
func TestPlaces(t *testing.T) {
	w := configured(t, "crio.runtime", "container_exits_dir = \"DIR/ends\"\ncontainer_attach_socket_dir = \"DIR/att\"", "crio.image", "big_files_temporary_dir = \"DIR/big\"")
	w.Pull()
	pod := w.Pod("places", func(c *cri.PodSandboxConfig) { c.LogDirectory = "" })
	ctr := w.Ctr(pod, "main", "echo said; exec sleep 1000", func(c *cri.ContainerConfig) { c.LogPath = "main.log" })
	short := w.Ctr(pod, "short", "exit 3", nil)
	w.WaitExit(short)
	for _, pattern := range []string{
		"root/overlay-images/images.json", "runroot/overlay-containers", "log/*/main.log", "state/pods/" + pod, "state/containers/" + ctr, "run/pods/" + pod + "/net",
		"run/containers/" + ctr + "/config.json", "crio.sock", "ends/" + short, "att/" + ctr + "/attach", "big/monocrio-pulls-*", "cni/results/*", "nri.sock",
	} {
		if found, _ := filepath.Glob(filepath.Join(w.Dir, pattern)); len(found) == 0 {
			t.Errorf("there is no %s", pattern)
		}
	}
}

// Others find the namespaces of pods where they look for them, as files.
//
// Options: crio.runtime.namespaces_dir
func TestNamespacesDir(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	ns := filepath.Join(w.Dir, "others")
	w.Start("CONTAINER_NAMESPACES_DIR=" + ns)
	w.Pull()
	pod := w.Pod("exposed", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	for _, kind := range []string{"net", "ipc", "uts"} {
		path := filepath.Join(ns, kind+"ns", pod)
		var there, inside unix.Stat_t
		if err := unix.Stat(path, &there); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", factsOf(w, ctr).Pid, kind), &inside); err != nil || there.Ino != inside.Ino {
			t.Errorf("%s is not the container's: %d, %d, %v", path, there.Ino, inside.Ino, err)
		}
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(ns, "*", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.Stop()
	w.Start("CONTAINER_NAMESPACES_DIR=" + ns)
}

// An image store of its own takes what is pulled; the driver vfs needs no overlay.
//
// Options: crio.imagestore, crio.storage_driver, crio.storage_option
func TestStores(t *testing.T) {
	for name, c := range map[string]struct{ lines, image, mount string }{
		"imagestore": {"imagestore = \"DIR/pulled\"", "pulled/overlay-images/images.json", "overlay"},
		"vfs":        {"storage_driver = \"vfs\"", "root/vfs-images/images.json", ""},
		"option":     {"storage_option = [\"overlay.mountopt=noatime\"]", "root/overlay-images/images.json", "noatime"},
	} {
		t.Run(name, func(t *testing.T) {
			w := configured(t, "crio", c.lines)
			image := w.Pull()
			if text, err := os.ReadFile(filepath.Join(w.Dir, c.image)); err != nil || !strings.Contains(string(text), image) {
				t.Errorf("%s does not name the image: %v", c.image, err)
			}
			// A kubelet takes two paths for two file systems.
			fs, err := w.Images.ImageFsInfo(w.Ctx(), &cri.ImageFsInfoRequest{})
			if err != nil || (fs.GetImageFilesystems()[0].GetFsId().GetMountpoint() != fs.GetContainerFilesystems()[0].GetFsId().GetMountpoint()) != (name == "imagestore") {
				t.Errorf("file systems: %v, %v", fs, err)
			}
			ctr := w.Ctr(w.Pod("stores", nil), "main", "exec sleep 1000", nil)
			out, _ := w.Exec(ctr, "grep ' / ' /proc/self/mounts")
			if !strings.Contains(out, c.mount) || c.mount == "" && strings.Contains(out, "overlay") {
				t.Errorf("the root is mounted as %q", out)
			}
		})
	}
}

// VOLUMEs of an image: folders in the layer, mounts beside it, or nothing.
//
// Options: crio.image.image_volumes
func TestImageVolumeModes(t *testing.T) {
	for mode, want := range map[string]string{"mkdir": "there", "bind": "there mounted", "ignore": ""} {
		t.Run(mode, func(t *testing.T) {
			w := configured(t, "crio.image", fmt.Sprintf("image_volumes = %q", mode))
			files, err := registry.Busybox()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Registry.Add("volumes", "v1", registry.Image{Layers: []map[string]registry.File{files}, Config: v1.ImageConfig{Volumes: map[string]struct{}{"/data": {}}}}); err != nil {
				t.Fatal(err)
			}
			w.Image = w.Addr + "/volumes:v1"
			w.Pull()
			pod := w.Pod("volumes", nil)
			out, _ := w.Output(pod, "main", "test -d /data && echo there; grep -q ' /data ' /proc/self/mounts && echo mounted; true", nil)
			if got := strings.Join(strings.Fields(out), " "); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// The network that pods join, and the folders of plugins, the old option's too.
//
// Options: crio.network.cni_default_network, crio.network.plugin_dirs, crio.network.plugin_dir
func TestNetworkChoice(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	inTable(w, "crio.network", "cni_default_network = \"second\"\nplugin_dir = \""+w.Dir+"/old\"")
	if err := os.Mkdir(filepath.Join(w.Dir, "old"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A plugin that is nobody's but the test's.
	script := "#!/bin/sh\ncase $CNI_COMMAND in ADD) echo added >>" + w.Dir + "/calls; echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.98.7.6/24\"}]}';; VERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}';; esac\n"
	if err := os.WriteFile(filepath.Join(w.Dir, "old/mine"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.NetDir, "20-second.conflist"), []byte(`{"cniVersion":"1.0.0","name":"second","plugins":[{"type":"mine"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Start()
	if ip := w.IP(w.Pod("second", nil)); ip != "10.98.7.6" {
		t.Errorf("the pod's address is %s", ip)
	}
	if text, err := os.ReadFile(filepath.Join(w.Dir, "calls")); err != nil || string(text) != "added\n" {
		t.Errorf("the plugin was called: %q, %v", text, err)
	}
}

// Messages larger than the limits are refused, by both sides' rules.
//
// Options: crio.api.grpc_max_send_msg_size, crio.api.grpc_max_recv_msg_size
func TestMessageSizes(t *testing.T) {
	w := world.New(t, world.Options{API: "grpc_max_recv_msg_size = 20000\ngrpc_max_send_msg_size = 2000"})
	big := w.PodConfig("big")
	big.Annotations = map[string]string{"x": strings.Repeat("x", 30000)}
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: big})
	refused(t, "a request that is too large", err, codes.ResourceExhausted, "20000")
	pod := w.Pod("fits", func(c *cri.PodSandboxConfig) { c.Annotations = map[string]string{"x": strings.Repeat("x", 3000)} })
	_, err = w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	refused(t, "an answer that is too large", err, codes.ResourceExhausted, "2000")
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
}

// Host ports are not mapped where the node says so.
//
// Options: crio.runtime.disable_hostport_mapping
func TestNoHostPorts(t *testing.T) {
	w := configured(t, "crio.runtime", "disable_hostport_mapping = true")
	w.Pod("ports", func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: 8097}}
	})
	rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil || strings.Contains(string(rules), "8097") {
		t.Errorf("the host port is mapped: %v\n%s", err, rules)
	}
}

// A mount's source that is absent is made, but for those that must not be.
//
// Options: crio.runtime.absent_mount_sources_to_reject
func TestAbsentMountSources(t *testing.T) {
	w := configured(t, "crio.runtime", "absent_mount_sources_to_reject = [\"DIR/etc/hostname\"]")
	w.Pull()
	pod := w.Pod("absent", nil)
	from := func(name string) ctrChange {
		return withVolume(&cri.Mount{HostPath: filepath.Join(w.Dir, name), ContainerPath: "/m"})
	}
	w.Ctr(pod, "made", "true", from("made"))
	if fi, err := os.Stat(filepath.Join(w.Dir, "made")); err != nil || !fi.IsDir() {
		t.Errorf("an absent source is not made: %v", err)
	}
	c := w.CtrConfig("refused", "true")
	from("etc/hostname")(c)
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("absent")})
	refused(t, "a source that must not be made", err, codes.InvalidArgument, "etc/hostname")
	if _, err := os.Stat(filepath.Join(w.Dir, "etc")); err == nil {
		t.Error("it was made all the same")
	}
}

// A root file system that cannot be pivoted is moved.
//
// Options: crio.runtime.no_pivot
func TestNoPivot(t *testing.T) {
	w := configured(t, "crio.runtime", "no_pivot = true")
	w.Pull()
	ctr := w.Ctr(w.Pod("pivot", nil), "main", "exec sleep 1000", nil)
	if out, _ := w.Exec(ctr, "echo inside; ls -d /proc/self"); out != "inside\n/proc/self" {
		t.Errorf("%q", out)
	}
	// After pivot_root(2) the root is the container's own mount; moved, it hides ours.
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", factsOf(w, ctr).Pid))
	if err != nil {
		t.Fatal(err)
	}
	if first, _, _ := strings.Cut(string(mounts), "\n"); !strings.Contains(first, " / / ") {
		t.Errorf("the first mount is %s", first)
	}
}

// The monitor that containers get: the node's old option, a handler's, and its
// environment.
//
// Options: crio.runtime.conmon, crio.runtime.runtimes.NAME.monitor_path, crio.runtime.runtimes.NAME.runtime_type,
// crio.runtime.runtimes.NAME.runtime_path
func TestMonitorChoice(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	wrapper := func(name string) string {
		path := filepath.Join(w.Dir, name)
		text := fmt.Sprintf("#!/bin/sh\ncase $1 in --version) ;; *) echo %s >>%s/used;; esac\nexec %s conmon \"$@\"\n", name, w.Dir, w.Bin())
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inTable(w, "crio.runtime", "conmon = \""+wrapper("nodes")+"\"")
	inTable(w, "crio.runtime.runtimes.other", "runtime_type = \"oci\"\nruntime_path = \""+w.Dir+"/run/bin/runc\"\nmonitor_path = \""+wrapper("handlers")+"\"")
	w.Start()
	w.Pull()
	for handler, want := range map[string]string{"": "nodes", "other": "handlers"} {
		os.Remove(filepath.Join(w.Dir, "used"))
		config := w.PodConfig("monitor" + handler)
		r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		if err != nil {
			t.Fatal(err)
		}
		ctr := w.Ctr(r.GetPodSandboxId(), "main"+handler, "exit 4", nil)
		if st := w.WaitExit(ctr); st.GetExitCode() != 4 {
			t.Errorf("%q: %v", handler, st)
		}
		if text, _ := os.ReadFile(filepath.Join(w.Dir, "used")); strings.TrimSpace(string(text)) != want {
			t.Errorf("handler %q: the monitor was %q, want %q", handler, text, want)
		}
	}
}

// Who makes cgroups, and what the kubelet is told of it.
//
// Options: crio.runtime.cgroup_manager
func TestCgroupManager(t *testing.T) {
	drivers := map[string]cri.CgroupDriver{"cgroupfs": cri.CgroupDriver_CGROUPFS}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		drivers["systemd"] = cri.CgroupDriver_SYSTEMD
	}
	for name, want := range drivers {
		w := configured(t, "crio.runtime", fmt.Sprintf("cgroup_manager = %q", name))
		r, err := w.RuntimeConfig(w.Ctx(), &cri.RuntimeConfigRequest{})
		if err != nil || r.GetLinux().GetCgroupDriver() != want {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		w.Pull()
		pod := w.Pod("driver", nil)
		ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", factsOf(w, ctr).Pid))
		if err != nil || strings.Contains(string(text), ".scope") != (name == "systemd") {
			t.Errorf("%s: the container is in %s, %v", name, text, err)
		}
	}
}

// What takes longer than the node allows is undone.
//
// Options: crio.runtime.container_create_timeout
func TestCreateTimeout(t *testing.T) {
	w := world.New(t, world.Options{Late: true, Net: `{"cniVersion":"1.0.0","name":"slow","plugins":[{"type":"slow"}]}`})
	inTable(w, "crio.runtime", "container_create_timeout = \"1s\"")
	if err := os.MkdirAll(filepath.Join(w.Dir, "plugins"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncase $CNI_COMMAND in ADD) sleep 1000 & echo $! >" + w.Dir + "/pid; wait;; esac\n"
	if err := os.WriteFile(filepath.Join(w.Dir, "plugins/slow"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Start()
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("slow")})
	refused(t, "a pod whose network takes longer", err, codes.DeadlineExceeded, "cannot make pod")
	text, err := os.ReadFile(filepath.Join(w.Dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	w.Eventually("what the plugin has started is gone", func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(text)))
		return err != nil
	})
}

// Without no_sync_log a monitor forces the log to the disk; both ways no line is lost.
// The old node-wide option is the handlers' default.
//
// Options: crio.runtime.no_sync_log
func TestNoSyncLog(t *testing.T) {
	w := configured(t, "crio.runtime", "no_sync_log = true")
	w.Pull()
	ctr := w.Ctr(w.Pod("sync", nil), "main", "exec sleep 1000", nil)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", factsOf(w, ctr).MonitorPid))
	if err != nil {
		t.Fatal(err)
	}
	if args := strings.ReplaceAll(string(text), "\x00", " "); !strings.Contains(args, " --no-sync-log ") {
		t.Errorf("the monitor is told %s", args)
	}
}
