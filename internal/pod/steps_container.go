package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/checkpoint/archive"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/files"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/spec"
	"github.com/monocrio/monocrio/internal/step"
)

func containerSteps() step.Table[*Container] {
	return step.Table[*Container]{
		{Name: "rootfs", Up: (*Container).rootfsUp, Down: (*Container).rootfsDown},
		{Name: "checkpoint", Up: (*Container).checkpointUp, Down: (*Container).checkpointDown},
		{Name: "volumes", Up: (*Container).volumesUp, Down: (*Container).volumesDown},
		{Name: "bundle", Up: (*Container).bundleUp, Down: (*Container).bundleDown},
		{Name: "process", Up: (*Container).processUp, Down: (*Container).processDown},
	}
}

func (c *Container) rootfsUp(ctx context.Context) error {
	_, err := c.lease(ctx, c.id, c.req.Image.ID)
	return err
}

// lease makes and mounts a layer over an image, for the users of the pod.
func (c *Container) lease(ctx context.Context, id, image string) (path string, err error) {
	l := Lease{ID: id, Pod: c.pod.id, Image: image, MountLabel: c.req.SELinux.Mount}
	if u := c.pod.req.UserNS(); u != nil {
		l.UIDs, l.GIDs = spec.IDMap(u.GetUids()), spec.IDMap(u.GetGids())
	}
	step.Waits(ctx, "the image store")
	defer step.Waits(ctx, "")
	if err := c.m.Rootfs.Lease(ctx, l); err != nil {
		return "", err
	}
	return c.m.Rootfs.Mount(ctx, id)
}

func (c *Container) rootfsDown(ctx context.Context) error {
	if err := c.m.Rootfs.Unmount(ctx, c.id); err != nil {
		return err
	}
	return c.m.Rootfs.Release(ctx, c.id)
}

// volumeID names the lease of an image volume after its container: see volumeOwner.
func (c *Container) volumeID(n int) string { return c.id + "-" + strconv.Itoa(n) }

// volumeOwner is the container of a lease.
func volumeOwner(lease string) string {
	id, _, _ := strings.Cut(lease, "-")
	return id
}

// volumesUp mounts the images of the container's mounts. Each is a lease of its own,
// into which nobody writes: so it is counted, mapped and swept like a root file
// system.
func (c *Container) volumesUp(ctx context.Context) error {
	for n, v := range c.req.Volumes {
		if _, err := c.lease(ctx, c.volumeID(n), v.Image.ID); err != nil {
			return fmt.Errorf("%.0wimage %s: %w", errs.ImageVolumeMountFailed, v.Image.Name, err)
		}
	}
	return nil
}

func (c *Container) volumesDown(ctx context.Context) (err error) {
	for n := range c.req.Volumes {
		id := c.volumeID(n)
		e := c.m.Rootfs.Unmount(ctx, id)
		if e == nil {
			e = c.m.Rootfs.Release(ctx, id)
		}
		err = errors.Join(err, e)
	}
	return err
}

// volumePaths are where the images are mounted, by the index of their mount.
func (c *Container) volumePaths(ctx context.Context) (map[int]string, error) {
	paths := map[int]string{}
	for n, v := range c.req.Volumes {
		path, err := c.m.Rootfs.Mount(ctx, c.volumeID(n))
		if err != nil {
			return nil, err
		}
		paths[v.Mount] = path
	}
	return paths, nil
}

func (c *Container) bundleUp(ctx context.Context) error {
	rootfs, err := c.m.Rootfs.Mount(ctx, c.id)
	if err != nil {
		return err
	}
	h, err := c.m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	if limit := c.req.Config.GetLinux().GetResources().GetMemoryLimitInBytes(); limit > 0 && limit < h.MinMemory {
		return errs.Invalid("memory limit of %d bytes: runtime handler %q needs at least %d to start a container", limit, h.Name, h.MinMemory)
	}
	pidns, err := c.pidNamespace()
	if err != nil {
		return err
	}
	volumes, err := c.volumePaths(ctx)
	if err != nil {
		return err
	}
	spec, user, err := c.m.Specs.Container(ctx, SpecRequest{
		ID: c.id, Pod: c.pod.view(), Config: c.req.Config.ContainerConfig, Image: c.req.Image, Handler: c.req.Handler,
		Rootfs: rootfs, Files: c.pod.runDir(), CgroupsPath: c.m.Cgroups.ContainerPath(c.pod.req.Cgroup, c.id), PIDNamespace: pidns,
		Volumes: volumes, SELinux: c.req.SELinux, LogPath: c.req.LogPath, StopSignal: cmp.Or(c.req.StopWith, c.req.Image.Config.StopSignal),
	})
	if err != nil {
		return err
	}
	p, v := c.pod.view(), c.view()
	step.Waits(ctx, waitsPlugins)
	defer step.Waits(ctx, "")
	if err := c.m.Plugins.Create(ctx, &p, &v, spec); err != nil {
		return err
	}
	if err := os.MkdirAll(c.bundle(), 0o700); err != nil {
		return err
	}
	c.mu.Lock()
	c.status.User = user // recorded with the next transition
	c.mu.Unlock()
	return oci.WriteBundle(c.bundle(), spec)
}

// pidNamespace is the path of the PID namespace to join; "" for one of its own or
// the host's.
func (c *Container) pidNamespace() (string, error) {
	if c.req.Target != "" {
		t, err := c.m.ctrIndex.Find(c.req.Target)
		if err != nil {
			return "", err
		}
		p := t.view().Status.Process
		if p == nil || !p.Init.Alive() {
			return "", errs.Precondition("cannot join the PID namespace of container %s: it is not running", t.id)
		}
		return pidNSPath(p.Init.Pid), nil
	}
	if infra := c.pod.view().Status.Infra; infra != nil && c.req.SharesPID() {
		return pidNSPath(infra.Init.Pid), nil
	}
	return "", nil
}

func pidNSPath(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid), "ns/pid") }

func (c *Container) bundleDown(context.Context) error {
	if p := process.Find(c.bundle()); p != nil { // the next try must find it too
		return fmt.Errorf("it is used by the monitor, process %d", p.Monitor.Pid)
	}
	return errors.Join(os.RemoveAll(c.bundle()), c.m.RemoveExit(c.id))
}

func (c *Container) processUp(ctx context.Context) error {
	if c.req.From != nil {
		return nil // a restored process runs at once: its start makes it
	}
	return c.spawnMonitor(ctx)
}

func (c *Container) spawnMonitor(ctx context.Context) error {
	h, err := c.m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return err
	}
	s := c.m.Spawn(h, c.id, c.bundle(), c.req.LogPath)
	s.Name, s.Place = state.KubeName(c.pod.req.Config.GetMetadata(), c.req.Config.GetMetadata()), c.m.In(h, c.pod.req.Cgroup, c.bundle(), c.id)
	s.Terminal, s.Stdin = c.req.Config.GetTty(), c.req.Config.GetStdin()
	s.LeaveStdinOpen = s.Stdin && !c.req.Config.GetStdinOnce()
	if c.req.From != nil {
		s.Restore = filepath.Join(c.checkpointDir(), archive.ImagesDir)
	}
	p, err := c.m.Begin(ctx, s)
	if err != nil {
		return err
	}
	return c.transition(func(st *state.ContainerStatus) error { st.Process = p; return nil })
}

func (c *Container) processDown(ctx context.Context) error {
	p := c.view().Status.Process
	c.freeing.Lock()
	defer c.freeing.Unlock()
	return c.m.endProcess(ctx, c.req.Handler, c.id, c.bundle(), p)
}

// infraID is the runtime's id of a pod's infra process.
func (p *Pod) infraID() string { return p.id }

func (p *Pod) infraBundle() string { return filepath.Join(p.runDir(), "infra") }

func (p *Pod) infraUp(ctx context.Context) error {
	if !p.req.HasInfra() {
		return nil
	}
	h, err := p.m.Handlers.Handler(p.req.Handler)
	if err != nil {
		return err
	}
	rootfs := filepath.Join(p.infraBundle(), "rootfs")
	if err := files.InfraRootfs(rootfs); err != nil {
		return err
	}
	spec, err := p.m.Specs.Infra(ctx, SpecRequest{
		ID: p.infraID(), Pod: p.view(), Handler: p.req.Handler, Rootfs: rootfs, Files: p.runDir(),
		CgroupsPath: p.m.Cgroups.ContainerPath(p.req.Cgroup, p.infraID()),
	})
	if err != nil {
		return err
	}
	if err := oci.WriteBundle(p.infraBundle(), spec); err != nil {
		return err
	}
	s := p.m.Spawn(h, p.infraID(), p.infraBundle(), "")
	s.Name, s.Place = "infra", p.m.In(h, p.req.Cgroup, p.infraBundle(), p.infraID())
	proc, err := p.m.Begin(ctx, s)
	if err != nil {
		return err
	}
	if err := p.transition(func(st *state.PodStatus) { st.Infra = proc }); err != nil {
		return err
	}
	return h.Runtime.Start(ctx, p.infraID())
}

func (p *Pod) infraDown(ctx context.Context) error {
	if !p.req.HasInfra() {
		return nil
	}
	if err := p.m.endProcess(ctx, p.req.Handler, p.infraID(), p.infraBundle(), p.view().Status.Infra); err != nil {
		return err
	}
	if err := p.m.RemoveExit(p.infraID()); err != nil {
		return err
	}
	return p.transition(func(s *state.PodStatus) { s.Infra = nil })
}

// endProcess kills what runs under an id; see process.Host.End.
func (m *Manager) endProcess(ctx context.Context, handler, id, bundle string, p *state.Process) error {
	h, err := m.Handlers.Handler(handler)
	if err != nil {
		return err
	}
	return m.End(ctx, h.Runtime, id, bundle, p)
}
