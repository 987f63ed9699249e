package trace

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// fakeCollector takes spans as a collector does.
type fakeCollector struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*otlp.Span
}

func (c *fakeCollector) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			c.spans = append(c.spans, ss.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func collect(t *testing.T, perMillion int, f func(*Tracer)) []*otlp.Span {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c, g := &fakeCollector{}, grpc.NewServer()
	collector.RegisterTraceServiceServer(g, c)
	go g.Serve(l)
	defer g.Stop()
	tr, err := New(t.Context(), Options{Endpoint: l.Addr().String(), PerMillion: perMillion, Version: "1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	f(tr)
	tr.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans
}

// Options: crio.tracing.tracing_endpoint, crio.tracing.tracing_sampling_rate_per_million
func TestSpans(t *testing.T) {
	do := func(ctx context.Context) func(*Tracer) {
		return func(tr *Tracer) {
			ctx, end := tr.Call(ctx, "RunPodSandbox")
			_, done := tr.Step(ctx, "network", "pod", "p1")
			done(errors.New("no cable"))
			end(nil)
		}
	}
	spans := collect(t, 1_000_000, do(t.Context()))
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	step, call := spans[0], spans[1]
	if step.GetName() != "network" || call.GetName() != "RunPodSandbox" || string(step.GetParentSpanId()) != string(call.GetSpanId()) || len(call.GetParentSpanId()) != 0 {
		t.Errorf("%v\n%v", step, call)
	}
	if step.GetStatus().GetMessage() != "no cable" || step.GetStatus().GetCode() != otlp.Status_STATUS_CODE_ERROR || step.GetAttributes()[0].GetValue().GetStringValue() != "p1" {
		t.Errorf("%v", step)
	}
	if spans := collect(t, 0, do(t.Context())); len(spans) != 0 {
		t.Errorf("with a rate of 0: %v", spans)
	}
	// The caller decides, whatever the rate.
	traced := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	spans = collect(t, 0, do(traced))
	if len(spans) != 2 || spans[1].GetTraceId()[0] != 0x0a || spans[1].GetParentSpanId()[0] != 0xb7 {
		t.Errorf("a caller that is traced: %v", spans)
	}
	untraced := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
	if spans := collect(t, 1_000_000, do(untraced)); len(spans) != 0 {
		t.Errorf("a caller that is not: %v", spans)
	}
}

// Nobody listens: nothing waits, nothing fails.
func TestNoCollector(t *testing.T) {
	tr, err := New(t.Context(), Options{Endpoint: "127.0.0.1:1", PerMillion: 1_000_000, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, end := tr.Call(t.Context(), "x")
	end(nil)
	tr.Close()
	var off *Tracer
	ctx, end := off.Call(t.Context(), "x")
	end(nil)
	_, end = off.Step(ctx, "x")
	end(nil)
	off.Close()
}
