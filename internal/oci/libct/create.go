package libct

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

const (
	// startTimeout bounds the wait for a created init to run its program.
	startTimeout = 30 * time.Second
	// killTimeout bounds the wait for a killed init to be dead.
	killTimeout = 10 * time.Second
)

// Create makes a container from a bundle.
func (r *Runtime) Create(ctx context.Context, id string, o oci.CreateOptions) error {
	p := &libcontainer.Process{LogLevel: r.logLevel()}
	_, err := r.create(ctx, id, o, p)
	return err
}

// Run creates and starts a container and returns a handle by which the caller,
// whose child the init is, can wait for it.
func (r *Runtime) Run(ctx context.Context, id string, o oci.CreateOptions) (*Proc, error) {
	p := &libcontainer.Process{LogLevel: r.logLevel()}
	c, err := r.create(ctx, id, o, p)
	if err != nil {
		return nil, err
	}
	if err := r.Start(ctx, id); err != nil {
		_ = c.Signal(unix.SIGKILL)
		_, _ = p.Wait()
		return nil, errors.Join(err, r.Delete(ctx, id, true))
	}
	return &Proc{p: p}, nil
}

func (r *Runtime) create(ctx context.Context, id string, o oci.CreateOptions, p *libcontainer.Process) (_ *libcontainer.Container, err error) {
	if !oci.ValidID(id) {
		return nil, errs.Invalid("cannot create container %q: a name has letters, digits and \"_+-.\" only", id)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", id, err)
	}
	spec, config, err := r.config(id, o)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", id, err)
	}
	closeConsole, err := initProcess(p, spec, config, o)
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", id, err)
	}
	defer closeConsole()
	c, err := libcontainer.Create(r.o.Root, id, config)
	if errors.Is(err, libcontainer.ErrExist) {
		return nil, errs.Errorf(errs.KindAlreadyExists, "cannot create container %s: there is one of that name", id)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			_ = c.Signal(unix.SIGKILL)
			_, _ = p.Wait()
			if derr := c.Destroy(); derr != nil {
				err = errors.Join(err, derr)
			}
		}
	}()
	if err := c.Start(p); err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", id, err)
	}
	if o.PidFile != "" {
		pid, err := p.Pid()
		if err == nil {
			err = oci.WritePidFile(o.PidFile, pid)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot create container %s: %w", id, err)
		}
	}
	return c, nil
}

// config reads the bundle and translates it.
func (r *Runtime) config(id string, o oci.CreateOptions) (*specs.Spec, *configs.Config, error) {
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, nil, err
	}
	spec, err := oci.LoadBundle(bundle)
	if err != nil {
		return nil, nil, err
	}
	if spec.Process == nil || len(spec.Process.Args) == 0 {
		return nil, nil, errs.Invalid("%s names no process with arguments", filepath.Join(bundle, oci.ConfigFile))
	}
	absolute(spec, bundle)
	fitHugePages(spec)
	fitArchitectures(spec)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       id,
		UseSystemdCgroup: r.o.Systemd,
		NoPivotRoot:      o.NoPivot,
		NoNewKeyring:     o.NoNewKeyring,
		Spec:             spec,
		RootlessEUID:     os.Geteuid() != 0,
		RootlessCgroups:  r.o.Rootless,
	})
	if err != nil {
		return nil, nil, errs.With(errs.KindInvalid, fmt.Errorf("bundle %s: %w", bundle, err))
	}
	// The translator takes our working directory for the bundle.
	for i, label := range config.Labels {
		if strings.HasPrefix(label, "bundle=") && i == len(config.Labels)-1 {
			config.Labels[i] = "bundle=" + bundle
		}
	}
	return spec, config, nil
}

// absolute makes the paths that the specification relates to the bundle
// independent of our working directory, which belongs to the whole process.
func absolute(spec *specs.Spec, bundle string) {
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(bundle, spec.Root.Path)
	}
	for i := range spec.Mounts {
		m := &spec.Mounts[i]
		bind := m.Type == "bind"
		for _, o := range m.Options {
			bind = bind || o == "bind" || o == "rbind"
		}
		if bind && m.Source != "" && !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(bundle, m.Source)
		}
	}
}

// fitHugePages leaves out limits that no controller of this host can hold:
// kubelets send them for every container.
func fitHugePages(spec *specs.Spec) {
	if spec.Linux.Resources == nil {
		return
	}
	var keep []specs.LinuxHugepageLimit
	for _, l := range spec.Linux.Resources.HugepageLimits {
		for _, size := range cgroup.Available().HugePageSizes {
			if size == l.Pagesize {
				keep = append(keep, l)
			}
		}
	}
	spec.Linux.Resources.HugepageLimits = keep
}

// fitArchitectures leaves out of a seccomp profile what is another machine's: this
// kernel never reports such calls, and libcontainer would warn of each architecture
// that it finds no numbers for. A name that nobody knows stays, to be refused.
func fitArchitectures(spec *specs.Spec) {
	var own []string
	switch runtime.GOARCH {
	case "amd64", "386":
		own = []string{string(specs.ArchX86_64), string(specs.ArchX86), string(specs.ArchX32)}
	case "arm64", "arm":
		own = []string{string(specs.ArchAARCH64), string(specs.ArchARM)}
	}
	if p := spec.Linux.Seccomp; p != nil && own != nil {
		known := seccomp.KnownArchs()
		p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool {
			return slices.Contains(known, string(a)) && !slices.Contains(own, string(a))
		})
	}
}

// initProcess describes the container's first process.
func initProcess(p *libcontainer.Process, spec *specs.Spec, config *configs.Config, o oci.CreateOptions) (closeConsole func(), err error) {
	if err := fillProcess(p, spec.Process); err != nil {
		return nil, err
	}
	p.Init = true
	p.ExtraFiles = o.ExtraFiles
	closeConsole = func() {}
	switch {
	case spec.Process.Terminal && o.ConsoleSocket == "":
		return nil, errs.Invalid("the process wants a terminal, but no console socket was given")
	case !spec.Process.Terminal && o.ConsoleSocket != "":
		return nil, errs.Invalid("a console socket was given, but the process wants no terminal")
	case spec.Process.Terminal:
		socket, err := DialConsole(o.ConsoleSocket)
		if err != nil {
			return nil, err
		}
		p.ConsoleSocket = socket
		return func() { socket.Close() }, nil
	}
	// A nil *os.File must not become a non-nil interface.
	if o.Stdin != nil {
		p.Stdin = o.Stdin
	}
	if o.Stdout != nil {
		p.Stdout = o.Stdout
	}
	if o.Stderr != nil {
		p.Stderr = o.Stderr
	}
	return closeConsole, nil
}

// DialConsole connects to the socket that will get the terminal's master.
func DialConsole(path string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot reach console socket %s: %w", path, err)
	}
	defer conn.Close()
	return conn.File()
}

// fillProcess translates a process; what it leaves out comes from the container.
func fillProcess(p *libcontainer.Process, s *specs.Process) error {
	if s.Cwd == "" || !filepath.IsAbs(s.Cwd) {
		return errs.Invalid("the process's working directory %q must be absolute", s.Cwd)
	}
	if len(s.Args) == 0 {
		return errs.Invalid("the process has no arguments")
	}
	p.Args, p.Env, p.Cwd = s.Args, s.Env, s.Cwd
	p.UID, p.GID = int(s.User.UID), int(s.User.GID)
	for _, gid := range s.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(gid))
	}
	p.Label, p.AppArmorProfile = s.SelinuxLabel, s.ApparmorProfile
	p.NoNewPrivileges = &s.NoNewPrivileges
	p.Scheduler, p.IOPriority = s.Scheduler, s.IOPriority
	if s.ConsoleSize != nil {
		p.ConsoleWidth, p.ConsoleHeight = uint16(s.ConsoleSize.Width), uint16(s.ConsoleSize.Height)
	}
	if c := s.Capabilities; c != nil {
		p.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, l := range s.Rlimits {
		kind, err := rlimit(l.Type)
		if err != nil {
			return err
		}
		p.Rlimits = append(p.Rlimits, configs.Rlimit{Type: kind, Hard: l.Hard, Soft: l.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(s.ExecCPUAffinity)
	if err != nil {
		return errs.With(errs.KindInvalid, err)
	}
	p.CPUAffinity = affinity
	return nil
}

// rlimit finds the number of a limit by its name in getrlimit(2).
func rlimit(name string) (int, error) {
	for i, n := range [...]string{
		unix.RLIMIT_CPU: "RLIMIT_CPU", unix.RLIMIT_FSIZE: "RLIMIT_FSIZE", unix.RLIMIT_DATA: "RLIMIT_DATA",
		unix.RLIMIT_STACK: "RLIMIT_STACK", unix.RLIMIT_CORE: "RLIMIT_CORE", unix.RLIMIT_RSS: "RLIMIT_RSS",
		unix.RLIMIT_NPROC: "RLIMIT_NPROC", unix.RLIMIT_NOFILE: "RLIMIT_NOFILE", unix.RLIMIT_MEMLOCK: "RLIMIT_MEMLOCK",
		unix.RLIMIT_AS: "RLIMIT_AS", unix.RLIMIT_LOCKS: "RLIMIT_LOCKS", unix.RLIMIT_SIGPENDING: "RLIMIT_SIGPENDING",
		unix.RLIMIT_MSGQUEUE: "RLIMIT_MSGQUEUE", unix.RLIMIT_NICE: "RLIMIT_NICE", unix.RLIMIT_RTPRIO: "RLIMIT_RTPRIO",
		unix.RLIMIT_RTTIME: "RLIMIT_RTTIME",
	} {
		if n == name {
			return i, nil
		}
	}
	return 0, errs.Invalid("rlimit %q is not known", name)
}

// Start opens the fifo on which the init waits and sees it go.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, err := r.load(id)
	if err != nil {
		return err
	}
	status, err := c.Status()
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", id, err)
	}
	if status != libcontainer.Created {
		return errs.Precondition("cannot start container %s: it is %s", id, status)
	}
	state, err := c.State()
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", id, err)
	}
	if !waits(state.InitProcessPid) {
		return errs.Precondition("cannot start container %s: it is running", id)
	}
	return r.release(ctx, id, state.InitProcessPid)
}

// release reads the byte that the init writes into its fifo just before it runs
// the program. Opening without blocking counts as a reader and lets it go; the
// pidfd ends the wait if it died instead.
func (r *Runtime) release(ctx context.Context, id string, pid int) error {
	path := filepath.Join(r.o.Root, id, "exec.fifo")
	// Before the fifo: a short program may be over the moment it is let go.
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errs.Precondition("cannot start container %s: its process %d is gone", id, pid)
	}
	defer unix.Close(pidfd)
	fifo, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return errs.Precondition("cannot start container %s: somebody else started it", id)
	}
	if err != nil {
		return fmt.Errorf("cannot start container %s: open %s: %w", id, path, err)
	}
	defer unix.Close(fifo)
	err = waitFor(ctx, startTimeout, fmt.Sprintf("process %d to start", pid), pollable{fifo, unix.POLLIN}, pollable{pidfd, unix.POLLIN})
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", id, err)
	}
	var b [8]byte
	n, err := unix.Read(fifo, b[:])
	switch {
	case n > 0:
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot start container %s: %w", id, err)
		}
		return nil
	case n == 0 && err == nil && unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil:
		return errs.Precondition("cannot start container %s: somebody else started it", id)
	}
	return errs.Precondition("cannot start container %s: its process %d ended before it was started", id, pid)
}

// Update changes a container's limits.
func (r *Runtime) Update(_ context.Context, id string, res *specs.LinuxResources) error {
	c, err := r.load(id)
	if err != nil {
		return err
	}
	if res == nil {
		return nil
	}
	config, limits := resources(c)
	cgroup.Merge(limits, res)
	// Device rules are set at creation; setting them again would open a window.
	limits.SkipDevices = true
	err = c.Set(config)
	if errors.Is(err, libcontainer.ErrNotRunning) {
		return errs.Precondition("cannot update container %s: it is not running", id)
	}
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", id, err)
	}
	return nil
}

// pollable is one thing to wait for.
type pollable struct {
	fd     int
	events int16
}

// waitFor waits until one of the descriptors is ready. The context is looked at
// ten times a second; readiness wakes it at once.
func waitFor(ctx context.Context, limit time.Duration, what string, list ...pollable) error {
	end := time.Now().Add(limit)
	fds := make([]unix.PollFd, len(list))
	for i, p := range list {
		fds[i] = unix.PollFd{Fd: int32(p.fd), Events: p.events}
	}
	for {
		n, err := unix.Poll(fds, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return fmt.Errorf("cannot wait for %s: %w", what, err)
		case ctx.Err() != nil:
			return fmt.Errorf("gave up waiting for %s: %w", what, ctx.Err())
		case time.Now().After(end):
			return errs.Errorf(errs.KindDeadline, "waited %s for %s in vain", limit, what)
		}
	}
}
