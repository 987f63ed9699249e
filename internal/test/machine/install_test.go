package machine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A node's life: installed over the network, started by systemd, restarted, rebooted,
// upgraded, rolled back and uninstalled, with pods that run through all but the reboot.
func TestInstallation(t *testing.T) {
	m := newMachine(t)
	files, held := m.files(), m.held()
	if len(files) < 1000 {
		t.Fatalf("only %d files are on this machine: not all were looked at", len(files))
	}

	m.sh("curl -fsSL " + m.url + "/get | sh")
	m.isVersion("v1")
	m.sh("systemctl daemon-reload; systemctl enable crio")
	m.sh("cp " + network + ".disabled " + network)
	m.serve()
	m.systemctl("start")
	m.notifies()
	if _, err := m.images.PullImage(m.ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: m.image}}); err != nil {
		t.Fatalf("%v\n%s", err, m.journal())
	}

	first, ctr := m.pod("first")
	m.limits(ctr)
	since := m.process(ctr)
	same := func(what, version string) {
		t.Helper()
		if now := m.process(ctr); now != since {
			t.Fatalf("%s: the container's process is %s, was %s", what, now, since)
		}
		m.works(ctr)
		if v := m.runs(); v != version {
			t.Fatalf("%s: the daemon runs from %s, not %s", what, v, version)
		}
	}
	m.systemctl("restart")
	same("after a restart", "v1")
	m.watched()
	same("after the watchdog's kill", "v1")

	m.sh("wget -q -O - "+m.url+"/get | sh -s -- -t v2", "PATH="+m.busybox())
	m.isVersion("v2")
	same("upgraded", "v1")
	m.sh("systemctl daemon-reload")
	m.systemctl("restart")
	same("as v2", "v2")
	second, other := m.pod("second")
	m.works(other)
	m.sh(lib + "/current/rollback; systemctl daemon-reload")
	m.isVersion("v1")
	m.systemctl("restart")
	same("as v1 again", "v1")
	m.works(other)

	m.ends(ctr)
	m.remove(first)
	m.reboot(second, other)
	m.clear()
	m.sh("rm " + network + "; rm -r " + filepath.Dir(filepath.Dir(known)) + "; umount " + bootID)
	m.sh("systemctl disable crio; " + lib + "/current/uninstall; systemctl daemon-reload")
	m.compare(files, held)
}

// isVersion checks what the installed command says.
func (m *machine) isVersion(version string) {
	m.Helper()
	commit := m.read(filepath.Join(m.site, "commit-of-"+version))
	if out := m.sh("crio version"); !strings.Contains(out, commit) {
		m.Fatalf("crio is not %s, of commit %s:\n%s", version, commit, out)
	}
	if at := m.sh("readlink " + lib + "/current"); at != version {
		m.Fatalf("the present version is %s, not %s", at, version)
	}
}

// notifies checks that the unit is what the bundle says, and that systemd was told.
func (m *machine) notifies() {
	m.Helper()
	for property, want := range map[string]string{"Type": "notify", "NotifyAccess": "main", "WatchdogUSec": "1min", "KillMode": "process", "Delegate": "yes",
		"SubState": "running", "NRestarts": "0", "UnitFileState": "enabled"} {
		if got := m.unit("crio", property); got != want {
			m.Errorf("%s of the unit is %q, not %q", property, got, want)
		}
	}
}

// watched checks that the daemon feeds the watchdog, and that one that hangs is ended and
// started again.
func (m *machine) watched() {
	m.Helper()
	fed := m.unit("crio", "WatchdogTimestampMonotonic")
	m.eventually("the daemon feeds the watchdog", func() bool {
		now := m.unit("crio", "WatchdogTimestampMonotonic")
		return now != fed && now != "0"
	})
	pid := m.unit("crio", "MainPID")
	m.sh("kill -STOP " + pid)
	m.eventually("a daemon that hangs is replaced", func() bool {
		return m.unit("crio", "NRestarts") == "1" && m.unit("crio", "ActiveState") == "active"
	})
	if now := m.unit("crio", "MainPID"); now == pid {
		m.Errorf("the daemon is still process %s", pid)
	}
	m.conn.ResetConnectBackoff()
}

// limits checks where the systemd driver has put a container, and what holds there.
func (m *machine) limits(ctr string) {
	m.Helper()
	dir := m.scope(ctr)
	if want := "/sys/fs/cgroup/machinetest.slice/machinetest-first.slice/crio-" + ctr + ".scope"; dir != want {
		m.Errorf("the container's cgroup is %s, not %s", dir, want)
	}
	for file, want := range map[string]string{"cpu.max": "50000 100000", "memory.max": "134217728"} {
		if got := m.read(filepath.Join(dir, file)); got != want {
			m.Errorf("%s is %q, not %q", file, got, want)
		}
	}
	scope := filepath.Base(dir)
	for property, want := range map[string]string{"ActiveState": "active", "MemoryMax": "134217728", "CPUQuotaPerSecUSec": "500ms", "Slice": "machinetest-first.slice", "Delegate": "yes"} {
		if got := m.unit(scope, property); got != want {
			m.Errorf("%s of the scope is %q, not %q", property, got, want)
		}
	}
}

// ends stops a container by the signal that it handles.
func (m *machine) ends(ctr string) {
	m.Helper()
	if _, err := m.StopContainer(m.ctx(), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 120}); err != nil {
		m.Fatal(err)
	}
	r, err := m.ContainerStatus(m.ctx(), &cri.ContainerStatusRequest{ContainerId: ctr})
	if err != nil || r.GetStatus().GetExitCode() != 7 {
		m.Errorf("the container ended with %v, %v, not with 7", r.GetStatus(), err)
	}
}

func (m *machine) remove(pod string) {
	m.Helper()
	if _, err := m.StopPodSandbox(m.ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		m.Fatalf("%v\n%s", err, m.journal())
	}
	if _, err := m.RemovePodSandbox(m.ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		m.Fatalf("%v\n%s", err, m.journal())
	}
}

const bootID = "/proc/sys/kernel/random/boot_id"

// reboot does to the daemon what a reboot would: no process, mount, link or cgroup of
// pods is left, /run is empty and the boot has another id.
func (m *machine) reboot(pod, ctr string) {
	m.Helper()
	m.systemctl("stop")
	id := filepath.Join(m.TempDir(), "boot_id")
	m.write(id, "11111111-2222-3333-4444-555555555555\n")
	m.sh(`for f in $(find /sys/fs/cgroup -name cgroup.kill -path '*machinetest*') $(find /sys/fs/cgroup -name cgroup.kill -path '*crio-conmon-*'); do { echo 1 >$f; } 2>/dev/null || :; done`) // one that is gone has ended
	m.eventually("the scopes are gone", func() bool {
		return m.sh("find /sys/fs/cgroup -type d -name 'crio-*'") == ""
	})
	m.sh(`systemctl stop machinetest.slice
		awk '$5 ~ "^/(run/(crio|netns|containers)|var/run|var/lib/containers)/" {print $5}' /proc/self/mountinfo | sort -r | while read -r p; do umount -l "$p"; done
		rm -rf /run/crio /run/containers
		ip link del cni0; nft flush ruleset
		mount --bind ` + id + ` ` + bootID)
	m.systemctl("start")
	p, err := m.PodSandboxStatus(m.ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || p.GetStatus().GetState() != cri.PodSandboxState_SANDBOX_NOTREADY {
		m.Errorf("after the reboot the pod is %v, %v", p.GetStatus(), err)
	}
	c, err := m.ContainerStatus(m.ctx(), &cri.ContainerStatusRequest{ContainerId: ctr})
	if err != nil || c.GetStatus().GetState() != cri.ContainerState_CONTAINER_EXITED {
		m.Errorf("after the reboot the container is %v, %v", c.GetStatus(), err)
	}
	again, next := m.pod("second2") // the node goes on
	m.works(next)
	m.remove(again)
	m.remove(pod)
}

// clear takes away what the daemon keeps, as the documentation says.
func (m *machine) clear() {
	m.Helper()
	list, err := m.ListPodSandbox(m.ctx(), &cri.ListPodSandboxRequest{})
	if err != nil || len(list.GetItems()) > 0 {
		m.Errorf("pods are left: %v, %v", list, err)
	}
	if _, err := m.images.RemoveImage(m.ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: m.image}}); err != nil {
		m.Error(err)
	}
	m.systemctl("stop")
	m.sh("crio wipe --force; crio teardown")
	m.sh("systemctl stop machinetest.slice") // as the kubelet does with its own
	m.sh("rm -r /var/log/pods")
}

// stays tells what is not removed, and why that is right: the store of images, which other
// programs share, and the daemon's records and addresses, all of them empty.
func stays(path string) bool {
	for _, p := range []string{
		"/var/lib/containers", "/var/lib/containers/storage", "/var/lib/containers/storage/*", // locks and folders
		"/var/lib/containers/storage/overlay/.has-mount-program", "/var/lib/containers/storage/overlay/l", "/var/lib/containers/storage/overlay/tempdirs",
		"/var/lib/containers/storage/overlay-*/*.json", "/var/lib/containers/storage/overlay-*/*.lock", "/var/lib/containers/storage/overlay-layers/tmp",
		"/var/lib/crio", "/var/lib/crio/clean.shutdown", "/var/lib/crio/clean.shutdown.supported", "/var/lib/crio/lock", // the last start and end
		"/var/lib/crio/containers", "/var/lib/crio/pods", "/var/lib/crio/owed", "/var/log/crio",
		"/var/lib/cni", "/var/lib/cni/results", "/var/lib/cni/networks", "/var/lib/cni/networks/crio", // of the network that was configured:
		"/var/lib/cni/networks/crio/lock", "/var/lib/cni/networks/crio/last_reserved_ip.[01]", // the next address to give
		// Until the machine is started again: links to the executable, and what the kernel's
		// overlay can do.
		"/run/crio/version", "/run/crio/bin/*", "/run/containers/storage/overlay/*", "/run/containers/storage/overlay-layers/mountpoints.*", "/run/containers/storage/pulls/overlay/*",
	} {
		if ok, _ := filepath.Match(p, path); ok {
			return true
		}
	}
	return false
}

// compare looks for what was not there before.
func (m *machine) compare(files map[string]string, held []string) {
	m.Helper()
	for _, d := range differ(files, m.files()) {
		if strings.HasPrefix(d, "new: ") && stays(strings.Fields(d)[1]) {
			continue
		}
		m.Errorf("the files are not as before: %s", d)
	}
	for _, h := range m.held() {
		if !slices.Contains(held, h) {
			m.Errorf("left in the kernel: %s", h)
		}
	}
	for _, dir := range []string{"/run/crio", "/run/containers", "/run/netns"} {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !stays(path) {
				m.Errorf("left in /run: %s", path)
			}
			return nil
		})
	}
}
