package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/monocrio/monocrio/internal/test/world"
)

// BenchmarkLists asks for everything there is about 100 pods with a container each.
func BenchmarkLists(b *testing.B) {
	const pods = 100
	w := world.New(b, world.Options{})
	w.Pull()
	for i := range pods {
		w.Ctr(w.Pod("p"+strconv.Itoa(i), nil), "c", "exec sleep 1000", plain)
	}
	for _, l := range []struct {
		name string
		call func() (int, error)
	}{
		{"ListContainers", func() (int, error) {
			r, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{})
			return len(r.GetContainers()), err
		}},
		{"ListContainerStats", func() (int, error) {
			r, err := w.ListContainerStats(w.Ctx(), &cri.ListContainerStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxStats", func() (int, error) {
			r, err := w.ListPodSandboxStats(w.Ctx(), &cri.ListPodSandboxStatsRequest{})
			return len(r.GetStats()), err
		}},
		{"ListPodSandboxMetrics", func() (int, error) {
			r, err := w.ListPodSandboxMetrics(w.Ctx(), &cri.ListPodSandboxMetricsRequest{})
			return len(r.GetPodMetrics()), err
		}},
	} {
		b.Run(l.name, func(b *testing.B) {
			var took []time.Duration
			cpu := daemonTime(b, w)
			for range b.N {
				begin := time.Now()
				if n, err := l.call(); n != pods || err != nil {
					b.Fatal(n, err)
				}
				took = append(took, time.Since(begin))
			}
			report(b, "call", took)
			b.ReportMetric(float64((daemonTime(b, w)-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/call")
		})
	}
}

// daemonTime is the CPU time of the daemon alone.
func daemonTime(b *testing.B, w *world.World) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.Pid()))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11]) // utime and stime, proc_pid_stat(5)
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		b.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
