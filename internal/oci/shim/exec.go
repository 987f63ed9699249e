package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
)

// ownerFile in the folder of an exec names the process that waits for it.
const ownerFile = "owner"

// copied is the most that can be on the way from a process that has ended: pipes on
// both sides of the shim and its buffer.
const copied = 256 << 10

// Exec asks the shim for one more process. Its descendants are out of our reach: when
// the context ends, the process alone is killed.
func (r *Runtime) Exec(ctx context.Context, id string, req oci.ExecRequest) (int, error) {
	if req.Process == nil || len(req.Process.Args) == 0 {
		return -1, errs.Invalid("cannot exec in container %s: no command is given", id)
	}
	c, _, err := r.opened(ctx, "exec in", id, oci.Created, oci.Running)
	if err != nil {
		return -1, err
	}
	defer c.Close()
	r.sweep(ctx, c)
	x := &execution{client: c, req: &req, execID: ident.New()}
	dir, err := r.claim(id, x.execID)
	if err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	defer os.RemoveAll(dir)
	return x.run(ctx, dir)
}

// claim makes the folder of an exec and names us as its owner before there is
// anything to own.
func (r *Runtime) claim(id, execID string) (string, error) {
	dir := filepath.Join(r.path(id, execsDir), execID)
	me, err := proc.Find(os.Getpid())
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(r.path(id, execsDir), 0o700); err != nil && !os.IsExist(err) {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	data, err := json.Marshal(me)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, ownerFile), data, 0o600)
	}
	if err != nil {
		os.RemoveAll(dir)
	}
	return dir, err
}

// sweep ends execs whose owner is gone: with the streams went whoever wanted them.
func (r *Runtime) sweep(ctx context.Context, c *client) {
	entries, _ := os.ReadDir(r.path(c.id, execsDir))
	for _, e := range entries {
		dir := filepath.Join(r.path(c.id, execsDir), e.Name())
		var owner proc.ID
		data, err := os.ReadFile(filepath.Join(dir, ownerFile))
		if err != nil || json.Unmarshal(data, &owner) != nil || owner.Alive() {
			continue
		}
		x := &execution{client: c, execID: e.Name()}
		if x.forget(ctx) == nil {
			os.RemoveAll(dir)
		}
	}
}

// execution is one exec.
type execution struct {
	*client
	req     *oci.ExecRequest
	execID  string
	streams *oci.Streams
}

func (x *execution) run(ctx context.Context, dir string) (code int, err error) {
	streams, paths, err := oci.OpenFIFOs(x.req, dir)
	if err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", x.id, err)
	}
	x.streams = streams
	defer streams.Close()
	defer streams.CloseChild()
	if err := x.begin(ctx, paths); err != nil {
		return -1, err
	}
	defer func() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		_ = x.forget(dctx) // the container's end does the same
	}()
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	wctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() {
		code, err := x.wait(wctx, x.execID)
		ended <- result{code, err}
	}()
	go x.hangUp(wctx)
	select {
	case got := <-ended:
		streams.CloseChild()
		if got.err != nil {
			streams.Drain(ctx, 0)
			return -1, failed("exec in", x.id, got.err)
		}
		streams.Settle(ctx, copied)
		streams.Drain(ctx, oci.Drain)
		return got.code, nil
	case <-ctx.Done():
	}
	kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_ = x.kill(kctx, x.execID, uint32(unix.SIGKILL), false)
	select {
	case <-ended:
	case <-kctx.Done():
	}
	streams.CloseChild()
	streams.Drain(kctx, 0)
	return -1, fmt.Errorf("gave up exec in container %s and killed its process: %w", x.id, ctx.Err())
}

// begin has the process made and started, and its streams moved.
func (x *execution) begin(ctx context.Context, paths oci.Paths) error {
	spec, err := packed("Process", x.req.Process)
	if err != nil {
		return fmt.Errorf("cannot exec in container %s: %w", x.id, err)
	}
	if err := x.do(ctx, "Exec", &task.ExecProcessRequest{ID: x.id, ExecID: x.execID, Terminal: x.req.Process.Terminal,
		Stdin: paths.Stdin, Stdout: paths.Stdout, Stderr: paths.Stderr, Spec: spec}, nil); err != nil {
		return x.refused(ctx, err)
	}
	started := &task.StartResponse{}
	if err := x.do(ctx, "Start", &task.StartRequest{ID: x.id, ExecID: x.execID}, started); err != nil {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		defer func() { _ = x.forget(dctx) }()
		return x.refused(ctx, err)
	}
	if x.req.Started != nil {
		x.req.Started(int(started.Pid))
	}
	x.streams.Resized = func(s oci.Size) { x.resize(ctx, s) }
	x.streams.InputEnded = func() {
		_ = x.do(ctx, "CloseIO", &task.CloseIORequest{ID: x.id, ExecID: x.execID, Stdin: true}, nil)
	}
	if s := x.req.Process.ConsoleSize; x.req.Process.Terminal && s != nil {
		x.resize(ctx, oci.Size{Width: uint16(s.Width), Height: uint16(s.Height)})
	}
	x.streams.Begin(x.req, nil)
	return nil
}

func (x *execution) resize(ctx context.Context, s oci.Size) {
	_ = x.do(ctx, "ResizePty", &task.ResizePtyRequest{ID: x.id, ExecID: x.execID, Width: uint32(s.Width), Height: uint32(s.Height)}, nil)
}

// hangUp tells the process on a terminal that the line is dead: the terminal is the
// shim's, and it may not notice that nobody reads.
func (x *execution) hangUp(ctx context.Context) {
	if x.req.Hangup == nil || !x.req.Process.Terminal {
		return
	}
	select {
	case <-x.req.Hangup:
		_ = x.kill(ctx, x.execID, uint32(unix.SIGHUP), false)
	case <-ctx.Done():
	}
}

// refused tells a container that does not run from a process that cannot.
func (x *execution) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot exec in container %s: %w", x.id, ctx.Err())
	}
	if s, serr := x.state(ctx, ""); serr != nil || statusOf(s.Status) == oci.Stopped || statusOf(s.Status) == oci.Paused {
		return errs.Precondition("cannot exec in container %s: it is not running: %w", x.id, err)
	}
	return errs.Errorf(errs.KindInvalid, "cannot exec %q in container %s: %w", x.req.Process.Args[0], x.id, err)
}

// forget has the shim let go of the process, after killing it if it runs.
func (x *execution) forget(ctx context.Context) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := x.do(ctx, "Delete", &task.DeleteRequest{ID: x.id, ExecID: x.execID}, &task.DeleteResponse{})
		if err == nil || errs.Is(err, errs.KindNotFound) || errs.Is(err, errs.KindUnavailable) {
			return nil
		}
		if ctx.Err() != nil || wait > time.Second {
			return err
		}
		_ = x.kill(ctx, x.execID, uint32(unix.SIGKILL), false)
		time.Sleep(wait)
	}
}
