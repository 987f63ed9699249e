package integration

import (
	"os"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels of processes, of what a container sees, and of its mounts, in a kernel that has
// SELinux. Whether the policy is enforced does not matter.
//
// Options: crio.runtime.selinux, crio.runtime.hostnetwork_disable_selinux
func TestSELinux(t *testing.T) {
	if !lsm.SELinuxEnabled() {
		t.Skip("this kernel has no SELinux, or no policy")
	}
	w := world.New(t, world.Options{Extra: "[crio.runtime]\nselinux = true\n"})
	w.Pull()
	base := w.ConfText()
	one, two := w.Pod("one", nil), w.Pod("two", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	asked := w.Pod("asked", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.SelinuxOptions = &cri.SELinuxOption{Level: "s0:c5,c6"}
	})
	host := w.Pod("host", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	shared := w.Dir + "/shared"
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(pod, name string, change func(*cri.ContainerConfig)) (ctr, typ, level string) {
		t.Helper()
		ctr = w.Ctr(pod, name, "sleep 1000", change)
		label, _ := w.Exec(ctr, "tr -d '\\0' </proc/1/attr/current")
		if own, _ := w.Exec(ctr, "tr -d '\\0' </proc/self/attr/current"); own != label {
			t.Errorf("%s: an exec'd process is %s, the first %s", name, own, label)
		}
		part := append(strings.SplitN(label, ":", 4), "", "", "", "")
		return ctr, part[2], part[3]
	}
	main, typ, level := run(one, "main", func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{HostPath: shared, ContainerPath: "/shared", SelinuxRelabel: true}}
	})
	if typ != "container_t" || !strings.HasPrefix(level, "s0:c") || !strings.Contains(level, ",") {
		t.Errorf("a container runs as %s %s", typ, level)
	}
	if _, _, l := run(one, "beside", nil); l != level {
		t.Errorf("its neighbour in the pod has the level %s, it has %s", l, level)
	}
	want := "system_u:object_r:container_file_t:" + level
	for _, path := range []string{"/bin", "/dev/shm", "/etc/hosts", "/etc/resolv.conf", "/shared"} {
		if got, err := (lsm.SELinux{}).FileLabel("/proc/" + pidOf(w, main) + "/root" + path); err != nil || got != want {
			t.Errorf("%s in the container: %q %v, want %q", path, got, err, want)
		}
	}
	if _, typ, l := run(two, "main", nil); typ != "container_t" || l == level {
		t.Errorf("another pod: %s %s", typ, l)
	}
	if _, typ, _ := run(two, "privileged", func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Privileged = true }); typ != "spc_t" {
		t.Errorf("a privileged container runs as %s", typ)
	}
	if _, _, l := run(asked, "main", nil); l != "s0:c5,c6" {
		t.Errorf("a level that was asked for: %s", l)
	}
	onHost := func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	}
	if _, typ, _ := run(host, "main", onHost); typ == "container_t" {
		t.Error("a pod of the node's network is confined")
	}
	bad := w.CtrConfig("bad", "true")
	bad.Linux.SecurityContext.SelinuxOptions = &cri.SELinuxOption{Type: "nobody_has_it_t"}
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: one, Config: bad, SandboxConfig: w.PodConfig("x")})
	refused(t, "a type that the policy has not", err, codes.InvalidArgument, "nobody_has_it_t")

	w.Kill() // levels are on record
	w.Start()
	if _, _, l := run(one, "later", nil); l != level {
		t.Errorf("after a restart the pod's level is %s, it was %s", l, level)
	}
	at := len(w.Log())
	setFile(t, w.Conf, base+"hostnetwork_disable_selinux = false\n")
	logged(w, at, "configuration reloaded", "hostnetwork_disable_selinux")
	if _, typ, _ := run(w.Pod("host2", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	}), "main", onHost); typ != "container_t" {
		t.Errorf("with hostnetwork_disable_selinux = false: %s", typ)
	}
	at = len(w.Log())
	setFile(t, w.Conf, strings.Replace(base, "selinux = true", "selinux = false", 1))
	logged(w, at, "configuration reloaded", "crio.runtime.selinux")
	if _, typ, _ := run(w.Pod("off", nil), "main", nil); typ == "container_t" {
		t.Error("labels though selinux = false")
	}
}
