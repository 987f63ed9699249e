package cri

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestInterceptor: both kinds of calls get the code of an error, survive a panic, and
// leave one line in the log.
// aStream is one that nobody reads or writes.
type aStream struct{ grpc.ServerStream }

func (aStream) Context() context.Context { return context.Background() }

func TestInterceptor(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func() error
		code  codes.Code
		level string
	}{
		{"fine", func() error { return nil }, codes.OK, "DEBUG"},
		{"not found", func() error { return errs.NotFound("pod", "x") }, codes.NotFound, "DEBUG"},
		{"caller gone", func() error { return context.Canceled }, codes.Canceled, "DEBUG"},
		{"cannot send", func() error { return status.Error(codes.Canceled, "gone") }, codes.Canceled, "DEBUG"},
		{"failure", func() error { return errors.New("no") }, codes.Internal, "WARN"},
		{"panic", func() error { panic("a bug") }, codes.Internal, "ERROR"},
	} {
		var text bytes.Buffer
		i := newInterceptor(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
		_, unary := i.unary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/x/Unary"},
			func(context.Context, any) (any, error) { return 1, c.do() })
		stream := i.stream(nil, aStream{}, &grpc.StreamServerInfo{FullMethod: "/x/Stream"}, func(any, grpc.ServerStream) error { return c.do() })
		for _, err := range []error{unary, stream} {
			if status.Code(err) != c.code {
				t.Errorf("%s: %v, want code %s", c.name, err, c.code)
			}
		}
		if n := strings.Count(text.String(), "level="+c.level); n != 2 || strings.Count(text.String(), "\n") != 2 || !strings.Contains(text.String(), "rpc=Stream") {
			t.Errorf("%s: the log is\n%s", c.name, &text)
		}
	}
}
