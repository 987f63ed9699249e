package fakeshim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	states "github.com/containerd/containerd/api/types/task"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// service implements the Task service of one pod.
type service struct {
	path string
	over chan struct{}
	once sync.Once

	mu   sync.Mutex
	ctrs map[string]*container
}

// answer gives errors their codes.
func answer(err error) error {
	for kind, code := range map[errs.Kind]codes.Code{
		errs.KindNotFound: codes.NotFound, errs.KindAlreadyExists: codes.AlreadyExists, errs.KindInvalid: codes.InvalidArgument,
		errs.KindPrecondition: codes.FailedPrecondition, errs.KindUnimplemented: codes.Unimplemented,
	} {
		if errs.Is(err, kind) {
			return status.Error(code, err.Error())
		}
	}
	return err
}

func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, answer(err)
	}
	return &emptypb.Empty{}, nil
}

// find returns a container and one of its processes.
func (s *service) find(id, execID string) (*container, *process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.ctrs[id]
	if c == nil {
		return nil, nil, answer(errs.NotFound("task", id))
	}
	if execID == "" {
		return c, &c.process, nil
	}
	p := c.execs[execID]
	if p == nil {
		return nil, nil, answer(errs.NotFound("exec", execID))
	}
	return c, p, nil
}

func (s *service) State(ctx context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	out := &task.StateResponse{ID: r.ID, ExecID: r.ExecID, Bundle: c.bundle, Status: states.Status_STOPPED,
		Stdin: p.paths.Stdin, Stdout: p.paths.Stdout, Stderr: p.paths.Stderr, Terminal: p.terminal}
	if p.ended() {
		out.ExitStatus = uint32(p.code)
		return out, nil
	}
	out.Pid = uint32(p.pid)
	out.Status = states.Status_RUNNING
	if r.ExecID == "" {
		st, err := c.rt.State(ctx, r.ID)
		if err != nil {
			return nil, answer(err)
		}
		// A process that was not waited for yet is not stopped.
		out.Status = map[oci.Status]states.Status{oci.Created: states.Status_CREATED, oci.Paused: states.Status_PAUSED}[st.Status]
		if out.Status == states.Status_UNKNOWN {
			out.Status = states.Status_RUNNING
		}
	}
	return out, nil
}

func (s *service) Create(ctx context.Context, r *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	c, err := newContainer(s.path+".d", r)
	if err != nil {
		return nil, answer(err)
	}
	s.mu.Lock()
	taken := s.ctrs[r.ID] != nil
	if !taken {
		s.ctrs[r.ID] = c
	}
	s.mu.Unlock()
	if taken {
		return nil, answer(errs.Errorf(errs.KindAlreadyExists, "there is a task %s", r.ID))
	}
	if err := c.create(ctx); err != nil {
		s.mu.Lock()
		delete(s.ctrs, r.ID)
		s.mu.Unlock()
		c.clear()
		return nil, answer(err)
	}
	return &task.CreateTaskResponse{Pid: uint32(c.pid)}, nil
}

func (s *service) Start(ctx context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		err = c.rt.Start(ctx, r.ID)
	} else {
		err = c.startExec(p)
	}
	if err != nil {
		return nil, answer(err)
	}
	return &task.StartResponse{Pid: uint32(p.pid)}, nil
}

func (s *service) Delete(ctx context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !p.ended() && (r.ExecID == "" || p.pid != 0) {
		return nil, answer(errs.Precondition("it runs"))
	}
	if r.ExecID == "" {
		if err := c.rt.Delete(ctx, r.ID, false); err != nil {
			return nil, answer(err)
		}
		c.clear()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.ExecID == "" {
		delete(s.ctrs, r.ID)
	} else {
		delete(c.execs, r.ExecID)
	}
	return &task.DeleteResponse{Pid: uint32(p.pid), ExitStatus: uint32(p.code)}, nil
}

func (s *service) Pids(ctx context.Context, r *task.PidsRequest) (*task.PidsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := c.rt.Processes(ctx, r.ID)
	out := &task.PidsResponse{}
	for _, pid := range pids {
		out.Processes = append(out.Processes, &states.ProcessInfo{Pid: uint32(pid)})
	}
	return out, answer(err)
}

func (s *service) Pause(ctx context.Context, r *task.PauseRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	return empty(c.rt.Pause(ctx, r.ID))
}

func (s *service) Resume(ctx context.Context, r *task.ResumeRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	return empty(c.rt.Resume(ctx, r.ID))
}

func (*service) Checkpoint(context.Context, *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, answer(errs.Unimplemented("there is no checkpoint"))
}

func (s *service) Kill(ctx context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	switch {
	case p.ended():
		return nil, answer(errs.NotFound("process", "of that name"))
	case r.ExecID == "":
		return empty(c.rt.Kill(ctx, r.ID, unix.Signal(r.Signal), r.All))
	case p.pid == 0:
		return nil, answer(errs.Precondition("it was not started"))
	}
	return empty(unix.Kill(p.pid, unix.Signal(r.Signal)))
}

func (s *service) Exec(_ context.Context, r *task.ExecProcessRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	p := newProcess(oci.Paths{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}, r.Terminal)
	p.spec = &specs.Process{}
	if err := unpack(r.Spec, "Process", p.spec); err != nil {
		return nil, answer(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.execs[r.ExecID] = p
	return empty(nil)
}

// unpack reads a value of the runtime specification.
func unpack(a *anypb.Any, name string, v any) error {
	if want := "types.containerd.io/opencontainers/runtime-spec/1/" + name; a.GetTypeUrl() != want {
		return errs.Invalid("the message is a %q, not a %s", a.GetTypeUrl(), want)
	}
	return json.Unmarshal(a.GetValue(), v)
}

func (s *service) ResizePty(_ context.Context, r *task.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.resize(oci.Size{Width: uint16(r.Width), Height: uint16(r.Height)})
	return empty(nil)
}

// CloseIO has nothing to do: the pipe of the input ends when its last writer goes.
func (s *service) CloseIO(_ context.Context, r *task.CloseIORequest) (*emptypb.Empty, error) {
	_, _, err := s.find(r.ID, r.ExecID)
	return empty(err)
}

func (s *service) Update(ctx context.Context, r *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := unpack(r.Resources, "LinuxResources", &res); err != nil {
		return nil, answer(err)
	}
	return empty(c.rt.Update(ctx, r.ID, &res))
}

func (s *service) Wait(ctx context.Context, r *task.WaitRequest) (*task.WaitResponse, error) {
	_, p, err := s.find(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return &task.WaitResponse{ExitStatus: uint32(p.code)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) Stats(ctx context.Context, r *task.StatsRequest) (*task.StatsResponse, error) {
	c, _, err := s.find(r.ID, "")
	if err != nil {
		return nil, err
	}
	u, err := c.rt.Stats(ctx, r.ID)
	if err != nil {
		return nil, answer(err)
	}
	return &task.StatsResponse{Stats: metrics(u)}, nil
}

func (s *service) Connect(context.Context, *task.ConnectRequest) (*task.ConnectResponse, error) {
	return &task.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

func (s *service) Shutdown(_ context.Context, r *task.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ctrs) == 0 || r.Now {
		fmt.Fprintln(os.Stderr, "the fake shim ends")
		s.once.Do(func() { close(s.over) })
	}
	return empty(nil)
}
