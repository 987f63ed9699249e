package pod

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/monocrio/monocrio/internal/flight"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/ending"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is one container of a pod.
type Container struct {
	m   *Manager
	id  string
	req state.ContainerRequest
	pod *Pod

	op     flight.Lock   // lifecycle: climb, start, remove
	exited chan struct{} // closed once the exit is recorded
	// freeing is held by whoever deletes the container in the runtime: the watcher
	// does so at its end, and a removal may come at the same moment.
	freeing sync.Mutex
	ended   sync.Once // plugins were told that it ended
	end     ending.Ending
	trail   *step.Trail

	mu      sync.Mutex // guards what follows
	status  state.ContainerStatus
	watched bool
	began   int64 // when a start that is under way began, in nanoseconds since 1970
	gone    bool  // the record is deleted
}

func (m *Manager) newContainer(id string, p *Pod, req state.ContainerRequest, st state.ContainerStatus) *Container {
	c := &Container{m: m, id: id, req: req, pod: p, status: st, op: flight.NewLock(), trail: new(step.Trail), exited: make(chan struct{})}
	if st.FinishedAt != 0 {
		close(c.exited)
		c.ended.Do(func() {}) // by the daemon that saw it
	}
	return c
}

// Kind implements step.Object.
func (c *Container) Kind() string { return "container" }

// Ident implements step.Object.
func (c *Container) Ident() string { return c.id }

// Trail implements step.Object.
func (c *Container) Trail() *step.Trail { return c.trail }

// bundle is the folder with config.json, the attach socket and the control fifos.
func (c *Container) bundle() string { return filepath.Join(c.m.RunDir, "containers", c.id) }

func (c *Container) name() string { return state.ContainerName(c.req.Pod, c.req.Config.GetMetadata()) }

func (c *Container) view() state.ContainerView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return state.ContainerView{ID: c.id, Request: c.req, Status: c.status}
}

// transition is the only way in which a container's status changes: the record
// first, then memory, then the event. change works on a copy and may refuse.
func (c *Container) transition(change func(*state.ContainerStatus) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil
	}
	next := c.status
	if err := change(&next); err != nil {
		return err
	}
	if err := c.m.ctrs.Update(c.id, next); err != nil {
		return err
	}
	before := c.status
	c.status = next
	if next.Paused && !before.Paused {
		c.trail.Reach("paused")
	}
	if next.Phase == state.Removing && before.Phase != next.Phase {
		c.trail.Reach(string(next.Phase))
	}
	for _, e := range []struct {
		was, is int64
		typ     cri.ContainerEventType
		word    string
	}{
		{before.CreatedAt, next.CreatedAt, cri.ContainerEventType_CONTAINER_CREATED_EVENT, "created"},
		{before.StartedAt, next.StartedAt, cri.ContainerEventType_CONTAINER_STARTED_EVENT, "running"},
		{before.FinishedAt, next.FinishedAt, cri.ContainerEventType_CONTAINER_STOPPED_EVENT, "exited"},
	} {
		if e.was == 0 && e.is != 0 {
			c.trail.Reach(e.word)
			c.m.publish(Event{Container: c.id, Pod: c.req.Pod, Type: e.typ, At: time.Unix(0, e.is)})
		}
	}
	if before.FinishedAt == 0 && next.FinishedAt != 0 {
		close(c.exited)
	}
	return nil
}

func (c *Container) forget() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.m.ctrs.Delete(c.id); err != nil {
		return err
	}
	c.gone = true
	c.m.ctrIndex.Remove(c.name(), c.id)
	c.m.publish(Event{Container: c.id, Pod: c.req.Pod, Type: cri.ContainerEventType_CONTAINER_DELETED_EVENT, At: time.Now()})
	return nil
}

// stop ends the container's process: the stop signal, the grace period, SIGKILL. It
// returns when the exit is recorded, and holds no lock meanwhile.
func (c *Container) stop(ctx context.Context, grace time.Duration) (err error) {
	st := c.view().Status
	if st.FinishedAt != 0 || st.Process == nil {
		return nil
	}
	if st.StartedAt == 0 {
		grace = 0 // it waits to be started: no program is there to handle a signal
	}
	ctx, end := c.trail.Begin(ctx, step.Call, "stop")
	defer func() { end(err) }()
	step.Waits(ctx, ending.Waits(grace))
	if st.Paused { // a frozen program could not handle one either
		c.logErr("cannot thaw a paused container that is to end", c.setPaused(ctx, false))
	}
	return c.end.Stop(ctx, c.subject(), grace)
}

// subject is what package ending needs to know.
func (c *Container) subject() ending.Subject {
	return ending.Subject{ID: c.id, Life: c.m.ctx, Go: c.m.wg.Go, Log: c.m.Log, Exited: c.exited,
		Runtime: func() (oci.Runtime, error) {
			h, err := c.m.Handlers.Handler(c.req.Handler)
			if err != nil {
				return nil, err
			}
			return h.Runtime, nil
		},
		Init: func() (proc.ID, bool) {
			p := c.view().Status.Process
			if p == nil {
				return proc.ID{}, false
			}
			return p.Init, true
		},
		Signal: func() syscall.Signal {
			sig, known := c.req.StopSignal()
			if !known {
				c.m.Log.Warn("the image names a stop signal that does not exist; SIGTERM is used", "ctr", c.id, "signal", c.req.Image.Config.StopSignal)
			}
			return sig
		}}
}

// finish records the end of the process.
func (c *Container) finish(at time.Time, code int32, reason, message string) error {
	err := c.transition(func(s *state.ContainerStatus) error {
		if s.FinishedAt == 0 {
			if s.StartedAt == 0 { // it was quicker than whoever starts it
				s.StartedAt = c.began
			}
			// The time of a file is some milliseconds coarse.
			s.FinishedAt, s.ExitCode, s.Reason, s.Message = max(at.UnixNano(), s.StartedAt), code, reason, message
		}
		return nil
	})
	c.m.Log.Info("container ended", "ctr", c.id, "pod", c.req.Pod, "code", code, "reason", reason, "err", err)
	return err
}
