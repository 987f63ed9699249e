package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kept reads files of the node that a test changes, and puts back at its end what they
// held.
func kept(t *testing.T, pattern string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	was := map[string]string{}
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil {
			was[p] = strings.TrimSpace(string(data))
		}
	}
	t.Cleanup(func() {
		for p, v := range was {
			if data, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(data)) != v {
				t.Errorf("%s is left as %s, it was %s", p, strings.TrimSpace(string(data)), v)
				_ = os.WriteFile(p, []byte(v), 0)
			}
		}
	})
	return was
}

// A container's processors are undisturbed while it runs, also through a restart of the
// daemon; nothing of it is left after its end.
//
// Options: crio.runtime.irqbalance_config_file, crio.runtime.irqbalance_config_restore_file
func TestPerformance(t *testing.T) {
	last := runtime.NumCPU() - 1
	latency := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/power/pm_qos_resume_latency_us", last)
	const irq = "/proc/irq/default_smp_affinity"
	if last == 0 {
		t.Skip("one processor cannot be kept from interrupts")
	}
	for _, p := range []string{latency, irq} {
		if f, err := os.OpenFile(p, os.O_WRONLY, 0); err != nil {
			t.Skipf("this node cannot be tuned: %v", err)
		} else {
			f.Close()
		}
	}
	was := kept(t, latency)
	irqs := kept(t, "/proc/irq/*smp_affinity")
	kept(t, "/proc/irq/*/smp_affinity")
	w := world.New(t, world.Options{Late: true})
	conf, before := filepath.Join(w.Dir, "irqbalance"), filepath.Join(w.Dir, "banned")
	setFile(t, conf, "X=1\n")
	setFile(t, w.Conf, w.ConfText()+fmt.Sprintf(`[crio.runtime]
irqbalance_config_file = %q
irqbalance_config_restore_file = %q
[crio.runtime.runtimes.runc]
[crio.runtime.runtimes.my-high-performance]
inherit_default_runtime = true
`, conf, before))
	w.Start()
	w.Pull()
	run := func(name, handler string, annotations ...string) (pod, ctr string) {
		c := w.PodConfig(name)
		annotated(annotations...)(c)
		p, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
		if err != nil {
			t.Fatal(err)
		}
		return p.GetPodSandboxId(), w.Ctr(p.GetPodSandboxId(), "main", "sleep 1000", func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: fmt.Sprint(last), CpuPeriod: 100000, CpuQuota: 100000}
		})
	}
	read := func(path string) string { data, _ := os.ReadFile(path); return strings.TrimSpace(string(data)) }
	asked := []string{"cpu-c-states.crio.io", "disable", "irq-load-balancing.crio.io/main", "disable", "cpu-quota.crio.io", "disable"}
	// With cgroup v2 that needs partitions which are not the root's own (Linux 6.7).
	partitions, _ := filepath.Glob("/sys/fs/cgroup/*/cpuset.cpus.exclusive")
	if !cgroup.Unified() || len(partitions) > 0 {
		asked = append(asked, "cpu-load-balancing.crio.io", "disable")
	}
	run("plain", "", asked...)
	if read(latency) != was[latency] || read(irq) != irqs[irq] {
		t.Error("annotations act that are not allowed")
	}
	pod, ctr := run("tuned", "my-high-performance", asked...)
	check := func(when string) {
		t.Helper()
		if read(latency) != "n/a" || read(irq) == irqs[irq] || !strings.Contains(read(conf), "IRQBALANCE_BANNED_CPUS=") {
			t.Errorf("%s: latency %s, interrupts %s, irqbalance %q", when, read(latency), read(irq), read(conf))
		}
		if q := limit(t, w, pod, ctr, "cpu.cfs_quota_us", "cpu.max"); q != "-1" && !strings.HasPrefix(q, "max") {
			t.Errorf("%s: the quota is %s", when, q)
		}
		if cgroup.Unified() && len(partitions) > 0 {
			if b := limit(t, w, pod, ctr, "", "cpuset.cpus.partition"); b != "isolated" {
				t.Errorf("%s: the partition is %s", when, b)
			}
		} else if !cgroup.Unified() {
			if b := limit(t, w, pod, ctr, "cpuset.sched_load_balance", ""); b != "0" {
				t.Errorf("%s: load balancing is %s", when, b)
			}
		}
	}
	check("while it runs")
	w.Kill()
	w.Start()
	check("after a restart")
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("what was changed is undone", func() bool {
		return read(latency) == was[latency] && read(irq) == irqs[irq] && read(conf) == "X=1"
	})
	if read(before) != "0" {
		t.Errorf("the mask of before is kept as %q", read(before))
	}
	// One that ends while nobody looks, and one without processors of its own.
	_, away := run("away", "my-high-performance", asked...)
	init := factsOf(w, away).Pid
	w.Kill()
	syscall.Kill(init, syscall.SIGKILL)
	w.Start()
	w.Eventually("what was changed is undone", func() bool { return read(latency) == was[latency] && read(irq) == irqs[irq] })
	id := w.Create(pod, "shared", "true", nil)
	if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: id}); err == nil || !strings.Contains(err.Error(), "cpuset_cpus") {
		t.Errorf("a container without processors of its own: %v", err)
	}
}
