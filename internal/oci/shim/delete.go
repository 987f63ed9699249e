package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// Delete removes a container, in the order of the protocol: the task, the shim if it
// has no more tasks, then the shim's own "delete", which takes away what is left of a
// shim that was killed. Whatever still is in the container's cgroup is killed at last.
// With force, a shim that does not answer in time counts as dead.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	rec, err := r.get(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	pctx, cancel := context.WithTimeout(ctx, politeTimeout)
	defer cancel()
	err = r.deleteTask(pctx, id, rec, force)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot delete container %s: %w", id, ctx.Err())
	case err != nil && !force:
		return err
	case err != nil:
		r.o.Log.Warn("a shim did not end a container in time and counts as dead", "ctr", id, "err", err)
	}
	return r.deleteRest(ctx, id, rec)
}

// deleteTask ends the task and has the shim forget it.
func (r *Runtime) deleteTask(ctx context.Context, id string, rec *record, force bool) error {
	_, c, status, err := r.open(ctx, id)
	switch {
	case err != nil:
		return err
	case c != nil:
		defer c.Close()
	}
	switch {
	case status != oci.Stopped && !force:
		return errs.Precondition("cannot delete container %s: it is %s; stop it first or force it", id, status)
	case c == nil:
		return nil
	case status == oci.Paused: // frozen processes do not die
		if err := c.do(ctx, "Resume", &task.ResumeRequest{ID: id}, nil); err != nil {
			r.o.Log.Warn("paused container cannot be resumed before deletion", "ctr", id, "err", err)
		}
	}
	if status != oci.Stopped {
		if err := c.kill(ctx, "", uint32(unix.SIGKILL), true); err != nil {
			r.o.Log.Debug("a shim did not kill a container", "ctr", id, "err", err)
		}
	}
	// The proxy learns the exit status and takes the last output before the task goes.
	wait := politeTimeout / 2
	if status == oci.Created {
		wait = tailTimeout // shims differ in whether this is an end that Wait tells
	}
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	if !ended(wctx, rec.Proxy) {
		defer end(rec.Proxy)
	}
	err = c.do(ctx, "Delete", &task.DeleteRequest{ID: id}, &task.DeleteResponse{})
	if err == nil || errs.Is(err, errs.KindNotFound) { // the shim passes over it while it has others
		err = c.do(ctx, "Shutdown", &task.ShutdownRequest{ID: id}, nil)
	}
	if errs.Is(err, errs.KindUnavailable) || errs.Is(err, errs.KindNotFound) || errs.Is(err, errs.KindUnimplemented) {
		return nil // it has gone, which is what was wanted
	}
	return err
}

// deleteRest is what needs no shim.
func (r *Runtime) deleteRest(ctx context.Context, id string, rec *record) error {
	if fresh, err := r.get(id); err == nil {
		rec = fresh // its creation may have gone on
	}
	end(rec.Proxy)
	if rec.Cgroup != "" {
		r.awaitEmpty(ctx, rec.Cgroup)
	}
	var err error
	if rec.Bundle != "" {
		if _, serr := os.Stat(rec.Bundle); serr == nil {
			err = r.callDelete(ctx, id, rec)
		}
	}
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		r.o.Log.Warn("the shim's delete failed", "ctr", id, "err", err)
	}
	if rec.Cgroup != "" {
		if err := cgroup.KillAll(ctx, rec.Cgroup); err != nil {
			return fmt.Errorf("cannot delete container %s: %w", id, err)
		}
		if err := cgroup.Remove(ctx, r.driver(), rec.Cgroup); err != nil {
			return fmt.Errorf("cannot delete container %s: %w", id, err)
		}
	}
	if err := os.RemoveAll(r.dir(id)); err != nil {
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	return nil
}

// awaitEmpty gives a shim that was asked to end the time to do so.
func (r *Runtime) awaitEmpty(ctx context.Context, path string) {
	for limit := time.Now().Add(selfTimeout); time.Now().Before(limit) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		pids, err := cgroup.Processes(path)
		if err != nil || len(pids) == 0 {
			return
		}
	}
}

// callDelete runs the shim's own "delete".
func (r *Runtime) callDelete(ctx context.Context, id string, rec *record) error {
	cmd := r.call(ctx, id, rec, "-bundle", rec.Bundle, "delete")
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s delete: %w: %s", r.o.Path, err, lastWords(words.Bytes()))
	}
	return nil
}

// call is a run of the shim's executable for a container.
func (r *Runtime) call(ctx context.Context, id string, rec *record, args ...string) *exec.Cmd {
	address := r.path(id, eventsFile)
	cmd := exec.CommandContext(ctx, r.o.Path, append([]string{
		"-namespace", namespace, "-id", id, "-address", address, "-publish-binary", r.o.Self}, args...)...)
	cmd.Dir = rec.Bundle
	cmd.WaitDelay = time.Second // a shim of its own may hold our pipe
	cmd.Env = append(rec.Environ[:len(rec.Environ):len(rec.Environ)], "TTRPC_ADDRESS="+address, "GRPC_ADDRESS="+address, "NAMESPACE="+namespace, "MAX_SHIM_VERSION=2")
	return cmd
}

// lastWords bounds what of a shim's messages is kept.
func lastWords(b []byte) []byte {
	b = bytes.TrimSpace(b)
	return b[max(0, len(b)-4<<10):]
}
