package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/monocrio/monocrio/internal/test/world"
)

// peers are the programs under the daemon: ours, and Debian's where installed.
var peers = []struct{ name, conf string }{
	{"ours", ""},
	{"runc+conmon", "[crio.runtime]\ndefault_runtime = \"peer\"\nconmon = \"/usr/bin/conmon\"\n[crio.runtime.runtimes.peer]\nruntime_path = \"/usr/sbin/runc\"\n"},
	{"crun+conmon", "[crio.runtime]\ndefault_runtime = \"peer\"\nconmon = \"/usr/bin/conmon\"\n[crio.runtime.runtimes.peer]\nruntime_path = \"/usr/bin/crun\"\n"},
}

// each runs a benchmark once per peer that works here.
func each(b *testing.B, f func(b *testing.B, w *world.World)) {
	for _, p := range peers {
		b.Run(p.name, func(b *testing.B) {
			for line := range strings.Lines(p.conf) {
				if _, path, ok := strings.Cut(line, "= \"/"); ok {
					if _, err := os.Stat("/" + strings.Trim(path, "\"\n")); err != nil {
						b.Skip(err)
					}
				}
			}
			w := world.New(b, world.Options{Extra: p.conf})
			w.Pull()
			pod := w.Pod("first", nil)
			if p.conf != "" { // a peer may not run on this machine
				_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig("first", "sleep 1000"), SandboxConfig: w.PodConfig("first")})
				if err != nil {
					remove(w, pod)
					b.Skip(err)
				}
			}
			remove(w, pod)
			b.ResetTimer()
			f(b, w)
		})
	}
}

func remove(w *world.World, pod string) {
	w.T.Helper()
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		w.T.Fatal(err)
	}
}

// plain asks for the default seccomp profile and a limit, as the kubelet does.
func plain(c *cri.ContainerConfig) {
	c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
}

// report adds the median and the 90th percentile in ms.
func report(b *testing.B, name string, all []time.Duration) {
	slices.Sort(all)
	ms := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Microseconds()) / 1000 }
	b.ReportMetric(ms(0.5), name+"-p50-ms")
	b.ReportMetric(ms(0.9), name+"-p90-ms")
}

// spent returns the CPU time of the daemon, of the children it waited for, and of
// all orphans that ended in this PID namespace: the monitors, with the runtimes and
// containers that they waited for. This program is not in it.
func spent(b *testing.B, w *world.World) time.Duration {
	b.Helper()
	ticks := 0
	for pid, first := range map[int]int{w.Pid(): 13, 1: 15} { // utime stime cutime cstime, proc_pid_stat(5)
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), ") ")
		f := strings.Fields(rest) // begins with the third field
		for i := first; i <= 16; i++ {
			n, err := strconv.Atoi(f[i-2])
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkPod: a pod on the bridge network with one container, from the first
// call until it is gone.
func BenchmarkPod(b *testing.B) {
	each(b, func(b *testing.B, w *world.World) {
		var running, cycle []time.Duration
		cpu := spent(b, w)
		for i := range b.N {
			begin := time.Now()
			pod := w.Pod("p"+strconv.Itoa(i), nil)
			ctr := w.Ctr(pod, "c", "exec sleep 1000", plain)
			for w.Status(ctr).GetState() != cri.ContainerState_CONTAINER_RUNNING {
				time.Sleep(time.Millisecond)
			}
			running = append(running, time.Since(begin))
			if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
				b.Fatal(err)
			}
			remove(w, pod)
			cycle = append(cycle, time.Since(begin))
		}
		report(b, "running", running)
		report(b, "cycle", cycle)
		b.ReportMetric(float64((spent(b, w)-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/pod")
	})
}

// BenchmarkExecSync runs /bin/true in a container.
func BenchmarkExecSync(b *testing.B) {
	each(b, func(b *testing.B, w *world.World) {
		ctr := w.Ctr(w.Pod("p", nil), "c", "exec sleep 1000", plain)
		var took []time.Duration
		cpu := spent(b, w)
		for range b.N {
			begin := time.Now()
			r, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}})
			if err != nil || r.GetExitCode() != 0 {
				b.Fatal(r, err)
			}
			took = append(took, time.Since(begin))
		}
		report(b, "exec", took)
		b.ReportMetric(float64((spent(b, w)-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/exec")
	})
}

// BenchmarkPull fetches the small image into an empty store and removes it.
func BenchmarkPull(b *testing.B) {
	w := world.New(b, world.Options{})
	var took []time.Duration
	for range b.N {
		begin := time.Now()
		w.Pull()
		took = append(took, time.Since(begin))
		if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: w.Image}}); err != nil {
			b.Fatal(err)
		}
	}
	report(b, "pull", took)
}

// BenchmarkNode fills the daemon with pods and looks at its memory, at the
// monitors', and at the time until it answers again after SIGKILL.
func BenchmarkNode(b *testing.B) {
	const pods = 50
	each(b, func(b *testing.B, w *world.World) {
		b.ReportMetric(float64(field(b, w.Pid(), "status", "VmRSS:"))/1024, "rest-MiB")
		for i := range pods {
			w.Ctr(w.Pod("p"+strconv.Itoa(i), nil), "c", "exec sleep 1000", plain)
		}
		b.ReportMetric(float64(field(b, w.Pid(), "status", "VmRSS:"))/1024, "full-MiB")
		sum, n := 0, 0
		for _, pid := range monitors(b, w.Dir) {
			sum += field(b, pid, "smaps_rollup", "Pss:")
			n++
		}
		if n > 0 {
			b.ReportMetric(float64(sum)/float64(n), "monitor-kiB")
		}
		var took []time.Duration
		for range b.N {
			w.Kill()
			begin := time.Now()
			w.Start()
			took = append(took, time.Since(begin))
		}
		report(b, "restart", took)
		r, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
		if err != nil || len(r.GetContainers()) != pods {
			b.Errorf("%d containers run: %v", len(r.GetContainers()), err)
		}
	})
}

// monitors finds the monitors of this world by the folder in their command lines.
func monitors(b *testing.B, dir string) (pids []int) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range all {
		data, _ := os.ReadFile(path)
		args := strings.Split(string(data), "\x00")
		if filepath.Base(args[0]) != "conmon" || !strings.Contains(string(data), dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// field reads a number from a file in /proc/PID.
func field(b *testing.B, pid int, file, name string) int {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("%s has no %s", file, name)
	return 0
}

// BenchmarkApplet starts small applets, from exec to their end, beside others that
// do as little.
func BenchmarkApplet(b *testing.B) {
	bin, err := world.Bin()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"pinns", []string{dir + "/pinns", "--help"}},
		{"conmon", []string{dir + "/conmon", "--version"}},
		{"runc", []string{dir + "/runc", "--version"}},
		{"list", []string{bin, "--list"}},
		{"debian-conmon", []string{"/usr/bin/conmon", "--version"}},
		{"debian-runc", []string{"/usr/sbin/runc", "--version"}},
		{"debian-crun", []string{"/usr/bin/crun", "--version"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if filepath.Dir(c.args[0]) == dir {
				os.Symlink(bin, c.args[0])
			}
			if _, err := os.Stat(c.args[0]); err != nil {
				b.Skip(err)
			}
			var took []time.Duration
			for range b.N {
				cmd := exec.Command(c.args[0], c.args[1:]...)
				begin := time.Now()
				cmd.Run()
				took = append(took, time.Since(begin))
			}
			report(b, "start", took)
		})
	}
}
