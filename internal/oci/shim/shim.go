// Package shim is a runtime that runs containers behind a shim of version 2: an
// executable containerd-shim-*, one process per pod, that is asked over ttrpc.
// Runtimes with a virtual machine for each pod, such as kata, come in this form.
//
// The contract is that of the documents "Runtime v2" and of the messages in
// containerd/api. Two things in it differ from an OCI runtime. A container has no
// process here that a monitor could wait for: Create leaves a proxy (see proxy.go),
// our own executable, whose pid, streams and exit status stand for the container's.
// And who asks is not who was there before: everything else is on disk, in a record
// per container (record.go), and in the shim, which any process may ask (task.go).
package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
)

// Options configure a runtime.
type Options struct {
	// Path is the shim's executable, Name what the configuration calls it.
	Path, Name string
	// Config is a file that the shim is told to read; empty: its own choice.
	Config string
	// PullImage has the shim pull a container's image inside its machine.
	PullImage bool
	// Root is the folder for the records.
	Root string
	// Self is our executable under a name that makes it run applets/shimrun.
	Self string
	// Systemd lets systemd make the cgroups.
	Systemd bool
	// Log gets what is worth telling but no error; nil: nobody.
	Log *slog.Logger
}

// Runtime runs containers through one shim executable. It has no state of its own.
type Runtime struct{ o Options }

var _ oci.Runtime = (*Runtime)(nil)

// New returns a runtime; KindInvalid if the options lack what is needed, or if
// there is no such executable.
func New(o Options) (*Runtime, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if !filepath.IsAbs(o.Root) {
		return nil, errs.Invalid("runtime %s: the root folder %q must be an absolute path", o.Name, o.Root)
	}
	if !filepath.IsAbs(o.Path) || unix.Access(o.Path, unix.X_OK) != nil {
		return nil, errs.Invalid("runtime %s: %q is not the absolute path of an executable", o.Name, o.Path)
	}
	return &Runtime{o}, nil
}

// Command tells a monitor how to run the applet that is this runtime's command line.
func (r *Runtime) Command() (path, argv0 string, globalArgs []string) {
	globalArgs = []string{"--root", r.o.Root, "--name", r.o.Name, "--shim", r.o.Path}
	if r.o.Config != "" {
		globalArgs = append(globalArgs, "--shim-config", r.o.Config)
	}
	if r.o.PullImage {
		globalArgs = append(globalArgs, "--pull-image")
	}
	if r.o.Systemd {
		globalArgs = append(globalArgs, "--systemd-cgroup")
	}
	return r.o.Self, r.o.Self, globalArgs
}

func (r *Runtime) driver() cgroup.Driver {
	if r.o.Systemd {
		return cgroup.Systemd
	}
	return cgroup.Cgroupfs
}

const (
	// killTimeout bounds the end of what is given up.
	killTimeout = 10 * time.Second
	// politeTimeout is how long a shim has to end a container, and then itself, before
	// it is taken for one that does not answer; both fit into what the callers of Delete
	// wait.
	politeTimeout, selfTimeout = 5 * time.Second, 3 * time.Second
	// tailTimeout bounds the wait for what a process wrote before its end while the
	// shim holds its streams open.
	tailTimeout = 2 * time.Second
)

// report is what a proxy tells whoever started it, as JSON: that the container is
// there, or why not.
type report struct {
	Kind  errs.Kind
	Error string
}

// Create makes a container: it starts its proxy and waits for its report.
func (r *Runtime) Create(ctx context.Context, id string, o oci.CreateOptions) (err error) {
	if !oci.ValidID(id) {
		return errs.Invalid("cannot create container %q: a name has letters, digits and \"_+-.\" only", id)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot create container %s: %w", id, err)
		}
	}()
	spec, err := oci.LoadBundle(o.Bundle)
	if err != nil {
		return err
	}
	if len(o.ExtraFiles) > 0 {
		return errs.Invalid("descriptors cannot be handed on through a shim")
	}
	if spec.Process == nil || spec.Process.Terminal != (o.ConsoleSocket != "") {
		return errs.Invalid("a console socket is needed if and only if the process has a terminal")
	}
	if o.Bundle, err = filepath.Abs(o.Bundle); err != nil {
		return err
	}
	if err := os.MkdirAll(r.o.Root, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(r.dir(id), 0o700); errors.Is(err, fs.ErrExist) {
		return errs.Errorf(errs.KindAlreadyExists, "there is one of that name")
	} else if err != nil {
		return err
	}
	err = r.put(id, &record{Bundle: o.Bundle, Created: time.Now(), Annotations: spec.Annotations})
	var p *os.Process
	if err == nil {
		p, err = r.startProxy(ctx, id, o)
	}
	if err == nil && o.PidFile != "" {
		err = oci.WritePidFile(o.PidFile, p.Pid)
	}
	if err != nil {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*killTimeout)
		defer cancel()
		err = errors.Join(err, r.Delete(dctx, id, true))
		if p != nil {
			_, _ = p.Wait()
		}
		return err
	}
	return p.Release()
}

// startProxy returns the proxy when it has reported. It is a child of ours in a
// session of its own; with an error it may still run.
func (r *Runtime) startProxy(ctx context.Context, id string, o oci.CreateOptions) (*os.Process, error) {
	ours, its, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	_, argv0, args := r.Command()
	args = append(args, "proxy", "--bundle", o.Bundle)
	if o.ConsoleSocket != "" {
		args = append(args, "--console-socket", o.ConsoleSocket)
	}
	cmd := exec.Command(r.o.Self, append(args, id)...)
	cmd.Args[0] = argv0
	for i, f := range []*os.File{o.Stdin, o.Stdout, o.Stderr} {
		if f == nil {
			continue // exec opens /dev/null
		}
		switch i {
		case 0:
			cmd.Stdin = f
		case 1:
			cmd.Stdout = f
		default:
			cmd.Stderr = f
		}
	}
	cmd.ExtraFiles = []*os.File{its}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	its.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", r.o.Self, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ours.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var told report
	err = json.NewDecoder(ours).Decode(&told)
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s did not make it in time: %w", r.o.Name, ctx.Err())
	case err != nil:
		err = fmt.Errorf("its proxy ended without a word: %w", err)
	case told.Error != "":
		err = errs.Errorf(told.Kind, "%s", told.Error)
	}
	return cmd.Process, err
}

// Features: the protocol has no verb for it that shims must know.
func (r *Runtime) Features(context.Context) (*features.Features, error) {
	return nil, errs.Unimplemented("runtime %s is a shim, which does not tell its features", r.o.Name)
}

// Checkpoint: what criu would have to write down is inside a machine.
func (r *Runtime) Checkpoint(_ context.Context, id string, _ oci.CheckpointOptions) error {
	return errs.Precondition("cannot checkpoint container %s: the runtime %s is a shim, and criu does not reach its processes", id, r.o.Name)
}

// Processes is the proxy, which stands for the container: pids inside a machine mean
// nothing here.
func (r *Runtime) Processes(ctx context.Context, id string) ([]int, error) {
	s, err := r.State(ctx, id)
	if err != nil || s.Pid == 0 {
		return nil, err
	}
	return []int{s.Pid}, nil
}

// ended waits for a process for as long as the context lasts, and no longer than that
// for one that cannot be found.
func ended(ctx context.Context, id proc.ID) bool {
	fd, err := proc.Open(id)
	if err != nil {
		return true
	}
	defer fd.Close()
	return fd.Wait(ctx) == nil
}

// end kills a process.
func end(id proc.ID) {
	if fd, err := proc.Open(id); err == nil {
		_ = fd.Signal(unix.SIGKILL)
		fd.Close()
	}
}
