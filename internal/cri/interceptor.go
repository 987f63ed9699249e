package cri

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"google.golang.org/grpc"
)

// interceptor wraps every call: a panic becomes an Internal error with its stack in
// the log, an error is logged once and gets its code.
type interceptor struct {
	log   *slog.Logger
	begin func(ctx context.Context, rpc string) (context.Context, func(error)) // never nil
	count atomic.Uint64
}

// newInterceptor: begin may be nil.
func newInterceptor(log *slog.Logger, begin func(context.Context, string) (context.Context, func(error))) *interceptor {
	if begin == nil {
		begin = func(ctx context.Context, _ string) (context.Context, func(error)) { return ctx, func(error) {} }
	}
	return &interceptor{log: log, begin: begin}
}

func (i *interceptor) unary(ctx context.Context, req any, call *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	err = i.wrap(ctx, call.FullMethod, func(ctx context.Context) (err error) {
		resp, err = next(ctx, req)
		return err
	})
	return resp, err
}

func (i *interceptor) stream(srv any, s grpc.ServerStream, call *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return i.wrap(s.Context(), call.FullMethod, func(context.Context) error { return next(srv, s) })
}

func (i *interceptor) wrap(ctx context.Context, method string, call func(context.Context) error) (err error) {
	start, rpc, n := time.Now(), path.Base(method), i.count.Add(1)
	ctx, end := i.begin(ctx, rpc)
	defer func() { end(err) }()
	defer func() {
		if p := recover(); p != nil {
			i.log.Error("a call panicked; please report this", "rpc", rpc, "req", n, "panic", p, "stack", string(debug.Stack()))
			err = toStatus(fmt.Errorf("%s panicked: %v", rpc, p))
		}
	}()
	err = call(ctx)
	dur := time.Since(start).Round(time.Microsecond)
	switch {
	case err == nil:
		i.log.Debug("call", "rpc", rpc, "req", n, "dur", dur)
	case errs.Is(err, errs.KindNotFound), errs.Is(err, errs.KindCanceled), clientGone(err):
		i.log.Debug("call failed", "rpc", rpc, "req", n, "dur", dur, "err", err)
	default:
		i.log.Warn("call failed", "rpc", rpc, "req", n, "dur", dur, "err", err)
	}
	return toStatus(err)
}
