// Package trace sends spans of calls and of their steps to an OpenTelemetry collector,
// by OTLP over gRPC. A caller that is traced itself (traceparent in the metadata of its
// call, W3C Trace Context) has our spans below its own, and decides whether there are any.
package trace

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// Options say where spans go, and how many.
type Options struct {
	Endpoint string // HOST:PORT
	// PerMillion is how many of a million calls are traced whose caller does not decide
	// it.
	PerMillion int
	Version    string
	Log        *slog.Logger
}

// Tracer makes spans.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New makes a tracer. The collector need not be there: spans that cannot be sent are
// dropped after a while, and calls do not wait.
func New(ctx context.Context, o Options) (*Tracer, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(o.Endpoint), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("cannot send traces to %s (tracing_endpoint): %w", o.Endpoint, err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Debug("traces are not sent", "err", err) }))
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(float64(o.PerMillion)/1e6))),
		sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "crio"), attribute.String("service.version", o.Version))))
	return &Tracer{provider: p, tracer: p.Tracer("github.com/monocrio/monocrio")}, nil
}

// closeTime is how long the end waits for the last spans to be sent.
const closeTime = 2 * time.Second

// Close sends what is left. A nil Tracer does nothing, here and below.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	_ = t.provider.Shutdown(ctx)
}

// headers is the metadata of a call, as the propagator reads it.
type headers metadata.MD

func (h headers) Get(key string) string {
	if v := metadata.MD(h).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (h headers) Set(key, value string) { metadata.MD(h).Set(key, value) }

func (h headers) Keys() (keys []string) {
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// Call begins the span of a call.
func (t *Tracer) Call(ctx context.Context, rpc string) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	ctx = propagation.TraceContext{}.Extract(ctx, headers(md))
	ctx, span := t.tracer.Start(ctx, rpc, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attribute.String("rpc.method", rpc)))
	return ctx, end(span)
}

// Step begins the span of something that is done for a call: name says what, attrs are
// pairs of a name and a value.
func (t *Tracer) Step(ctx context.Context, name string, attrs ...string) (context.Context, func(error)) {
	if t == nil {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, name)
	if span.IsRecording() {
		for i := 0; i+1 < len(attrs); i += 2 {
			span.SetAttributes(attribute.String(attrs[i], attrs[i+1]))
		}
	}
	return ctx, end(span)
}

func end(span trace.Span) func(error) {
	return func(err error) {
		if err != nil {
			span.RecordError(err)
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}
}
