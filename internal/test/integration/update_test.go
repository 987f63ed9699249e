package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func update(w *world.World, ctr string, r *cri.LinuxContainerResources) error {
	_, err := w.UpdateContainerResources(w.Ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: ctr, Linux: r})
	return err
}

// TestUpdateContainer: limits change in the kernel and in the status, what is not
// named stays, and a restart remembers.
func TestUpdateContainer(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("update", nil)
	limited := func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500}
	}
	ctr := w.Ctr(pod, "main", "exec sleep 1000", limited)
	created := w.Create(pod, "created", "exec sleep 1000", limited)
	for _, c := range []string{ctr, created} {
		if err := update(w, c, &cri.LinuxContainerResources{CpuQuota: 50000, MemoryLimitInBytes: 128 << 20, OomScoreAdj: 900}); err != nil {
			t.Fatal(err)
		}
		for _, f := range [][3]string{
			{"memory.limit_in_bytes", "memory.max", "134217728"}, {"cpu.cfs_quota_us", "cpu.max", "50000"}, {"cpu.shares", "cpu.weight", ""},
		} {
			got := limit(t, w, pod, c, f[0], f[1])
			if f[2] != "" && strings.Fields(got)[0] != f[2] || f[0] == "cpu.shares" && got != "512" && got != "20" && got != "59" {
				t.Errorf("%s: %q", f[0], got)
			}
		}
	}
	if data, err := os.ReadFile(filepath.Join("/proc", pidOf(w, ctr), "oom_score_adj")); err != nil || strings.TrimSpace(string(data)) != "900" {
		t.Errorf("oom_score_adj: %q, %v", data, err)
	}
	check := func(when string) {
		t.Helper()
		r := w.Status(ctr).GetResources().GetLinux()
		if r.GetCpuQuota() != 50000 || r.GetCpuPeriod() != 100000 || r.GetCpuShares() != 512 || r.GetMemoryLimitInBytes() != 128<<20 || r.GetOomScoreAdj() != 900 {
			t.Errorf("%s the status says %v", when, r)
		}
	}
	check("after the update")
	w.Kill()
	w.Start()
	check("after a restart")
	if err := update(w, ctr, &cri.LinuxContainerResources{CpusetCpus: "0"}); err != nil {
		t.Fatal(err)
	}
	if got := limit(t, w, pod, ctr, "cpuset.cpus", "cpuset.cpus"); got != "0" {
		t.Errorf("cpuset: %q", got)
	}
	check("after another update")
}

func TestUpdateRefusals(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("refusals", nil)
	// 40 MB that stay in use.
	ctr := w.Ctr(pod, "main", "dd if=/dev/zero of=/dev/shm/fill bs=1M count=40 2>/dev/null; echo full; exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 100 << 20}
	})
	w.Eventually("its memory is in use", func() bool { return strings.Contains(w.LogText(w.Status(ctr).GetLogPath()), "full") })
	gone := w.Ctr(pod, "gone", "true", nil)
	w.WaitExit(gone)
	refused(t, "too little memory", update(w, ctr, &cri.LinuxContainerResources{MemoryLimitInBytes: 20 << 20}), codes.FailedPrecondition, "working set")
	refused(t, "less than the runtime needs", update(w, ctr, &cri.LinuxContainerResources{MemoryLimitInBytes: 1 << 20}), codes.InvalidArgument, "needs at least")
	refused(t, "a bad cpuset", update(w, ctr, &cri.LinuxContainerResources{CpusetCpus: "all"}), codes.InvalidArgument, "cpuset_cpus")
	refused(t, "processors that are not there", update(w, ctr, &cri.LinuxContainerResources{CpusetCpus: "9000"}), codes.InvalidArgument, "cpuset")
	refused(t, "swap below memory", update(w, ctr, &cri.LinuxContainerResources{MemorySwapLimitInBytes: 50 << 20}), codes.InvalidArgument, "memory_swap_limit_in_bytes")
	refused(t, "an exited container", update(w, gone, &cri.LinuxContainerResources{CpuShares: 100}), codes.FailedPrecondition, "exited")
	refused(t, "an unknown container", update(w, strings.Repeat("0", 64), &cri.LinuxContainerResources{CpuShares: 100}), codes.NotFound)
	_, err := w.UpdateContainerResources(w.Ctx(), &cri.UpdateContainerResourcesRequest{ContainerId: ctr})
	refused(t, "nothing to change", err, codes.InvalidArgument, "linux is missing")
	if got := w.Status(ctr).GetResources().GetLinux().GetMemoryLimitInBytes(); got != 100<<20 {
		t.Errorf("after refusals the limit is said to be %d", got)
	}
}

// TestUpdatePod: a pod whose cgroup is ours gets the limits that it is told.
func TestUpdatePod(t *testing.T) {
	w := world.New(t, world.Options{})
	pod := w.Pod("update", func(c *cri.PodSandboxConfig) {
		c.Linux.Overhead = &cri.LinuxContainerResources{MemoryLimitInBytes: 10 << 20}
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 50 << 20}
	})
	file := func() string {
		dir := podFactsOf(w, pod).Cgroup
		for _, root := range []string{"/sys/fs/cgroup/memory" + dir + "/memory.limit_in_bytes", "/sys/fs/cgroup" + dir + "/memory.max"} {
			if data, err := os.ReadFile(root); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
		return "none"
	}
	if got := file(); got != "62914560" {
		t.Errorf("at first the limit is %s", got)
	}
	if _, err := w.UpdatePodSandboxResources(w.Ctx(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 80 << 20}}); err != nil {
		t.Fatal(err)
	}
	if got := file(); got != "94371840" {
		t.Errorf("after the update the limit is %s", got)
	}
	_, err := w.UpdatePodSandboxResources(w.Ctx(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: -1}})
	refused(t, "a negative limit", err, codes.InvalidArgument, "memory_limit_in_bytes")
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	_, err = w.UpdatePodSandboxResources(w.Ctx(), &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: pod})
	refused(t, "a stopped pod", err, codes.FailedPrecondition, "notready")
}

// TestPodCIDR: the network becomes ready when the kubelet knows the node's ranges.
//
// Options: crio.network.cni_conf_template
func TestPodCIDR(t *testing.T) {
	w := world.New(t, world.Options{Net: "-", Late: true})
	template := filepath.Join(w.Dir, "template")
	if err := os.WriteFile(template, []byte(`{"cniVersion": "1.1.0", "name": "cidr", "plugins": [{"type": "bridge", "bridge": "mtest1", "isGateway": true,
	  "ipam": {"type": "host-local", "ranges": "{{PodCIDRRanges}}", "routes": "{{Routes}}"}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(w.Conf, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("cni_conf_template = \"" + template + "\"\n")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.Start()
	tell := func(cidr string) error {
		_, err := w.UpdateRuntimeConfig(w.Ctx(), &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{NetworkConfig: &cri.NetworkConfig{PodCidr: cidr}}})
		return err
	}
	if network(w).GetStatus() {
		t.Error("the network is ready before it is known")
	}
	refused(t, "no range", tell("10.77.0.0"), codes.InvalidArgument, "pod CIDR")
	if err := tell("10.77.3.0/24"); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the network is ready", func() bool { return network(w).GetStatus() })
	if ip := w.IP(w.Pod("cidr", nil)); !strings.HasPrefix(ip, "10.77.3.") {
		t.Errorf("address %q", ip)
	}
}
