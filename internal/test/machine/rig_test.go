// Package machine installs the bundle on a whole machine, runs pods by its systemd unit,
// upgrades, goes back and uninstalls, and compares the machine's files before and after.
//
// It changes the machine that it runs on, so it wants one that is thrown away and that
// says so: MONOCRIO_MACHINE names a folder laid out as a mirror for scripts/get, with the
// releases v1 (the newest) and v2 and the script itself. scripts/test-vm makes all that.
package machine

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

const (
	socket  = "/var/run/crio/crio.sock"
	lib     = "/usr/local/lib/monocrio"
	network = "/etc/cni/net.d/10-crio-bridge.conflist"
	known   = "/etc/containers/registries.conf.d/50-machine-test.conf"
)

// machine is the one that the test runs on.
type machine struct {
	*testing.T
	site, url string // of the mirror
	image     string
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
	conn   *grpc.ClientConn
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	site := os.Getenv("MONOCRIO_MACHINE")
	if site == "" {
		t.Skip("MONOCRIO_MACHINE is not set: this installs on the machine that it runs on, which must be one to throw away")
	}
	for _, need := range []string{"/run/systemd/system", "/sys/fs/cgroup/cgroup.controllers", filepath.Join(site, "get")} {
		if _, err := os.Stat(need); err != nil {
			t.Fatalf("this machine does not do: %v", err)
		}
	}
	if _, err := os.Stat(lib); err == nil {
		t.Fatalf("%s is there: this is no machine to throw away", lib)
	}
	m := &machine{T: t, site: site}
	s := httptest.NewServer(http.FileServer(http.Dir(site)))
	t.Cleanup(s.Close)
	m.url = s.URL
	var err error
	m.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	m.RuntimeServiceClient, m.images = cri.NewRuntimeServiceClient(m.conn), cri.NewImageServiceClient(m.conn)
	return m
}

// serve offers a busybox image on loopback and says so in a file for registries.conf.
func (m *machine) serve() {
	m.Helper()
	files, err := registry.Busybox()
	if err != nil {
		m.Fatal(err)
	}
	reg := &registry.Registry{}
	if _, err := reg.Add("test/busybox", "1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip,
		Config: v1.ImageConfig{Env: []string{"PATH=/bin"}}}); err != nil {
		m.Fatal(err)
	}
	addr, stop, err := reg.Serve()
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(stop)
	m.image = addr + "/test/busybox:1"
	m.write(known, fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", addr))
}

func (m *machine) write(path, text string) {
	m.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	m.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		m.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// sh runs a line of shell, which must succeed, and returns what it prints.
func (m *machine) sh(line string, env ...string) string {
	m.Helper()
	cmd := exec.Command("sh", "-euc", line)
	cmd.Env = append(append(os.Environ(), "MONOCRIO_BASE_URL="+m.url), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.Fatalf("%s: %v\n%s", line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// busybox makes a PATH in which busybox has the tools that scripts/get and install need,
// and wget in place of curl.
func (m *machine) busybox() string {
	m.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		m.Fatal(err)
	}
	dir := m.TempDir()
	for _, n := range []string{"wget", "tar", "gzip", "sha256sum", "sh", "uname", "mkdir", "rm", "rmdir", "cp", "ln", "ls", "mv", "cat"} {
		if err := os.Symlink(path, filepath.Join(dir, n)); err != nil {
			m.Fatal(err)
		}
	}
	return dir
}

// unit is a property of a unit.
func (m *machine) unit(name, property string) string {
	m.Helper()
	return m.sh("systemctl show --value -p " + property + " " + name)
}

// systemctl runs it on the service, waits for the daemon's answer, and shows the journal
// if there is none.
func (m *machine) systemctl(verb string) {
	m.Helper()
	if out, err := exec.Command("systemctl", verb, "crio").CombinedOutput(); err != nil {
		m.Fatalf("systemctl %s crio: %v\n%s\n%s", verb, err, out, m.journal())
	}
	if verb == "stop" {
		return
	}
	// The unit is active when the daemon has said so: it must answer at once.
	m.conn.ResetConnectBackoff()
	if _, err := m.Version(m.ctx(), &cri.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		m.Fatalf("after systemctl %s: %v\n%s", verb, err, m.journal())
	}
	if s := m.unit("crio", "ActiveState"); s != "active" {
		m.Fatalf("after systemctl %s the unit is %s\n%s", verb, s, m.journal())
	}
}

func (m *machine) journal() string {
	out, _ := exec.Command("journalctl", "-u", "crio", "-n", "60", "--no-pager").CombinedOutput()
	return string(out)
}

// runs tells the version from which the daemon runs.
func (m *machine) runs() string {
	m.Helper()
	exe, err := os.Readlink("/proc/" + m.unit("crio", "MainPID") + "/exe")
	if err != nil {
		m.Fatal(err)
	}
	return strings.TrimPrefix(strings.TrimSuffix(exe, "/bin/monocrio"), lib+"/")
}

func (m *machine) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	m.Cleanup(cancel)
	return ctx
}

func (m *machine) eventually(what string, f func() bool) {
	m.Helper()
	for end := time.Now().Add(5 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			m.Fatalf("%s: it does not come true\n%s", what, m.journal())
		}
	}
}

// pod runs one in a slice as the kubelet makes them, with a container that has limits.
// It returns the ids.
func (m *machine) pod(name string) (pod, ctr string) {
	m.Helper()
	own := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	p := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: name, LogDirectory: "/var/log/pods/" + name,
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "machinetest-" + name + ".slice", SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: own}}}
	r, err := m.RunPodSandbox(m.ctx(), &cri.RunPodSandboxRequest{Config: p})
	if err != nil {
		m.Fatalf("RunPodSandbox: %v\n%s", err, m.journal())
	}
	c, err := m.CreateContainer(m.ctx(), &cri.CreateContainerRequest{PodSandboxId: r.GetPodSandboxId(), SandboxConfig: p, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"}, Image: &cri.ImageSpec{Image: m.image},
		Command: []string{"sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"}, LogPath: "main.log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: own}, Resources: &cri.LinuxContainerResources{CpuQuota: 50000, CpuPeriod: 100000, CpuShares: 512, MemoryLimitInBytes: 128 << 20}}}})
	if err == nil {
		_, err = m.StartContainer(m.ctx(), &cri.StartContainerRequest{ContainerId: c.GetContainerId()})
	}
	if err != nil {
		m.Fatalf("container: %v\n%s", err, m.journal())
	}
	return r.GetPodSandboxId(), c.GetContainerId()
}

// process is a container's first process: its pid and when it began.
func (m *machine) process(ctr string) string {
	m.Helper()
	r, err := m.ContainerStatus(m.ctx(), &cri.ContainerStatusRequest{ContainerId: ctr, Verbose: true})
	if err != nil {
		m.Fatalf("%v\n%s", err, m.journal())
	}
	if s := r.GetStatus().GetState(); s != cri.ContainerState_CONTAINER_RUNNING {
		m.Fatalf("the container is %v\n%s", s, m.journal())
	}
	procs := m.read(m.scope(ctr) + "/cgroup.procs")
	for _, pid := range strings.Fields(procs) {
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == "1" {
				stat := m.read("/proc/" + pid + "/stat")
				return pid + " since " + strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])[19]
			}
		}
	}
	m.Fatalf("no process 1 among %q", procs)
	return ""
}

// scope is the folder of a container's cgroup.
func (m *machine) scope(ctr string) string {
	m.Helper()
	found := m.sh("find /sys/fs/cgroup -type d -name crio-" + ctr + ".scope")
	if found == "" || strings.Contains(found, "\n") {
		m.Fatalf("scopes of the container: %q\n%s", found, m.sh("find /sys/fs/cgroup -type d -name '*machinetest*' -o -name 'crio*'"))
	}
	return found
}

// works runs a command in the container.
func (m *machine) works(ctr string) {
	m.Helper()
	r, err := m.ExecSync(m.ctx(), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"echo", "alive"}})
	if err != nil || string(r.GetStdout()) != "alive\n" {
		m.Fatalf("exec: %v %v\n%s", r, err, m.journal())
	}
}
