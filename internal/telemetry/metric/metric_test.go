package metric

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

func newTest(t *testing.T, collectors ...string) *Metrics {
	t.Helper()
	m, err := New(Options{Collectors: collectors, DefaultRuntime: func() string { return "runc" }, NetworkOwed: func() int { return 3 }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return "\n" + w.Body.String()
}

func has(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, "\n"+Prefix+l+"\n") {
			t.Errorf("no line %s%s", Prefix, l)
		}
	}
}

func TestCounts(t *testing.T) {
	m := newTest(t, "all")
	m.Call("RunPodSandbox", 2*time.Second, false)
	m.Call("RunPodSandbox", time.Second, true)
	m.Step("up", "network", 250*time.Millisecond)
	m.Pull([]Layer{{"sha256:a", "application/gzip", 999, true}, {"sha256:b", "application/gzip", 5_000_000, false}}, "")
	m.Pull(nil, "UNAUTHORIZED")
	m.OOM("one")
	m.OOM("two")
	m.Forget("two")
	m.MonitorStopped("one")
	m.SeccompNotified("one", "mount")
	m.SeccompNotified("two", "mount")
	m.Forget("two")
	m.EventDropped()
	m.Stalled("sandbox network")
	m.Reload("applied")
	text := scrape(t, m)
	has(t, text, `operations_total{operation="RunPodSandbox"} 2`, `operations_errors_total{operation="RunPodSandbox"} 1`, `operations_latency_seconds{operation="RunPodSandbox"} 1`,
		`operations_latency_seconds_total_sum{operation="RunPodSandbox"} 3`, `operations_latency_seconds_total_count{operation="network_setup_pod"} 1`,
		`operations_latency_seconds_total{operation="network_setup_overall",quantile="0.99"} 0.25`,
		`image_pulls_bytes_total{mediatype="application/gzip",size="1000"} 999`, `image_pulls_skipped_bytes_total{size="10000000"} 5e+06`,
		`image_pulls_layer_size_bucket{le="1000"} 1`, `image_pulls_layer_size_count 1`, `image_pulls_success_total 1`, `image_pulls_failure_total{error="UNAUTHORIZED"} 1`,
		`image_layer_reuse_total{name="sha256:b"} 1`, `containers_oom_total 2`, `containers_oom_count_total{name="one"} 1`, `containers_events_dropped_total 1`,
		`containers_seccomp_notifier_count_total{name="one",syscall="mount"} 1`, `containers_stopped_monitor_count{name="one"} 1`,
		`resources_stalled_at_stage{stage="sandbox network"} 1`, `default_runtime{runtime="runc"} 1`, `network_owed 3`, `config_reloads_total{result="applied"} 1`,
		`steps_latency_seconds_count{direction="up",step="network"} 1`)
	if strings.Contains(text, `name="two"`) {
		t.Error("what is gone is told still")
	}
	for _, name := range Names() {
		if !strings.Contains(text, "\n# HELP "+Prefix+name+" ") {
			t.Errorf("no %s", name)
		}
	}
	if !strings.Contains(text, "\ngo_goroutines ") || !strings.Contains(text, "\nprocess_open_fds ") {
		t.Error("nothing about the process")
	}
}

// Options: crio.metrics.metrics_collectors
func TestCollectors(t *testing.T) {
	text := scrape(t, newTest(t, "crio_processes_defunct", "container_runtime_crio_default_runtime", "containers_oom_total"))
	for _, name := range Names() {
		want := name == "processes_defunct" || name == "default_runtime" || name == "containers_oom_total"
		if got := strings.Contains(text, "# HELP "+Prefix+name+" "); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if err := Check([]string{"operations"}); !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), "operations_total") {
		t.Errorf("%v", err)
	}
}

// Off is nil, and everything may be told to it.
func TestOff(t *testing.T) {
	var m *Metrics
	m.Call("x", 0, true)
	m.Step("up", "x", 0)
	m.Pull([]Layer{{}}, "")
	m.OOM("x")
	m.MonitorStopped("x")
	m.SeccompNotified("x", "y")
	m.Forget("x")
	m.EventDropped()
	m.Stalled("x")
	m.Reload("x")
	var s *Server
	s.Close()
	if err := s.Serve(); err != nil {
		t.Error(err)
	}
}

func TestZombies(t *testing.T) {
	proc := t.TempDir()
	for pid, stat := range map[string]string{"1": "1 (init) S 0", "7": "7 (a) Z 1", "8": "8 () Z) Z 1", "9": "9 (Z) S 1", "self": "7 (x) Z 1"} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "stat"), []byte(stat), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n := zombies(proc); n != 2 {
		t.Errorf("%d", n)
	}
}

// Options: crio.metrics.metrics_host, crio.metrics.metrics_socket, crio.metrics.metrics_cert, crio.metrics.metrics_key
func TestServe(t *testing.T) {
	dir := t.TempDir()
	p := Places{Host: "127.0.0.1", Socket: filepath.Join(dir, "run/socket"), Cert: filepath.Join(dir, "tls/cert"), Key: filepath.Join(dir, "tls/key"),
		MinVersion: tls.VersionTLS13, Log: slog.New(slog.DiscardHandler)}
	s, err := Listen(newTest(t, "all"), p)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve() }()
	pem, err := os.ReadFile(p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	get := func(pem []byte, version uint16) (string, error) {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MaxVersion: version}}}
		r, err := c.Get("https://" + s.listeners[0].Addr().String() + "/metrics")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}
	if text, err := get(pem, tls.VersionTLS13); err != nil || !strings.Contains(text, Prefix) {
		t.Errorf("over TLS: %v", err)
	}
	if _, err := get(pem, tls.VersionTLS12); err == nil {
		t.Error("an old version of TLS is spoken")
	}
	if fi, err := os.Stat(p.Key); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", fi, err)
	}
	// Others put a new pair there.
	if err := makePair(p.Cert, p.Key, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	for _, f := range []string{p.Cert, p.Key} {
		if err := os.Chtimes(f, later, later); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := get(pem, tls.VersionTLS13); err == nil {
		t.Error("the first certificate is used still")
	}
	if pem, err = os.ReadFile(p.Cert); err != nil {
		t.Fatal(err)
	}
	if _, err := get(pem, tls.VersionTLS13); err != nil {
		t.Errorf("the second certificate: %v", err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", p.Socket) }}}
	r, err := c.Get("http://x/metrics")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if fi, err := os.Stat(p.Socket); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", fi, err)
	}
	s.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(p.Socket); err == nil {
		t.Error("the socket is there still")
	}
	p.Cert = filepath.Join(dir, "absent")
	if _, err := Listen(newTest(t), p); err == nil || !strings.Contains(err.Error(), "metrics_cert") {
		t.Errorf("a key without certificate: %v", err)
	}
}
