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

// unary wraps every call: a panic becomes an Internal error with its stack in the
// log, an error is logged once and gets its code, a slow call says so.
func unary(log *slog.Logger) grpc.UnaryServerInterceptor {
	var count atomic.Uint64
	return func(ctx context.Context, req any, call *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		start, rpc, n := time.Now(), path.Base(call.FullMethod), count.Add(1)
		defer func() {
			if p := recover(); p != nil {
				log.Error("a call panicked; please report this", "rpc", rpc, "req", n, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, toStatus(fmt.Errorf("%s panicked: %v", rpc, p))
			}
		}()
		resp, err = next(ctx, req)
		dur := time.Since(start).Round(time.Microsecond)
		switch {
		case err == nil:
			log.Debug("call", "rpc", rpc, "req", n, "dur", dur)
		case errs.Is(err, errs.KindNotFound), errs.Is(err, errs.KindCanceled):
			log.Debug("call failed", "rpc", rpc, "req", n, "dur", dur, "err", err)
		default:
			log.Warn("call failed", "rpc", rpc, "req", n, "dur", dur, "err", err)
		}
		return resp, toStatus(err)
	}
}
