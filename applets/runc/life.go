package runc

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// createFlags are those that create and run share.
func createFlags(c *cobra.Command, o *oci.CreateOptions, preserve *int) {
	f := c.Flags()
	f.StringVarP(&o.Bundle, "bundle", "b", "", "folder with config.json (default the current one)")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	f.StringVar(&o.PidFile, "pid-file", "", "file for the process id")
	f.BoolVar(&o.NoPivot, "no-pivot", false, "do not use pivot_root; for a root on a ramdisk")
	f.BoolVar(&o.NoNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	f.IntVar(preserve, "preserve-fds", 0, "number of further descriptors to hand on")
}

func (a *app) create() *cobra.Command {
	var o oci.CreateOptions
	var preserve int
	c := a.verb("create", "make a container up to the start of its program", func(ctx context.Context, id string) error {
		if err := inherit(&o, preserve); err != nil {
			return err
		}
		return a.rt.Create(ctx, id, o)
	})
	createFlags(c, &o, &preserve)
	return c
}

// inherit hands our descriptors to the container: the standard ones, those of
// socket activation (sd_listen_fds(3)), and as many more as were asked for.
func inherit(o *oci.CreateOptions, preserve int) error {
	o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	var err error
	o.ExtraFiles, err = extraFiles(preserve)
	return err
}

func extraFiles(preserve int) ([]*os.File, error) {
	n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if preserve < 0 || n < 0 || preserve+n > 1<<16 {
		return nil, errs.Invalid("cannot hand on %d descriptors", preserve+n)
	}
	var files []*os.File
	for fd := 3; fd < 3+n+preserve; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, errs.Invalid("cannot hand on descriptor %d: it is not open", fd)
		}
		files = append(files, os.NewFile(uintptr(fd), "preserved"+strconv.Itoa(fd)))
	}
	return files, nil
}

func (a *app) start() *cobra.Command {
	return a.verb("start", "run a created container's program", a.rtStart)
}

func (a *app) rtStart(ctx context.Context, id string) error { return a.rt.Start(ctx, id) }

// stateJSON is what "state" prints and what "list" prints many of: the state of
// the specification and the fields that runc adds.
type stateJSON struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	Pid         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     string            `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// created is runc's form of the time.
const created = "2006-01-02T15:04:05.999999999Z07:00"

func (a *app) stateOf(s oci.State) stateJSON {
	rootfs, _ := a.rt.Rootfs(s.ID)
	return stateJSON{
		Version: specs.Version, ID: s.ID, Pid: s.Pid, Status: string(s.Status), Bundle: s.Bundle, Rootfs: rootfs,
		Created: s.Created.Format(created), Annotations: s.Annotations, Owner: owner(filepath.Join(a.root, s.ID)),
	}
}

func (a *app) state() *cobra.Command {
	return a.verb("state", "print the state of a container", func(ctx context.Context, id string) error {
		s, err := a.rt.State(ctx, id)
		if err != nil {
			return err
		}
		return a.printJSON(a.stateOf(s), true)
	})
}

func (a *app) printJSON(v any, indent bool) error {
	e := json.NewEncoder(a.out)
	if indent {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

func (a *app) kill() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "kill CONTAINER [SIGNAL]", Short: "send a signal to a container's first process (default TERM)",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			sig := unix.SIGTERM
			if len(args) == 2 {
				var err error
				if sig, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			if all { // the verb of the seam forgives absence, the command line does not
				if _, err := a.rt.State(c.Context(), args[0]); err != nil {
					return err
				}
			}
			return a.rt.Kill(c.Context(), args[0], sig, all)
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "to all processes of the container")
	return c
}

// parseSignal understands "9", "KILL" and "SIGKILL".
func parseSignal(s string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, errs.Invalid("there is no signal %d", n)
		}
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, errs.Invalid("there is no signal %q", s)
}

func (a *app) remove() *cobra.Command {
	var force bool
	c := a.verb("delete", "remove a stopped container", func(ctx context.Context, id string) error {
		if _, err := a.rt.State(ctx, id); errs.Is(err, errs.KindNotFound) && !force {
			return errors.Join(err, a.rt.Delete(ctx, id, false)) // remains of a failed creation
		}
		return a.rt.Delete(ctx, id, force)
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "kill it first if it runs")
	return c
}

func (a *app) pause() *cobra.Command {
	return a.verb("pause", "freeze all processes of a container", func(ctx context.Context, id string) error {
		return a.rt.Pause(ctx, id)
	})
}

func (a *app) resume() *cobra.Command {
	return a.verb("resume", "thaw all processes of a container", func(ctx context.Context, id string) error {
		s, err := a.rt.State(ctx, id)
		if err == nil && s.Status != oci.Paused {
			return errs.Precondition("cannot resume container %s: it is %s", id, s.Status)
		}
		return a.rt.Resume(ctx, id)
	})
}

func (a *app) run() *cobra.Command {
	var o oci.CreateOptions
	var preserve int
	var detach, keep, noReaper bool
	c := a.verb("run", "create and start a container and wait for it", func(ctx context.Context, id string) error {
		if err := inherit(&o, preserve); err != nil {
			return err
		}
		if detach {
			return a.runDetached(ctx, id, o)
		}
		return a.runForeground(ctx, id, o, keep, noReaper)
	})
	createFlags(c, &o, &preserve)
	c.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait")
	c.Flags().BoolVar(&keep, "keep", false, "do not delete the container when it ends")
	c.Flags().BoolVar(&noReaper, "no-subreaper", false, "do not adopt orphans of the container")
	return c
}

func (a *app) runDetached(ctx context.Context, id string, o oci.CreateOptions) error {
	_, err := a.rt.Run(ctx, id, o)
	return err
}

func (a *app) runForeground(ctx context.Context, id string, o oci.CreateOptions, keep, noReaper bool) (err error) {
	if !noReaper {
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	spec, err := oci.LoadBundle(bundleOf(o))
	if err != nil {
		return err
	}
	var tty *terminal
	if spec.Process != nil && spec.Process.Terminal && o.ConsoleSocket == "" {
		if tty, err = newTerminal(); err != nil {
			return err
		}
		defer tty.close()
		o.ConsoleSocket = tty.path
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	p, err := a.rt.Run(ctx, id, o)
	if err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, a.rt.Delete(ctx, id, true)) }()
	}
	if tty != nil {
		if err := tty.begin(); err != nil {
			_ = p.Signal(unix.SIGKILL)
			_, _ = p.Wait()
			return err
		}
	}
	a.code, err = a.foreground(p, signals, tty)
	return err
}

func bundleOf(o oci.CreateOptions) string {
	if o.Bundle == "" {
		return "."
	}
	return o.Bundle
}

// process is what foreground waits for.
type process interface {
	Pid() int
	Signal(os.Signal) error
	Wait() (int, error)
}

// foreground waits for a process, hands our signals on to it and reaps orphans
// that came to us as their subreaper.
func (a *app) foreground(p process, signals <-chan os.Signal, tty *terminal) (int, error) {
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := p.Wait()
		ended <- result{code, err}
	}()
	for {
		select {
		case r := <-ended:
			if tty != nil {
				tty.drain()
			}
			if r.err != nil {
				return 1, r.err
			}
			return r.code, nil
		case s := <-signals:
			switch s {
			case unix.SIGCHLD:
				reapOrphans(p.Pid())
			case unix.SIGURG: // Go's own
			case unix.SIGWINCH:
				if tty != nil {
					tty.resize()
				}
			default:
				_ = p.Signal(s)
			}
		}
	}
}

// reapOrphans reaps ended children except the one that somebody else waits for.
func reapOrphans(except int) {
	for {
		var info unix.Siginfo
		// Look without reaping first: the process itself belongs to its waiter.
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			return
		}
		pid := childOf(&info)
		if pid == 0 || pid == except {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return
		}
	}
}
