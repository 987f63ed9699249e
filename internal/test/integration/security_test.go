package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// specCase runs a script in a container that is asked for in some way and looks at
// what it prints.
type specCase struct {
	name, script string
	want         string // a regular expression for the whole output
	change       ctrChange
}

func runCases(t *testing.T, w *world.World, pod string, cases []specCase) {
	t.Helper()
	for _, c := range cases {
		out, st := w.Output(pod, c.name, c.script, c.change)
		if !regexp.MustCompile("(?s)^" + c.want + "$").MatchString(strings.TrimSpace(out)) {
			t.Errorf("%s: got %q, want %q (code %d %s)", c.name, out, c.want, st.GetExitCode(), st.GetMessage())
		}
	}
}

func security(change func(*cri.LinuxContainerSecurityContext)) ctrChange {
	return func(c *cri.ContainerConfig) { change(c.Linux.SecurityContext) }
}

func id(n int64) *cri.Int64Value { return &cri.Int64Value{Value: n} }

const (
	whoami = "id -u; id -g; id -G"
	capEff = "grep CapEff /proc/self/status | awk '{print $2}'"
)

func TestUsersAndCapabilities(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("users", nil)
	profile := func(p cri.SecurityProfile_ProfileType, ref string) ctrChange {
		return security(func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: p, LocalhostRef: ref}
		})
	}
	noDirs := filepath.Join(w.Dir, "no-dirs.json")
	if err := os.WriteFile(noDirs, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	caps := func(change func(*cri.Capability)) ctrChange {
		return security(func(s *cri.LinuxContainerSecurityContext) { s.Capabilities = &cri.Capability{}; change(s.Capabilities) })
	}
	runCases(t, w, pod, []specCase{
		{"root", whoami, "0\n0\n0", nil},
		{"by-id", whoami, "1000\n1000\n1000 2000", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) })},
		{"by-name", whoami, "1001\n1002\n1002 2000", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "bob" })},
		{"unknown-id", whoami, "4711\n0\n0", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(4711) })},
		{"group", whoami, "1000\n3000\n3000 2000", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = id(1000), id(3000) })},
		{"merge", whoami, "1000\n1000\n1000 (2000 4000|4000 2000)", security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = id(1000), []int64{4000}
		})},
		{"strict", whoami, "1000\n1000\n(1000 )?4000", security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups, s.SupplementalGroupsPolicy = id(1000), []int64{4000}, cri.SupplementalGroupsPolicy_Strict
		})},
		{"drop-all", capEff, "0{16}", caps(func(c *cri.Capability) { c.DropCapabilities = []string{"ALL"} })},
		{"drop-all-add-one", capEff, "0{12}1000", caps(func(c *cri.Capability) {
			c.DropCapabilities, c.AddCapabilities = []string{"ALL"}, []string{"NET_ADMIN"}
		})},
		{"no-caps-for-users", capEff, "0{16}", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) })},
		{"ambient", capEff, "0{12}1000", func(c *cri.ContainerConfig) {
			caps(func(p *cri.Capability) { p.AddAmbientCapabilities = []string{"NET_ADMIN"} })(c)
			c.Linux.SecurityContext.RunAsUser = id(1000)
		}},
		{"privileges-may-grow", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0", nil},
		{"no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1", security(func(s *cri.LinuxContainerSecurityContext) { s.NoNewPrivs = true })},
		{"writable", "touch /x && echo yes", "yes", nil},
		{"read-only", "touch /x 2>&1; touch /dev/shm/x && echo shm", ".*Read-only file system.*shm", security(func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true })},
		{"masked", "cat /etc/group; ls /tmp/..; ls /root | wc -l", ".*", security(func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"/etc/group", "/no/such"} })},
		{"masked-file", "cat /etc/group | wc -c", "0", security(func(s *cri.LinuxContainerSecurityContext) { s.MaskedPaths = []string{"/etc/group"} })},
		{"read-only-path", "echo x 2>&1 >/etc/group; touch /root/ok && echo rest", ".*Read-only file system.*rest", security(func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyPaths = []string{"/etc"} })},
		{"seccomp-default", "grep Seccomp: /proc/self/status; busybox unshare -U true 2>&1", "Seccomp:\t2.*Operation not permitted", profile(cri.SecurityProfile_RuntimeDefault, "")},
		{"seccomp-none", "grep Seccomp: /proc/self/status", "Seccomp:\t0", profile(cri.SecurityProfile_Unconfined, "")},
		{"seccomp-localhost", "mkdir /x 2>&1; touch /y && echo rest", ".*(Operation not permitted|Permission denied).*rest", profile(cri.SecurityProfile_Localhost, noDirs)},
	})
	st := w.Status(w.Create(pod, "status", "true", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1000) })))
	if u := st.GetUser().GetLinux(); u.GetUid() != 1000 || u.GetGid() != 1000 || len(u.GetSupplementalGroups()) == 0 {
		t.Errorf("the status tells of the user: %v", st.GetUser())
	}
	strong := w.Pod("strong", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	full := "0*[137]f{4,}"
	if data, err := os.ReadFile("/proc/self/status"); err == nil { // this machine may lack some
		_, rest, _ := strings.Cut(string(data), "CapBnd:\t")
		full, _, _ = strings.Cut(rest, "\n")
	}
	runCases(t, w, strong, []specCase{
		{"privileged", capEff + "; grep Seccomp: /proc/self/status; test -e /dev/full && echo devices; mount -t tmpfs x /tmp && echo mounts", full + "\nSeccomp:\t0\ndevices\nmounts",
			security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true })},
		{"beside-privileged", "mount -t tmpfs x /tmp 2>&1", ".*(denied|not permitted).*", nil},
	})
}

func TestDevicesAndMounts(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("mounts", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	dir := filepath.Join(w.Dir, "data")
	for _, d := range []string{dir, dir + "/sub", dir + "/late", dir + "/back"} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	w.AtEnd(func() {
		for _, d := range []string{"/sub", "/late", "/back"} {
			unix.Unmount(dir+d, unix.MNT_DETACH)
		}
	})
	mount := func(m *cri.Mount) ctrChange {
		m.HostPath, m.ContainerPath = dir, "/data"
		return func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{m} }
	}
	device := filepath.Join(w.Dir, "device") // one that containers do not have anyway
	if err := unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	dev := func(permissions string) ctrChange {
		return func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: device, ContainerPath: "/dev/extra", Permissions: permissions}}
		}
	}
	use := "(: </dev/extra) 2>&1 && echo reads; (: >/dev/extra) 2>&1 && echo writes; true"
	touch := "touch /data/x 2>&1 && echo top; touch /data/sub/x 2>&1 && echo sub"
	runCases(t, w, pod, []specCase{
		{"rw", touch, "top\nsub", mount(&cri.Mount{})},
		{"ro", touch, ".*Read-only.*\nsub", mount(&cri.Mount{Readonly: true})},
		{"rro", touch, ".*Read-only.*Read-only[^\n]*", mount(&cri.Mount{Readonly: true, RecursiveReadOnly: true})},
		{"device", use, "reads\nwrites", dev("rwm")},
		{"device-read", use, "reads\n.*not permitted.*", dev("r")},
		{"device-write", use, ".*not permitted.*\nwrites", dev("w")},
		{"device-absent", "ls /dev/extra 2>&1", ".*No such file.*", nil},
	})
	slave := w.Ctr(pod, "slave", "sleep 1000", mount(&cri.Mount{Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}))
	private := w.Ctr(pod, "private", "sleep 1000", mount(&cri.Mount{}))
	if err := unix.Mount("tmpfs", dir+"/late", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/late/here", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := w.Exec(slave, "ls /data/late"); out != "here" {
		t.Errorf("a later mount of the host in a container that wants it: %q", out)
	}
	if out, _ := w.Exec(private, "ls /data/late"); out != "" {
		t.Errorf("a later mount of the host in a container that does not: %q", out)
	}
	w.Output(pod, "both", "mount -t tmpfs x /data/back && touch /data/back/there", func(c *cri.ContainerConfig) {
		mount(&cri.Mount{Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL})(c)
		c.Linux.SecurityContext.Privileged = true
	})
	if _, err := os.Stat(dir + "/back/there"); err != nil {
		t.Errorf("a mount of the container does not reach the host: %v", err)
	}
}

// limit reads a file of a container's cgroup, in either version.
func limit(t *testing.T, w *world.World, pod, ctr, v1, v2 string) string {
	t.Helper()
	dir := podFactsOf(w, pod).Cgroup + "/crio-" + ctr
	for _, p := range []string{filepath.Join("/sys/fs/cgroup", strings.SplitN(v1, ".", 2)[0], dir, v1), filepath.Join("/sys/fs/cgroup", dir, v2), filepath.Join("/sys/fs/cgroup", dir+".scope", v2)} {
		if data, err := os.ReadFile(p); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Errorf("neither %s nor %s is in cgroup %s", v1, v2, dir)
	return ""
}

// Options: crio.runtime.log_size_max, crio.runtime.pids_limit
func TestLimits(t *testing.T) {
	w := world.New(t, world.Options{Extra: "[crio.runtime]\npids_limit = 77\nlog_size_max = 8192\n"})
	w.Pull()
	pod := w.Pod("limits", nil)
	resources := func(r *cri.LinuxContainerResources) ctrChange {
		return func(c *cri.ContainerConfig) { c.Linux.Resources = r }
	}
	ctr := w.Ctr(pod, "limited", "sleep 1000", resources(&cri.LinuxContainerResources{CpuShares: 512, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 << 20}))
	weight := fmt.Sprint(cgroup.WeightOf(512))
	for _, c := range []struct{ v1, v2, one, two string }{
		{"cpu.shares", "cpu.weight", "512", weight}, {"cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		{"memory.limit_in_bytes", "memory.max", "67108864", "67108864"}, {"pids.max", "pids.max", "77", "77"},
	} {
		if got := limit(t, w, pod, ctr, c.v1, c.v2); got != c.one && got != c.two {
			t.Errorf("%s is %s", c.v1, got)
		}
	}
	runCases(t, w, pod, []specCase{
		{"small", "echo runs", "runs", resources(&cri.LinuxContainerResources{MemoryLimitInBytes: 12 << 20})},
		{"oom-score", "cat /proc/self/oom_score_adj", "500", resources(&cri.LinuxContainerResources{OomScoreAdj: 500})},
		{"huge-pages", "echo runs", "runs", resources(&cri.LinuxContainerResources{HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}}})},
	})
	_, st := w.Output(pod, "chatty", "yes 0123456789012345678901234567890 | head -n 5000", nil)
	if fi, err := os.Stat(st.GetLogPath()); err != nil || fi.Size() > 8192 || fi.Size() == 0 {
		t.Errorf("a log limited to 8192 bytes: %v %v", fi, err)
	}
}

func TestNamespaces(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pidMode := func(m cri.NamespaceMode, target string) ctrChange {
		return security(func(s *cri.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &cri.NamespaceOption{Pid: m, TargetId: target}
		})
	}
	plain := w.Pod("plain", func(c *cri.PodSandboxConfig) {
		c.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "81"}
	})
	runCases(t, w, plain, []specCase{
		{"own-pid", "echo $$", "1", nil},
		{"hostname", "hostname; cat /etc/hostname; echo $HOSTNAME", "plain\nplain\nplain", nil},
		{"resolv-conf", "cat /etc/resolv.conf", "search a.example b.example\nnameserver 192.0.2.53\noptions ndots:5", nil},
		{"hosts", "grep plain /etc/hosts | wc -l; grep localhost /etc/hosts | wc -l", "2\n2", nil},
		{"shm", "df -k /dev/shm | tail -n 1 | awk '{print $2}'", "65536", nil},
		{"sysctl", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "81", nil},
		{"working-dir", "pwd", "/made/here", func(c *cri.ContainerConfig) { c.WorkingDir = "/made/here" }},
		{"env", "echo $FROM $NEW; env | grep -c ^FROM=", "request value\n1", func(c *cri.ContainerConfig) {
			c.Envs = []*cri.KeyValue{{Key: "FROM", Value: []byte("early")}, {Key: "NEW", Value: []byte("value")}, {Key: "FROM", Value: []byte("request")}}
		}},
		{"image-command", "", "default command", func(c *cri.ContainerConfig) { c.Command = nil }},
		{"no-tty", "tty; true", "not a tty", nil},
		{"tty", "tty; true", "/dev/pts/0", func(c *cri.ContainerConfig) { c.Tty = true }},
		{"stdin-once", "cat; echo end", "end", nil},
	})
	first := w.Ctr(plain, "first", "exec sleep 1234", nil)
	runCases(t, w, plain, []specCase{{"target", "cat /proc/1/cmdline | head -c 5", "sleep", pidMode(cri.NamespaceMode_TARGET, first)}})

	shared := w.Pod("shared", sharedPID)
	w.Ctr(shared, "one", "exec sleep 4321", pidMode(cri.NamespaceMode_POD, ""))
	runCases(t, w, shared, []specCase{{"two", "cat /proc/1/comm; ps | grep -v grep | grep -c 'sleep 4321'", "pause\n1", pidMode(cri.NamespaceMode_POD, "")}})

	ipc, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	host := w.Pod("host", func(c *cri.PodSandboxConfig) {
		o := c.Linux.SecurityContext.NamespaceOptions
		o.Pid, o.Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
	})
	runCases(t, w, host, []specCase{{"in-host", fmt.Sprintf("busybox readlink /proc/self/ns/ipc; test -d /proc/%d && echo sees the test", os.Getpid()), regexp.QuoteMeta(ipc) + "\nsees the test",
		security(func(s *cri.LinuxContainerSecurityContext) {
			s.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE}
		})}})

	mapped := w.Pod("mapped", func(c *cri.PodSandboxConfig) {
		m := []*cri.IDMapping{{ContainerId: 0, HostId: 100000, Length: 65536}}
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: m, Gids: m}
	})
	runCases(t, w, mapped, []specCase{{"mapped", "id -u; awk '{print $1,$2,$3}' /proc/self/uid_map; touch /x && stat -c %u /x /bin; hostname", "0\n0 100000 65536\n0\n0\nmapped", nil}})
	long := w.Ctr(mapped, "long", "sleep 1000", nil)
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", factsOf(w, long).Pid), &st); err != nil || st.Uid != 100000 {
		t.Errorf("the mapped root is user %d of the node, %v", st.Uid, err)
	}
}

func TestStopSignals(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("signals", nil)
	script := "trap 'exit 15' TERM; trap 'exit 10' USR1; trap 'exit 37' 37; echo ready; while :; do sleep 0.02; done"
	for _, c := range []struct {
		name   string
		signal cri.Signal
		code   int32
	}{{"default", cri.Signal_SIGNAL_RUNTIME_DEFAULT, 15}, {"usr1", cri.Signal_SIGNAL_SIGUSR1, 10}, {"real-time", cri.Signal_SIGNAL_SIGRTMINPLUS3, 37}} {
		id := w.Ctr(pod, c.name, script, func(cc *cri.ContainerConfig) { cc.StopSignal = c.signal })
		w.Eventually("it handles signals", func() bool { return strings.Contains(w.LogText(w.Status(id).GetLogPath()), "ready") })
		if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
			t.Error(err)
		}
		if st := w.Status(id); st.GetExitCode() != c.code {
			t.Errorf("%s: code %d, want %d", c.name, st.GetExitCode(), c.code)
		}
	}
}

// TestPeers runs a life over other runtimes and another monitor.
func TestPeers(t *testing.T) {
	for _, peer := range []struct{ name, bin, extra string }{
		{"runc", "runc", "[crio.runtime]\ndefault_runtime = \"peer\"\n[crio.runtime.runtimes.peer]\nruntime_path = %q\n"},
		{"crun", "crun", "[crio.runtime]\ndefault_runtime = \"peer\"\n[crio.runtime.runtimes.peer]\nruntime_path = %q\n"},
		{"conmon", "conmon", "[crio.runtime]\nconmon = %q\n"},
	} {
		t.Run(peer.name, func(t *testing.T) {
			path, err := exec.LookPath(peer.bin)
			if err != nil {
				t.Skip("there is no " + peer.bin + " on this machine")
			}
			if data, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); peer.name == "crun" && len(data) > 1 {
				t.Skip("crun refuses this machine's hybrid cgroups: the unified hierarchy has controllers too")
			}
			w := world.New(t, world.Options{Extra: fmt.Sprintf(peer.extra, path)})
			w.Pull()
			s := newSteady(w)
			for _, shared := range []bool{false, true} {
				pod := w.Pod(fmt.Sprint("peer-", shared), func(c *cri.PodSandboxConfig) {
					if shared {
						sharedPID(c)
					}
				})
				ctr := w.Ctr(pod, "c", "echo out; echo err >&2; exec sleep 1000", nil)
				if out, code := w.Exec(ctr, "echo hi; exit 3"); out != "hi" || code != 3 {
					t.Errorf("exec: %q %d", out, code)
				}
				w.Restart()
				s.check(w, "after a restart")
				if text := w.LogText(w.Status(ctr).GetLogPath()); !strings.Contains(text, "out\n") || !strings.Contains(text, "err\n") {
					t.Errorf("log: %q", text)
				}
				if _, st := w.Output(pod, "exits", "exit 5", nil); st.GetExitCode() != 5 {
					t.Errorf("code %d", st.GetExitCode())
				}
				_, st := w.Output(pod, "oom", "x=a; while :; do x=$x$x; done", func(c *cri.ContainerConfig) {
					c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 24 << 20}
				})
				if st.GetExitCode() != 137 || st.GetReason() != "OOMKilled" {
					t.Errorf("out of memory: code %d, reason %s", st.GetExitCode(), st.GetReason())
				}
				if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
					t.Error(err)
				}
				if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
					t.Error(err)
				}
			}
			s.end(w)
		})
	}
}
