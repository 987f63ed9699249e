package integration

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// spans is a collector.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	names map[string][]string // of the spans below each parent, by the parent's id
	ids   map[string]string   // of the calls, by name
}

func (c *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.names[string(s.GetParentSpanId())] = append(c.names[string(s.GetParentSpanId())], s.GetName())
				c.ids[s.GetName()] = string(s.GetSpanId())
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Each call is a span, and its steps are spans below it.
//
// Options: crio.tracing.enable_tracing
func TestTraces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, g := &spans{names: map[string][]string{}, ids: map[string]string{}}, grpc.NewServer()
	collector.RegisterTraceServiceServer(g, c)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	w := world.New(t, world.Options{Late: true})
	untraced := w.ConfText()
	inTable(w, "crio.tracing", "enable_tracing = true\ntracing_endpoint = \""+l.Addr().String()+"\"\ntracing_sampling_rate_per_million = 1000000")
	w.Start()
	w.Pull()
	w.Ctr(w.Pod("traced", nil), "main", "true", nil)
	w.Stop() // sends what is left
	w.SetConf(untraced)
	c.mu.Lock()
	defer c.mu.Unlock()
	for call, steps := range map[string][]string{"RunPodSandbox": {"files", "cgroup", "namespaces", "network"}, "CreateContainer": {"rootfs", "bundle", "process"}, "StartContainer": {"start"}, "PullImage": nil} {
		id := c.ids[call]
		if id == "" {
			t.Errorf("no span of %s: %v", call, c.ids)
		}
		for _, s := range steps {
			if !slices.Contains(c.names[id], s) {
				t.Errorf("below %s there is no %s: %v", call, s, c.names[id])
			}
		}
	}
}
