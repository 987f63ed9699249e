// Package libct is the embedded OCI runtime: the verbs of oci.Runtime done by
// libcontainer in the calling process.
//
// Every call loads the container from its state folder and forgets it again, so
// that a container made by one process (our runc applet under a monitor) can be
// started, entered, killed and deleted by any other (the daemon), and nothing is
// lost when a process dies. This is the only package, besides the early start of
// the executable, that imports libcontainer; it knows no pods, no monitors and
// no configuration.
//
// libcontainer re-executes this executable as "init" with _LIBCONTAINER_INITPIPE
// in the environment; the start of the program must answer to that (see IsInit).
//
// Create and Run let a thread enter the container's mount namespace and die
// there. Go cannot end the main thread so, only park it for ever, and then
// /proc/self shows the container's mounts. A program that calls them and lives on
// must lock its main goroutine to its thread (runtime.LockOSThread in main).
package libct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // lets the managers set device rules
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// Options configure a runtime.
type Options struct {
	// Root has one folder per container with its state. On a tmpfs: it means
	// nothing after a reboot.
	Root string
	// Systemd lets systemd make the cgroups.
	Systemd bool
	// Rootless runs without privileges over cgroups.
	Rootless bool
	// Self is the executable that Command names; empty: this one.
	Self string
	// Log gets what is worth telling but no error; nil: nobody. Where it stands
	// behind logrus, the stages of a container tell only what it is to hear.
	Log *slog.Logger
}

// Runtime is the embedded runtime. It has no state of its own.
type Runtime struct {
	o      Options
	logged bool // o.Log is the caller's
}

var _ oci.Runtime = (*Runtime)(nil)

// New returns a runtime over a state folder, which is made when first needed.
func New(o Options) *Runtime {
	r := &Runtime{o, o.Log != nil}
	if !r.logged {
		r.o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Self == "" {
		r.o.Self, _ = os.Executable()
	}
	return r
}

// IsInit tells whether this process is libcontainer's init stage and must call
// Init at once, before it looks at the name it was called by.
func IsInit(args []string) bool {
	return len(args) > 1 && args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != ""
}

// Init is the init stage; it never returns.
func Init() { libcontainer.Init() }

// Command tells a monitor how to run this runtime: this executable under the
// name "runc".
func (r *Runtime) Command() (path, argv0 string, globalArgs []string) {
	globalArgs = []string{"--log-format", "plain", "--root", r.o.Root}
	if r.o.Systemd {
		globalArgs = append(globalArgs, "--systemd-cgroup")
	}
	return r.o.Self, "runc", globalArgs
}

// load reads a container's state.
func (r *Runtime) load(id string) (*libcontainer.Container, error) {
	if !oci.ValidID(id) {
		return nil, errs.NotFound("container", id)
	}
	c, err := libcontainer.Load(r.o.Root, id)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, libcontainer.ErrNotExist), errors.Is(err, os.ErrNotExist):
		return nil, errs.NotFound("container", id)
	}
	return nil, fmt.Errorf("cannot load container %s: %w", id, err)
}

// State tells what is known of a container.
func (r *Runtime) State(_ context.Context, id string) (oci.State, error) {
	c, err := r.load(id)
	if err != nil {
		return oci.State{}, err
	}
	return stateOf(c)
}

func stateOf(c *libcontainer.Container) (oci.State, error) {
	s, err := c.OCIState()
	if err != nil {
		return oci.State{}, fmt.Errorf("cannot read state of container %s: %w", c.ID(), err)
	}
	full, err := c.State()
	if err != nil {
		return oci.State{}, fmt.Errorf("cannot read state of container %s: %w", c.ID(), err)
	}
	if oci.Status(s.Status) == oci.Created && !waits(s.Pid) {
		s.Status = specs.StateRunning
	}
	return oci.State{
		ID: s.ID, Status: oci.Status(s.Status), Pid: s.Pid, Bundle: s.Bundle,
		Created: full.Created, Annotations: s.Annotations,
	}, nil
}

// waits tells whether a container's first process still waits to be started.
// libcontainer goes by the fifo, which is removed by whoever started the container;
// if he was killed between the start and that, the fifo is still there and nobody
// will ever write into it. Until it runs the program, the process is our own init
// stage, called "NAME init".
func waits(pid int) bool {
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return true // gone, or not ours to see: leave it to libcontainer
	}
	name, rest, _ := strings.Cut(string(args), "\x00")
	return name != "" && rest == "init\x00"
}

// List returns the states of all containers of the state folder, by name. One
// that vanishes meanwhile is left out, one that cannot be read is logged.
func (r *Runtime) List(ctx context.Context) ([]oci.State, error) {
	entries, err := os.ReadDir(r.o.Root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	var list []oci.State
	for _, e := range entries {
		s, err := r.State(ctx, e.Name())
		switch {
		case err == nil:
			list = append(list, s)
		case !errs.Is(err, errs.KindNotFound):
			r.o.Log.Warn("container left out of the list", "ctr", e.Name(), "err", err)
		}
	}
	return list, nil
}

// Rootfs returns the path of a container's root file system.
func (r *Runtime) Rootfs(id string) (string, error) {
	c, err := r.load(id)
	if err != nil {
		return "", err
	}
	return c.Config().Rootfs, nil
}

// Kill sends a signal to the init or to all processes.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	sure := all && sig == unix.SIGKILL
	c, err := r.load(id)
	if err != nil {
		if sure && errs.Is(err, errs.KindNotFound) {
			return nil
		}
		return err
	}
	switch {
	case sure:
		err = killAll(ctx, c)
	case all:
		err = signalAll(c, sig)
	default:
		err = c.Signal(sig)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, libcontainer.ErrNotRunning), errors.Is(err, unix.ESRCH), errors.Is(err, os.ErrProcessDone):
		return errs.Precondition("cannot kill container %s: it is not running", id)
	}
	return fmt.Errorf("cannot kill container %s: %w", id, err)
}

// killAll kills a container's init and whatever is in its cgroup.
func killAll(ctx context.Context, c *libcontainer.Container) error {
	// The init first: a private pid namespace goes with it at once. It also thaws
	// a paused container, for a frozen process does not die on version 1.
	_ = c.Signal(unix.SIGKILL)
	state, err := c.State()
	if err != nil {
		return err
	}
	if c.Config().RootlessCgroups {
		return nil
	}
	dir := state.CgroupPaths["freezer"]
	if dir == "" {
		dir = state.CgroupPaths[""]
	}
	if dir == "" {
		dir = state.CgroupPaths["devices"]
	}
	if dir == "" {
		return nil
	}
	return cgroup.KillDir(ctx, dir)
}

func signalAll(c *libcontainer.Container, sig syscall.Signal) error {
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status == libcontainer.Stopped {
		return libcontainer.ErrNotRunning
	}
	pids, err := c.Processes()
	for _, pid := range pids {
		if kerr := unix.Kill(pid, sig); kerr != nil && kerr != unix.ESRCH {
			err = errors.Join(err, fmt.Errorf("process %d: %w", pid, kerr))
		}
	}
	return err
}

// Delete removes a container's cgroup and state.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	c, err := r.load(id)
	if errs.Is(err, errs.KindNotFound) {
		if gone, err := r.deleteRemains(id); gone || err != nil {
			return err
		}
		c, err = r.load(id)
	}
	if err != nil {
		return err
	}
	status, err := c.Status()
	if err != nil {
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	if status != libcontainer.Stopped {
		if !force {
			return errs.Precondition("cannot delete container %s: it is %s; stop it first or force it", id, status)
		}
		if err := r.killAndWait(ctx, c); err != nil {
			return fmt.Errorf("cannot delete container %s: %w", id, err)
		}
	}
	if err := c.Destroy(); err != nil {
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	return nil
}

// deleteRemains removes the folder of a container whose creation was cut short before
// it had a state. A creation that still goes on may write the state at this very
// moment, and without it nobody would find its processes again. So the folder is first
// put where the creation does not find it: then it fails and ends its processes
// itself. If the state was faster, the folder goes back and false is returned.
func (r *Runtime) deleteRemains(id string) (gone bool, err error) {
	if !oci.ValidID(id) {
		return true, nil
	}
	dir, aside := filepath.Join(r.o.Root, id), filepath.Join(r.o.Root, "."+id+".remains")
	err = os.RemoveAll(aside) // of one who was killed here
	if err == nil {
		err = os.Rename(dir, aside)
	}
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err == nil {
		if _, serr := os.Lstat(filepath.Join(aside, "state.json")); serr == nil {
			err = os.Rename(aside, dir)
		} else {
			gone, err = true, os.RemoveAll(aside)
		}
	}
	if err != nil {
		return false, fmt.Errorf("cannot delete remains of container %s: %w", id, err)
	}
	return gone, nil
}

// killAndWait kills all and waits until the init is dead; a pidfd tells without
// polling, also when the init is somebody else's child.
func (r *Runtime) killAndWait(ctx context.Context, c *libcontainer.Container) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(state.InitProcessPid, 0)
	if err == nil {
		defer unix.Close(fd)
	}
	if kerr := killAll(ctx, c); kerr != nil {
		return kerr
	}
	if err != nil { // it is gone already
		return nil
	}
	// The pid may have been used again between loading and opening.
	if status, err := c.Status(); err != nil || status == libcontainer.Stopped {
		return err
	}
	return waitFor(ctx, killTimeout, fmt.Sprintf("the end of process %d", state.InitProcessPid), pollable{fd, unix.POLLIN})
}

// Pause freezes a container.
func (r *Runtime) Pause(_ context.Context, id string) error {
	return r.freeze(id, "pause", libcontainer.Paused, (*libcontainer.Container).Pause)
}

// Resume thaws a container.
func (r *Runtime) Resume(_ context.Context, id string) error {
	return r.freeze(id, "resume", libcontainer.Running, (*libcontainer.Container).Resume)
}

func (r *Runtime) freeze(id, verb string, goal libcontainer.Status, do func(*libcontainer.Container) error) error {
	c, err := r.load(id)
	if err != nil {
		return err
	}
	status, err := c.Status()
	switch {
	case err != nil:
		return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
	case status == goal:
		return nil
	case status == libcontainer.Stopped, verb == "resume" && status != libcontainer.Paused:
		return errs.Precondition("cannot %s container %s: it is %s", verb, id, status)
	}
	if err := do(c); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
	}
	return nil
}

// Processes lists a container's pids.
func (r *Runtime) Processes(_ context.Context, id string) ([]int, error) {
	c, err := r.load(id)
	if err != nil {
		return nil, err
	}
	pids, err := c.Processes()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes of container %s: %w", id, err)
	}
	return pids, nil
}

// Stats reads a container's counters.
func (r *Runtime) Stats(_ context.Context, id string) (*oci.Stats, error) {
	path, err := r.Cgroup(id)
	if err != nil {
		return nil, err
	}
	s, err := cgroup.Stats(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read statistics of container %s: %w", id, err)
	}
	return s, nil
}

// Cgroup returns the path of a container's cgroup below the root of the
// hierarchy.
func (r *Runtime) Cgroup(id string) (string, error) {
	c, err := r.load(id)
	if err != nil {
		return "", err
	}
	s, err := c.State()
	if err != nil {
		return "", fmt.Errorf("cannot read state of container %s: %w", id, err)
	}
	// On a hybrid host "" is the tree that accounts nothing, hence last.
	for _, key := range []string{"memory", "devices", "cpu", "pids", ""} {
		if dir := s.CgroupPaths[key]; dir != "" {
			return cgroup.Below(dir), nil
		}
	}
	return "", errs.Precondition("container %s has no cgroup", id)
}

// NotifyOOM returns a channel that tells of each out-of-memory kill and is closed
// with the cgroup.
func (r *Runtime) NotifyOOM(id string) (<-chan struct{}, error) {
	c, err := r.load(id)
	if err != nil {
		return nil, err
	}
	ch, err := c.NotifyOOM()
	if err != nil {
		return nil, fmt.Errorf("cannot watch memory of container %s: %w", id, err)
	}
	return ch, nil
}

// resources returns a copy of a container's limits that may be changed.
func resources(c *libcontainer.Container) (configs.Config, *cgroups.Resources) {
	config := c.Config()
	group := *config.Cgroups
	limits := cgroups.Resources{}
	if group.Resources != nil {
		limits = *group.Resources
	}
	group.Resources = &limits
	config.Cgroups = &group
	return config, &limits
}
