package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	states "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// namespace is the one in which shims keep Kubernetes' containers.
const namespace = "k8s.io"

// The Task service's names. Their messages are the same.
const (
	serviceV2 = "containerd.task.v2.Task"
	serviceV3 = "containerd.task.v3.Task"
)

// dialTimeout bounds the wait for a shim to take a connection.
const dialTimeout = 5 * time.Second

// client is a connection to the shim that has a container.
type client struct {
	*ttrpc.Client
	service, id string
}

// dial connects to a container's shim; KindUnavailable if there is none.
func dial(ctx context.Context, id string, rec *record) (*client, error) {
	if rec.Address == "" {
		return nil, errs.Unavailable("the shim of container %s has not told its address", id)
	}
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dctx, "unix", strings.TrimPrefix(rec.Address, "unix://"))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("cannot reach the shim of container %s: %w", id, ctx.Err())
	case err != nil:
		return nil, errs.Unavailable("cannot reach the shim of container %s: %w", id, err)
	}
	return &client{ttrpc.NewClient(conn), rec.Service, id}, nil
}

// patience bounds a call that a healthy shim answers at once, or soon; 0: it may take as
// long as whoever asks will wait.
func patience(method string) time.Duration {
	switch method {
	case "Wait", "Create", "Start", "Exec":
		return 0
	case "Delete", "Shutdown":
		return 30 * time.Second
	}
	return 10 * time.Second
}

// do is one call, whose answer may be nil: nobody reads it.
func (c *client) do(ctx context.Context, method string, req, resp proto.Message) error {
	if limit := patience(method); limit > 0 {
		lctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = lctx
	}
	if resp == nil {
		resp = &emptypb.Empty{}
	}
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": {namespace}})
	return answer(ctx, c.Call(ctx, c.service, method, req, resp))
}

// kinds are what the codes of shims' answers mean.
var kinds = [...]struct {
	code codes.Code
	kind errs.Kind
}{
	{codes.NotFound, errs.KindNotFound}, {codes.AlreadyExists, errs.KindAlreadyExists},
	{codes.InvalidArgument, errs.KindInvalid}, {codes.OutOfRange, errs.KindInvalid},
	{codes.FailedPrecondition, errs.KindPrecondition}, {codes.Unimplemented, errs.KindUnimplemented},
	{codes.ResourceExhausted, errs.KindExhausted}, {codes.PermissionDenied, errs.KindDenied},
}

// answer gives an error of a call its kind: that of the shim's answer, or
// KindUnavailable if there was none.
func answer(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the shim does not answer: %w", ctx.Err())
	}
	var net net.Error
	if errors.Is(err, ttrpc.ErrClosed) || errors.As(err, &net) || errors.Is(err, os.ErrClosed) {
		return errs.Unavailable("the shim is gone: %w", err)
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, k := range kinds {
		if s.Code() == k.code {
			return errs.Errorf(k.kind, "the shim says: %s", s.Message())
		}
	}
	return errs.Errorf(errs.KindInternal, "the shim says: %s", s.Message())
}

// state asks how a container, or one exec in it, is.
func (c *client) state(ctx context.Context, execID string) (*task.StateResponse, error) {
	resp := &task.StateResponse{}
	return resp, c.do(ctx, "State", &task.StateRequest{ID: c.id, ExecID: execID}, resp)
}

// wait returns the exit status of a container or of an exec when it has ended.
func (c *client) wait(ctx context.Context, execID string) (int, error) {
	resp := &task.WaitResponse{}
	err := c.do(ctx, "Wait", &task.WaitRequest{ID: c.id, ExecID: execID}, resp)
	return int(min(resp.ExitStatus, 255)), err
}

func (c *client) kill(ctx context.Context, execID string, sig uint32, all bool) error {
	return c.do(ctx, "Kill", &task.KillRequest{ID: c.id, ExecID: execID, Signal: sig, All: all}, nil)
}

// statusOf translates the words.
func statusOf(s states.Status) oci.Status {
	switch s {
	case states.Status_CREATED:
		return oci.Created
	case states.Status_RUNNING:
		return oci.Running
	case states.Status_PAUSED, states.Status_PAUSING:
		return oci.Paused
	}
	return oci.Stopped
}
