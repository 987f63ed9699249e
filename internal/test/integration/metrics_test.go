package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// scraped reads the daemon's metrics through their socket.
func scraped(w *world.World) string {
	w.T.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(w.Dir, "metrics.sock"))
	}}}
	r, err := c.Get("http://metrics/metrics")
	if err != nil {
		w.T.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		w.T.Fatal(r.Status, err)
	}
	return string(text)
}

// What the daemon does is counted, under the names that dashboards know.
//
// Options: crio.metrics.enable_metrics, crio.metrics.metrics_port, crio.metrics.metrics_socket
func TestDaemonMetrics(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	inTable(w, "crio.metrics", "enable_metrics = true\nmetrics_port = 0\nmetrics_socket = \""+filepath.Join(w.Dir, "metrics.sock")+"\"")
	w.Start()
	w.Pull()
	w.Pull()
	_, _ = pullImage(w, w.Addr+"/absent:1")
	pod := w.Pod("counted", nil)
	eater := w.Ctr(pod, "eater", "tail /dev/zero", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
	})
	if st := w.WaitExit(eater); st.GetReason() != "OOMKilled" {
		t.Errorf("the eater ended as %v", st)
	}
	text := scraped(w)
	const p = "container_runtime_crio_"
	for _, want := range []string{
		`operations_total\{operation="RunPodSandbox"\} 1`, `operations_total\{operation="PullImage"\} 3`, `operations_errors_total\{operation="PullImage"\} 1`,
		`image_pulls_success_total 2`, `image_pulls_failure_total\{error="(MANIFEST_UNKNOWN|NOT_FOUND|NAME_UNKNOWN)"\} 1`, `image_pulls_bytes_total\{mediatype="[^"]*gzip",size="[0-9]+"\} [1-9].*`,
		`image_pulls_skipped_bytes_total\{size="[0-9]+"\} [1-9].*`, `image_layer_reuse_total\{name="sha256:[0-9a-f]+"\} 1`, `image_pulls_layer_size_count 1`,
		`containers_oom_total 1`, `containers_oom_count_total\{name="k8s_eater_counted_default_uid-counted_0"\} 1`, `default_runtime\{runtime="runc"\} 1`,
		`operations_latency_seconds_total_count\{operation="network_setup_pod"\} 1`, `steps_latency_seconds_count\{direction="up",step="namespaces"\} 1`, `network_owed 0`, `processes_defunct [0-9]+`,
	} {
		if !regexp.MustCompile("(?m)^" + p + want + "$").MatchString(text) {
			t.Errorf("no line like %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: eater}); err != nil {
		t.Fatal(err)
	}
	w.Eventually("what is gone is not told", func() bool { return !strings.Contains(scraped(w), "k8s_eater") })
	ctr := w.Ctr(pod, "lost", "exec sleep 1000", nil)
	syscall.Kill(factsOf(w, ctr).MonitorPid, syscall.SIGKILL)
	w.WaitExit(ctr)
	w.Eventually("a lost monitor is counted", func() bool {
		return strings.Contains(scraped(w), p+`containers_stopped_monitor_count{name="k8s_lost_counted_default_uid-counted_0"} 1`)
	})
	if !strings.Contains(w.Log(), "serving metrics") {
		t.Error("the log does not say where metrics are")
	}
}
