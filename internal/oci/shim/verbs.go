package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// specType is how JSON of the runtime specification's types is named in messages.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/"

// packed puts a value of the runtime specification into a message.
func packed(name string, v any) (*anypb.Any, error) {
	data, err := json.Marshal(v)
	return &anypb.Any{TypeUrl: specType + name, Value: data}, err
}

// open reads a container's record and asks its shim for its status. A container that
// the shim does not know, or whose shim is gone, has stopped; then there may be no
// client. The caller closes it otherwise.
func (r *Runtime) open(ctx context.Context, id string) (*record, *client, oci.Status, error) {
	rec, err := r.get(id)
	if err != nil {
		return nil, nil, "", err
	}
	c, err := dial(ctx, id, rec)
	if errs.Is(err, errs.KindUnavailable) {
		if rec.Address == "" && rec.Proxy.Alive() {
			return rec, nil, oci.Creating, nil
		}
		return rec, nil, oci.Stopped, nil
	} else if err != nil {
		return nil, nil, "", err
	}
	s, err := c.state(ctx, "")
	switch {
	case errs.Is(err, errs.KindNotFound):
		return rec, c, oci.Stopped, nil
	case errs.Is(err, errs.KindUnavailable):
		c.Close()
		return rec, nil, oci.Stopped, nil
	case err != nil:
		c.Close()
		return nil, nil, "", fmt.Errorf("cannot read state of container %s: %w", id, err)
	}
	return rec, c, statusOf(s.Status), nil
}

// opened is open for a verb that needs one of some statuses.
func (r *Runtime) opened(ctx context.Context, verb, id string, allowed ...oci.Status) (*client, oci.Status, error) {
	_, c, status, err := r.open(ctx, id)
	if err != nil {
		return nil, "", err
	}
	for _, a := range allowed {
		if status == a {
			return c, status, nil
		}
	}
	if c != nil {
		c.Close()
	}
	return nil, status, errs.Precondition("cannot %s container %s: it is %s", verb, id, status)
}

// failed names a call that failed. If the shim went away under it, the container
// has stopped.
func failed(verb, id string, err error) error {
	if errs.Is(err, errs.KindUnavailable) {
		return errs.Precondition("cannot %s container %s: %w", verb, id, err)
	}
	return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
}

// State asks the shim. A container has stopped when its proxy has ended as well.
func (r *Runtime) State(ctx context.Context, id string) (oci.State, error) {
	rec, c, status, err := r.open(ctx, id)
	if err != nil {
		return oci.State{}, err
	}
	if c != nil {
		c.Close()
	}
	s := oci.State{ID: id, Status: status, Bundle: rec.Bundle, Created: rec.Created, Annotations: rec.Annotations}
	if rec.Proxy.Alive() {
		s.Pid = rec.Proxy.Pid
		if status == oci.Stopped { // the last of its output is on the way
			s.Status = oci.Running
		}
	}
	return s, nil
}

// Start lets a created container's process run.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, _, err := r.opened(ctx, "start", id, oci.Created)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.do(ctx, "Start", &task.StartRequest{ID: id}, &task.StartResponse{}); err != nil {
		return failed("start", id, err)
	}
	return nil
}

// Kill sends a signal.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	sure := all && sig == unix.SIGKILL
	c, status, err := r.opened(ctx, "kill", id, oci.Created, oci.Running, oci.Paused)
	switch {
	case sure && (errs.Is(err, errs.KindNotFound) || status == oci.Stopped):
		return nil
	case err != nil:
		return err
	}
	defer c.Close()
	err = c.kill(ctx, "", uint32(sig), all)
	if err == nil || sure && (errs.Is(err, errs.KindNotFound) || errs.Is(err, errs.KindUnavailable)) {
		return nil // what is gone has ended meanwhile
	}
	return failed("kill", id, err)
}

// Update changes limits.
func (r *Runtime) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	c, _, err := r.opened(ctx, "update", id, oci.Created, oci.Running, oci.Paused)
	if err != nil {
		return err
	}
	defer c.Close()
	if res == nil {
		return nil
	}
	req := &task.UpdateTaskRequest{ID: id}
	if req.Resources, err = packed("LinuxResources", res); err == nil {
		err = c.do(ctx, "Update", req, nil)
	}
	if err != nil {
		return failed("update", id, err)
	}
	return nil
}

// Pause freezes a container.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	c, status, err := r.opened(ctx, "pause", id, oci.Created, oci.Running, oci.Paused)
	if err != nil {
		return err
	}
	defer c.Close()
	if status == oci.Paused {
		return nil
	}
	if err := c.do(ctx, "Pause", &task.PauseRequest{ID: id}, nil); err != nil {
		return failed("pause", id, err)
	}
	return nil
}

// Resume thaws a container.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	c, status, err := r.opened(ctx, "resume", id, oci.Running, oci.Paused)
	if err != nil {
		return err
	}
	defer c.Close()
	if status == oci.Running {
		return nil
	}
	if err := c.do(ctx, "Resume", &task.ResumeRequest{ID: id}, nil); err != nil {
		return failed("resume", id, err)
	}
	return nil
}

// Stats asks the shim: the container's cgroup is inside its machine.
func (r *Runtime) Stats(ctx context.Context, id string) (*oci.Stats, error) {
	c, _, err := r.opened(ctx, "read statistics of", id, oci.Created, oci.Running, oci.Paused)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	resp := &task.StatsResponse{}
	if err := c.do(ctx, "Stats", &task.StatsRequest{ID: id}, resp); err != nil {
		return nil, failed("read statistics of", id, err)
	}
	u, err := usage(resp.Stats)
	if err != nil {
		return nil, failed("read statistics of", id, err)
	}
	return u, nil
}
