package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// killTimeout bounds the end of an exec whose context is over.
const killTimeout = 10 * time.Second

// Exec runs the runtime's own exec in the foreground with pipes; its status is
// the process's. With a terminal the runtime gets one of ours and passes on what
// happens there, the way a shell user runs it: a console socket would detach the
// runtime and lose the status.
func (r *Runtime) Exec(ctx context.Context, id string, req oci.ExecRequest) (int, error) {
	if req.Process == nil || len(req.Process.Args) == 0 {
		return -1, errs.Invalid("cannot exec in container %s: no command is given", id)
	}
	if err := r.enterable(ctx, id); err != nil {
		return -1, err
	}
	dir, err := os.MkdirTemp(r.o.Temp, "exec-")
	if err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	defer os.RemoveAll(dir)
	file, err := r.writeTemp(req.Process)
	if err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	defer os.Remove(file)
	x := &execution{r: r, id: id, req: &req, pidFile: filepath.Join(dir, "pid")}
	x.args = []string{"--process", file, "--pid-file", x.pidFile}
	if req.CgroupSub != "" {
		x.args = append(x.args, "--cgroup", req.CgroupSub)
	}
	if req.Process.Terminal {
		x.args = append(x.args, "--tty")
	}
	return x.run(ctx)
}

func (r *Runtime) enterable(ctx context.Context, id string) error {
	s, err := r.State(ctx, id)
	if err != nil {
		return err
	}
	if s.Status == oci.Stopped || s.Status == oci.Paused {
		return errs.Precondition("cannot exec in container %s: it is %s", id, s.Status)
	}
	return nil
}

// execution is one exec.
type execution struct {
	r       *Runtime
	id      string
	req     *oci.ExecRequest
	pidFile string
	args    []string
	streams *oci.Streams
	// own has our copies of descriptors that the child gets: the other end of its
	// terminal, or /dev/null.
	own *os.File
}

func (x *execution) run(ctx context.Context) (int, error) {
	var err error
	if x.streams, err = oci.OpenStreams(x.req); err != nil {
		return -1, fmt.Errorf("cannot exec in container %s: %w", x.id, err)
	}
	defer x.streams.Close()
	c, master, err := x.call()
	if err != nil {
		x.streams.CloseChild()
		return -1, fmt.Errorf("cannot exec in container %s: %w", x.id, err)
	}
	ended := make(chan error, 1)
	code := make(chan int, 1)
	// The run has a context of its own: the runtime must live until the process
	// it waits for has been killed.
	rctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c.ready = func(p *os.Process) {
		x.streams.CloseChild()
		x.own.Close()
		x.streams.Resized = x.resize
		x.streams.Begin(x.req, master)
		go x.follow(rctx, p.Pid, code)
	}
	go func() { ended <- x.r.run(rctx, c) }()
	select {
	case err := <-ended:
		x.streams.Drain(ctx, oci.Drain)
		return x.result(ctx, err)
	case status := <-code:
		return x.abandon(ctx, cancel, ended, status)
	case <-ctx.Done():
	}
	kctx, kcancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer kcancel()
	x.kill(kctx, ended)
	cancel() // if it still runs
	x.streams.Drain(kctx, 0)
	return -1, fmt.Errorf("gave up exec in container %s and killed its process: %w", x.id, ctx.Err())
}

// call describes the child.
func (x *execution) call() (c call, master *os.File, err error) {
	c = call{verb: "exec", args: x.args, id: x.id}
	if !x.req.Process.Terminal {
		if x.own, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
			return c, nil, err
		}
		c.stdin, c.stdout, c.stderr = x.own, x.own, x.own
		child := x.streams.Child
		if child[0] != nil {
			c.stdin = child[0]
		}
		if child[1] != nil {
			c.stdout = child[1]
		}
		if child[2] != nil {
			c.stderr = child[2]
		}
		return c, nil, nil
	}
	master, x.own, err = oci.OpenTerminal()
	if err != nil {
		return c, nil, err
	}
	if size := x.req.Process.ConsoleSize; size != nil {
		_ = oci.SetSize(master, oci.Size{Width: uint16(size.Width), Height: uint16(size.Height)})
	}
	c.stdin, c.stdout, c.stderr = x.own, x.own, x.own
	c.attr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return c, master, nil
}

// pid reads what the runtime wrote when the process ran; 0 before.
func (x *execution) pid() int {
	data, err := os.ReadFile(x.pidFile)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return pid
}

// copied is the most that can be on the way from a process that has ended: two
// pipes and the runtime's buffer.
const copied = 256 << 10

// abandon ends a runtime that outlives its process. runc copies the streams and
// goes on while a background child of the process holds them.
func (x *execution) abandon(ctx context.Context, cancel func(), ended <-chan error, status int) (int, error) {
	quiet := make(chan struct{})
	go func() {
		x.streams.Settle(ctx, copied)
		close(quiet)
	}()
	select {
	case err := <-ended:
		x.streams.Drain(ctx, oci.Drain)
		return x.result(ctx, err)
	case <-quiet:
	}
	cancel() // kills it
	<-ended
	x.streams.Drain(ctx, oci.Drain)
	return status, nil
}

// follow finds the process, announces it, and tells its status when it ends, if
// the kernel gives it to others than the parent. The pid file comes late, when a
// short process may be gone already; but the process is the runtime's child
// before it becomes what was asked for, and is caught as that.
func (x *execution) follow(ctx context.Context, runtime int, code chan<- int) {
	fds := map[int]int{}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	pid := 0
	for pid == 0 && ctx.Err() == nil {
		for _, child := range oci.Children(runtime) {
			if _, have := fds[child]; !have {
				if fd, err := unix.PidfdOpen(child, 0); err == nil {
					fds[child] = fd
				}
			}
		}
		if pid = x.pid(); pid == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if pid == 0 {
		return
	}
	if x.req.Started != nil {
		x.req.Started(pid)
	}
	fd, have := fds[pid]
	if !have {
		return
	}
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 && err == nil {
			if status, ok := exitStatus(fd); ok {
				code <- status
				return
			}
			// Not reaped yet, or a kernel that does not tell.
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// exitStatus asks the kernel how a process that was reaped had ended
// (PIDFD_GET_INFO of pidfd_open(2), since Linux 6.15).
func exitStatus(pidfd int) (int, bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	ws := syscall.WaitStatus(info.Exit_code)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), true
	}
	return ws.ExitStatus(), true
}

// kill kills the process and its descendants again and again until the runtime
// has noticed: it may not have started the process yet.
func (x *execution) kill(ctx context.Context, ended <-chan error) {
	for {
		if pid := x.pid(); pid > 0 {
			oci.KillTree(pid)
		}
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// result tells the process's status from the runtime's own failure: without a
// pid file nothing ran.
func (x *execution) result(ctx context.Context, err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	var exit *exec.ExitError
	if x.pid() > 0 && errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if s, serr := x.r.State(ctx, x.id); serr != nil || s.Status == oci.Stopped {
		return -1, errs.Precondition("cannot exec in container %s: it is not running: %w", x.id, err)
	}
	return -1, errs.Errorf(errs.KindInvalid, "cannot exec %q in container %s: %w", x.req.Process.Args[0], x.id, err)
}

// resize sets the size of the terminal inside as well: not every runtime follows
// the one it runs on (crun 1.8 does not).
func (x *execution) resize(size oci.Size) {
	pid := x.pid()
	if pid == 0 {
		return
	}
	// What the process has open is its own choice, so look before opening.
	path := fmt.Sprintf("/proc/%d/fd/0", pid)
	var st unix.Stat_t
	const firstPts, lastPts = 136, 143
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR ||
		unix.Major(st.Rdev) < firstPts || unix.Major(st.Rdev) > lastPts {
		return
	}
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer tty.Close()
	_ = oci.SetSize(tty, size)
}
