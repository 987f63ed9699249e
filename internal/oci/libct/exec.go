package libct

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// SpawnRequest asks for a process in a container with the caller's descriptors
// as its streams.
type SpawnRequest struct {
	Process               *specs.Process
	Stdin, Stdout, Stderr *os.File // nil: /dev/null; unused with a terminal
	// Console is a connected unix socket that gets the terminal's master.
	Console *os.File
	// ExtraFiles become descriptors 3, 4, ...
	ExtraFiles []*os.File
	// SubCgroups maps a controller ("" for all) to a cgroup below the container's.
	SubCgroups map[string]string
	// IgnorePaused starts the process in a paused container, where it waits.
	IgnorePaused bool
}

// Proc is a process that the caller started in a container and must wait for.
type Proc struct{ p *libcontainer.Process }

// Pid is the process in our pid namespace.
func (p *Proc) Pid() int {
	pid, _ := p.p.Pid()
	return pid
}

// Signal sends a signal; a process that has ended is success.
func (p *Proc) Signal(sig os.Signal) error {
	if err := p.p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal process %d: %w", p.Pid(), err)
	}
	return nil
}

// Wait reaps the process and returns its exit status, 128 plus the number for a
// signal.
func (p *Proc) Wait() (int, error) {
	s, err := p.p.Wait()
	if s == nil {
		return -1, fmt.Errorf("cannot wait for process %d: %w", p.Pid(), err)
	}
	if ws := s.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return s.ExitCode(), nil
}

// Spawn starts a process in a running container.
func (r *Runtime) Spawn(ctx context.Context, id string, req SpawnRequest) (*Proc, error) {
	c, err := r.enterable(ctx, id, req.IgnorePaused)
	if err != nil {
		return nil, err
	}
	return r.spawn(c, req)
}

// enterable loads a container that can be given one more process.
func (r *Runtime) enterable(ctx context.Context, id string, paused bool) (*libcontainer.Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	c, err := r.load(id)
	if err != nil {
		return nil, err
	}
	status, err := c.Status()
	if err != nil {
		return nil, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	if status == libcontainer.Stopped || status == libcontainer.Paused && !paused {
		return nil, errs.Precondition("cannot exec in container %s: it is %s", id, status)
	}
	return c, nil
}

func (r *Runtime) spawn(c *libcontainer.Container, req SpawnRequest) (*Proc, error) {
	p := &libcontainer.Process{
		ExtraFiles: req.ExtraFiles, ConsoleSocket: req.Console, SubCgroupPaths: req.SubCgroups,
		LogLevel: r.logLevel(),
	}
	if err := fillProcess(p, req.Process); err != nil {
		return nil, fmt.Errorf("cannot exec in container %s: %w", c.ID(), err)
	}
	if req.Stdin != nil {
		p.Stdin = req.Stdin
	}
	if req.Stdout != nil {
		p.Stdout = req.Stdout
	}
	if req.Stderr != nil {
		p.Stderr = req.Stderr
	}
	if err := c.Start(p); err != nil {
		// libcontainer reports a missing or forbidden command, the common cause, as
		// text of its init only; the state tells whether the container is to blame.
		kind := errs.KindInvalid
		if status, serr := c.Status(); serr != nil || status == libcontainer.Stopped {
			kind = errs.KindPrecondition
		}
		return nil, errs.Errorf(kind, "cannot exec %q in container %s: %w", req.Process.Args[0], c.ID(), err)
	}
	return &Proc{p}, nil
}

// Exec runs a process in a container, carries its streams and waits for it.
func (r *Runtime) Exec(ctx context.Context, id string, req oci.ExecRequest) (int, error) {
	if req.Process == nil {
		return -1, errs.Invalid("cannot exec in container %s: no process is given", id)
	}
	c, err := r.enterable(ctx, id, false)
	if err != nil {
		return -1, err
	}
	cell := newCell(c, req.CgroupSub)
	defer cell.remove()
	streams, err := oci.OpenStreams(&req)
	if err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	defer streams.Close()
	var console, child *os.File
	if req.Process.Terminal {
		if console, child, err = socketPair(); err != nil {
			streams.CloseChild()
			return -1, fmt.Errorf("cannot exec in container %s: %w", id, err)
		}
		defer console.Close()
	}
	proc, err := r.spawn(c, SpawnRequest{
		Process: req.Process, SubCgroups: cell.sub, Console: child,
		Stdin: streams.Child[0], Stdout: streams.Child[1], Stderr: streams.Child[2],
	})
	streams.CloseChild()
	if child != nil {
		child.Close()
	}
	if err != nil {
		return -1, err
	}
	var master *os.File
	if console != nil {
		if master, err = oci.ReceiveConsole(console); err != nil {
			_ = proc.Signal(unix.SIGKILL)
			_, _ = proc.Wait()
			return -1, fmt.Errorf("cannot exec in container %s: cannot receive the terminal: %w", id, err)
		}
	}
	streams.Begin(&req, master)
	if req.Started != nil {
		req.Started(proc.Pid())
	}
	return wait(ctx, id, proc, cell, streams)
}

// socketPair is the way on which the init sends us a terminal.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console-init"), nil
}

// wait sees a process through: to its own end, or to that of the context.
func wait(ctx context.Context, id string, proc *Proc, cell *cell, streams *oci.Streams) (int, error) {
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := proc.Wait()
		ended <- result{code, err}
	}()
	select {
	case r := <-ended:
		streams.Drain(ctx, oci.Drain)
		if r.err != nil {
			return -1, fmt.Errorf("cannot exec in container %s: %w", id, r.err)
		}
		return r.code, nil
	case <-ctx.Done():
	}
	// A new context: the old one is over and cannot bound the cleaning up.
	kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	kerr := cell.kill(kctx, proc)
	select {
	case <-ended:
	case <-kctx.Done():
		kerr = errors.Join(kerr, fmt.Errorf("process %d does not die", proc.Pid()))
	}
	streams.Drain(kctx, 0)
	err := fmt.Errorf("gave up exec in container %s and killed its processes: %w", id, ctx.Err())
	if kerr != nil {
		err = fmt.Errorf("%w (not completely: %v)", err, kerr)
	}
	return -1, err
}

// cell is a cgroup of an exec's own below the container's, so that everything it
// started can be killed with it. On version 2 it is in the one tree; on version
// 1 in the freezer's, where nothing is accounted.
type cell struct {
	dir, parent string // whole paths; empty: none could be made
	sub         map[string]string
}

var cellCount atomic.Uint64

// newCell makes one; a host that does not allow it gets exec without, and then
// only the process itself and its descendants by parenthood are killed.
func newCell(c *libcontainer.Container, wish string) *cell {
	if wish != "" {
		return &cell{sub: map[string]string{"": wish}}
	}
	state, err := c.State()
	if err != nil || c.Config().RootlessCgroups {
		return &cell{}
	}
	controller := "freezer"
	if cgroup.Unified() {
		controller = ""
	}
	parent := state.CgroupPaths[controller]
	if parent == "" {
		return &cell{}
	}
	name := "exec-" + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(cellCount.Add(1), 10)
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return &cell{}
	}
	return &cell{dir: dir, parent: parent, sub: map[string]string{controller: name}}
}

// remove moves whoever is left into the container's cgroup and removes the cell.
func (c *cell) remove() {
	if c.dir == "" {
		return
	}
	for delay := time.Millisecond; delay < 50*time.Millisecond; delay *= 2 {
		if err := unix.Rmdir(c.dir); err == nil || err == unix.ENOENT {
			return
		}
		if cgroup.MoveAll(c.dir, c.parent) > 0 {
			continue // whatever moved may have left children behind; look again
		}
		time.Sleep(delay)
	}
	_ = unix.Rmdir(c.dir) // deleting the container will
}

func (c *cell) kill(ctx context.Context, proc *Proc) error {
	if c.dir != "" {
		return cgroup.KillDir(ctx, c.dir)
	}
	oci.KillTree(proc.Pid())
	return nil
}
