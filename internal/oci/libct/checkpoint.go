package libct

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// criu is the options that checkpoints and restores have in common. Cgroups are made
// for the container that is restored, not for the one that was: criu leaves them
// alone.
func criu(images, work string) *libcontainer.CriuOpts {
	return &libcontainer.CriuOpts{ImagesDirectory: images, WorkDirectory: work, FileLocks: true, ManageCgroupsMode: "ignore"}
}

// Checkpoint writes a container's processes down; see criu(8).
func (r *Runtime) Checkpoint(ctx context.Context, id string, o oci.CheckpointOptions) error {
	c, err := r.enterable(ctx, id, true)
	if err != nil {
		return err
	}
	opts := criu(o.Images, o.Work)
	opts.LeaveRunning, opts.TcpEstablished = o.LeaveRunning, o.TCPEstablished
	done := make(chan error, 1)
	go func() { done <- c.Checkpoint(opts) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		// criu undoes what it did to the processes when it ends, and it does end: it is
		// not waited for beyond the caller's patience.
		return fmt.Errorf("gave up checkpointing container %s: %w", id, ctx.Err())
	}
	return criuError("checkpoint", id, filepath.Join(o.Work, "dump.log"), err)
}

// Restore makes a container whose processes come from images; they run when it
// returns. The first one becomes the caller's child, as in Create.
func (r *Runtime) Restore(ctx context.Context, id string, o oci.CreateOptions, images, work string) (_ *Proc, err error) {
	if !oci.ValidID(id) {
		return nil, errs.Invalid("cannot restore container %q: a name has letters, digits and \"_+-.\" only", id)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot restore container %s: %w", id, err)
	}
	spec, config, err := r.config(id, o)
	if err != nil {
		return nil, fmt.Errorf("cannot restore container %s: %w", id, err)
	}
	p := &libcontainer.Process{}
	closeConsole, err := initProcess(p, spec, config, o)
	if err != nil {
		return nil, fmt.Errorf("cannot restore container %s: %w", id, err)
	}
	defer closeConsole()
	c, err := libcontainer.Create(r.o.Root, id, config)
	if errors.Is(err, libcontainer.ErrExist) {
		return nil, errs.Errorf(errs.KindAlreadyExists, "cannot restore container %s: there is one of that name", id)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot restore container %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			_ = c.Signal(unix.SIGKILL)
			err = errors.Join(err, c.Destroy())
		}
	}()
	opts := criu(images, work)
	if err := criuError("restore", id, filepath.Join(work, "restore.log"), c.Restore(p, opts)); err != nil {
		return nil, err
	}
	if o.PidFile == "" {
		return &Proc{p}, nil
	}
	pid, err := p.Pid()
	if err == nil {
		err = oci.WritePidFile(o.PidFile, pid)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot restore container %s: %w", id, err)
	}
	return &Proc{p}, nil
}

// criuError tells an absent criu from one that failed, of which the last words count.
func criuError(verb, id, log string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return errs.Precondition("cannot %s container %s: there is no criu in PATH; install it: %w", verb, id, err)
	}
	words, locking := lastErrors(log)
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	if locking { // no option of its protocol, and in a file named there it crashes criu 4.2
		err = fmt.Errorf("criu could not lock the container's network; install iptables, or write \"network-lock nftables\" or \"network-lock skip\" into /etc/criu/default.conf: %w", err)
	}
	return errs.Errorf(errs.KindPrecondition, "cannot %s container %s: %w", verb, id, err)
}

// lastErrors are the last lines of criu's log that tell of an error, and whether one
// of all was the network's lock.
func lastErrors(log string) (words string, locking bool) {
	data, err := os.ReadFile(log)
	if err != nil {
		return "", false
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if _, text, ok := strings.Cut(line, "Error "); ok {
			found = append(found, strings.TrimSpace(text))
			locking = locking || strings.Contains(text, "Locking network failed")
		}
	}
	return strings.Join(found[max(0, len(found)-3):], "; "), locking
}
