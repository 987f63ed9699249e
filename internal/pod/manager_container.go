package pod

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/flight"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Create makes a container in a ready pod, up to the point where its process waits
// to be started. A container of the same name that is being made, or was made and
// not started, is the answer to a repeated call.
//
// With from, processes and changed files come from a checkpoint, and the image is the
// one that it was made of.
func (m *Manager) Create(ctx context.Context, podID string, config *cri.ContainerConfig, from *state.Source) (string, error) {
	p, err := m.podIndex.Find(podID)
	if err != nil {
		return "", err
	}
	if err := p.req.CheckContainer(p.id, config); err != nil {
		return "", err
	}
	held := func(c *Container) error {
		v := c.view()
		if v.Status.Phase == state.Live && v.Status.State() == cri.ContainerState_CONTAINER_CREATED {
			return nil
		}
		return errs.Errorf(errs.KindAlreadyExists, "cannot create container %s: container %s has that name; remove it first", c.name(), c.id)
	}
	return m.ctrIndex.Fly(ctx, state.ContainerName(p.id, config.GetMetadata()), held, func() (string, error) { return m.makeContainer(ctx, p, config, from) })
}

func (m *Manager) makeContainer(call context.Context, p *Pod, config *cri.ContainerConfig, from *state.Source) (made string, err error) {
	id, trail := ident.New(), new(step.Trail)
	end := m.losses.Begin(step.Loss{Kind: "container", ID: id, Name: state.FullName(p.req.Config.GetMetadata()) + "/" + config.GetMetadata().GetName(), Owner: p.id}, trail)
	defer func() { end(err) }()
	open := p.gate.Enter()
	if open {
		defer p.gate.Leave()
	}
	if !open || p.view().Status.Phase != state.Ready {
		return "", errs.Precondition("cannot create a container in pod %s: it is not ready", p.id)
	}
	h, err := m.Handlers.Handler(p.req.Handler)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(flight.Detach(p.life, call), h.Patience(m.MakeTime))
	defer cancel()
	req := state.ContainerRequest{Pod: p.id, Config: state.ContainerConfig{ContainerConfig: config}, Handler: p.req.Handler, From: from}
	if err := m.complete(ctx, p, id, &req, trail); err != nil {
		return "", fmt.Errorf("cannot create container %s: %w", config.GetMetadata().GetName(), err)
	}
	c := m.newContainer(id, p, req, state.ContainerStatus{Phase: state.Creating, Boot: m.Boot})
	c.trail = trail
	trail.Reach(string(state.Creating))
	defer m.Plugins.Hold()()
	c.op <- struct{}{}
	defer c.op.Release()
	if err := m.ctrs.Create(id, req, c.status); err != nil {
		return "", err
	}
	m.ctrIndex.Add(c.name(), id, c)
	undone, err := m.ctrSteps.Climb(ctx, c)
	if err == nil {
		step.CrashPoint("container", "created", "before-transition")
		err = c.transition(func(s *state.ContainerStatus) error {
			s.Phase, s.CreatedAt = state.Live, time.Now().UnixNano()
			return nil
		})
		if err == nil {
			c.watch()
			c.tell(ctx, state.ContainerCreated)
			return id, nil
		}
		undone = m.ctrSteps.Descend(ctx, c) == nil
	}
	m.dropContainer(c, undone)
	return "", err
}

// complete adds to what will be recorded the images, files and processes that the
// configuration names, and judges its annotations.
func (m *Manager) complete(ctx context.Context, p *Pod, id string, req *state.ContainerRequest, trail *step.Trail) (err error) {
	here, found := trail.Begin(ctx, step.Call, "find the image")
	step.Waits(here, "the image store")
	namespace := p.req.Config.GetMetadata().GetNamespace()
	req.Image, err = m.Images.Resolve(here, req.Config.GetImage(), namespace)
	if err == nil && req.Image.Artifact {
		err = errs.Invalid("%s is an artifact and no image: mount it into a container instead", req.Image.Name)
	}
	if err == nil && req.From != nil && req.From.Image != "" {
		_, err = m.Images.Resolve(here, &cri.ImageSpec{Image: req.From.Image}, namespace)
	}
	if found(err); err != nil {
		return err
	}
	if req.LogPath, err = files.LogPath(&p.req, filepath.Join(m.LogDir, p.id), cmp.Or(req.Config.GetLogPath(), id+".log")); err != nil {
		return err
	}
	if err = m.Specs.Admit(&p.req, req); err != nil {
		return err
	}
	if req.Target, err = m.target(p, req.Config.ContainerConfig); err == nil {
		req.Volumes, err = state.Volumes(ctx, req.Config.ContainerConfig, namespace, m.Images.Resolve)
	}
	return err
}

// dropContainer forgets a container whose making failed, like dropPod.
func (m *Manager) dropContainer(c *Container, undone bool) {
	m.ctrIndex.FreeName(c.name(), c.id)
	c.tell(m.ctx, state.ContainerRemove)
	if undone {
		c.logErr("cannot forget a container that was undone", c.forget())
		return
	}
	c.logErr("cannot record a failed container", c.transition(toRemoving))
	m.sweepSoon()
}

func toRemoving(s *state.ContainerStatus) error { s.Phase = state.Removing; return nil }

// target finds the container whose PID namespace is asked for.
func (m *Manager) target(p *Pod, config *cri.ContainerConfig) (string, error) {
	o := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o.GetPid() != cri.NamespaceMode_TARGET {
		return "", nil
	}
	t, err := m.running(o.GetTargetId(), "join the PID namespace of")
	if err != nil {
		return "", fmt.Errorf("cannot find the target of the PID namespace: %w", err)
	}
	if t.req.Pod != p.id {
		return "", errs.Invalid("cannot join the PID namespace of container %s: it belongs to another pod", t.id)
	}
	return t.id, nil
}

// Start lets the process of a created container go on to its program.
func (m *Manager) Start(ctx context.Context, id string) (err error) {
	c, err := m.ctrIndex.Find(id)
	if err != nil {
		return err
	}
	if !c.pod.gate.Enter() {
		return errs.Precondition("cannot start container %s: its pod is not ready", c.id)
	}
	defer c.pod.gate.Leave()
	if err := c.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	defer c.op.Release()
	st := c.view().Status
	if s := st.State(); st.Phase != state.Live || s != cri.ContainerState_CONTAINER_CREATED {
		return errs.Precondition("cannot start container %s: it is %s, only a created container can be started", c.id, state.Word(s))
	}
	h, err := m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	step.CrashPoint("container", "start", "before-up")
	// A start that began must become known even if its caller is gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.Patience(m.MakeTime))
	defer cancel()
	ctx, end := c.trail.Begin(ctx, step.Call, "start")
	defer func() { end(err) }()
	err = c.ask(ctx, state.ContainerStart)
	began := c.begin(time.Now().UnixNano()) // before, or a quick program ends before it began
	if err == nil {
		step.Waits(ctx, "the runtime to start its program")
		err = c.run(ctx, h)
	}
	if err != nil {
		c.begin(0)
		err = fmt.Errorf("cannot start container %s: %w", c.id, err)
		c.cannotRun(ctx, err)
		return err
	}
	step.CrashPoint("container", "started", "before-transition")
	err = c.transition(func(s *state.ContainerStatus) error {
		if s.StartedAt == 0 {
			s.StartedAt = began
		}
		return nil
	})
	c.tell(ctx, state.ContainerStarted)
	return err
}

// begin notes that a start is under way, so that an end which is recorded first
// tells of the beginning too.
func (c *Container) begin(at int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began = at
	return at
}

// cannotRun records a container whose start failed as exited, with the reason, so
// that the kubelet and its users see it; the process that waits is killed.
func (c *Container) cannotRun(ctx context.Context, cause error) {
	// First, or the end of what is killed would be the reason.
	c.logErr("cannot record a failed start", c.finish(time.Now(), 128, state.ReasonNeverRan, cause.Error()))
	c.freeRuntime(ctx)
}

// StopContainer ends a container: its stop signal, then SIGKILL after the grace
// period. Absence is success. A call with a shorter grace period shortens one in
// progress.
func (m *Manager) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	c, err := m.ctrIndex.Find(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return c.stop(ctx, grace)
}

// RemoveContainer kills a container if it runs and unmakes it. Absence is success.
func (m *Manager) RemoveContainer(ctx context.Context, id string) error {
	c, err := m.ctrIndex.Find(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return c.remove(ctx)
}

func (c *Container) remove(ctx context.Context) (err error) {
	ctx, end := c.trail.Begin(ctx, step.Call, "remove")
	defer func() { end(err) }()
	if err := c.stop(ctx, 0); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.id, err)
	}
	step.Waits(ctx, "another call")
	if err := c.op.Acquire(ctx); err != nil {
		return fmt.Errorf("cannot remove container %s: %w", c.id, err)
	}
	defer c.op.Release()
	step.Waits(ctx, "")
	c.m.ctrIndex.FreeName(c.name(), c.id)
	if c.view().Status.Phase != state.Removing {
		c.tellEnded(ctx)
		if err := c.transition(toRemoving); err != nil {
			return err
		}
		c.tell(ctx, state.ContainerRemove)
	}
	step.CrashPoint("container", "removing", "after-transition")
	if err := c.m.ctrSteps.Descend(ctx, c); err != nil {
		c.m.sweepSoon()
		return err
	}
	step.CrashPoint("container", "record", "before-delete")
	return c.forget()
}

// Container returns one container by id or by the beginning of its id; one that is
// being made is not found.
func (m *Manager) Container(id string) (state.ContainerView, error) {
	c, err := m.ctrIndex.Find(id)
	if err != nil {
		return state.ContainerView{}, err
	}
	v := c.view()
	if v.Status.Phase == state.Creating {
		return state.ContainerView{}, errs.NotFound("container", id)
	}
	return v, nil
}

// Containers returns all containers that are made.
func (m *Manager) Containers() (list []state.ContainerView) {
	for _, c := range m.ctrIndex.All() {
		if v := c.view(); v.Status.Phase == state.Live {
			list = append(list, v)
		}
	}
	return list
}

// ContainersOf returns the containers of a pod that are made.
func (m *Manager) ContainersOf(podID string) (list []state.ContainerView) {
	for _, c := range m.ctrIndex.All() {
		if c.req.Pod != podID {
			continue
		}
		if v := c.view(); v.Status.Phase == state.Live {
			list = append(list, v)
		}
	}
	return list
}

// ReopenLog makes the monitor open the log file anew, after a rotation.
func (m *Manager) ReopenLog(ctx context.Context, id string) error {
	c, err := m.running(id, "reopen the log of")
	if err != nil {
		return err
	}
	return m.Monitors.Reopen(ctx, c.bundle(), c.req.LogPath)
}

// BundlePath is the folder of a container's config.json, attach socket and fifos.
func (m *Manager) BundlePath(id string) string { return filepath.Join(m.RunDir, "containers", id) }
