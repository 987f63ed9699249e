// Package command is an OCI runtime that is somebody else's executable: runc,
// crun, kata-runtime, ... It speaks the command line that runc made common.
//
// Every verb is one short-lived child with an argument vector, never a shell.
// What a failure means is found by asking for the state afterwards; the
// runtime's words are passed on in the error and decide nothing. It imports the
// seam and the kernel's cgroups and knows nothing of what runs the verbs.
package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// Options configure a runtime.
type Options struct {
	// Path is the executable, Name what the configuration calls it.
	Path, Name string
	// Argv0 is the name it is called by; empty: Path.
	Argv0 string
	// Root is the folder for the containers' state.
	Root string
	// Systemd lets systemd make the cgroups.
	Systemd bool
	// Temp is a folder of ours for what is handed over in files; empty: the
	// system's. Files in it are private and short-lived.
	Temp string
	// Log gets what is worth telling but no error; nil: nobody.
	Log *slog.Logger
}

// Runtime drives one executable. It has no state of its own.
type Runtime struct{ o Options }

var _ oci.Runtime = (*Runtime)(nil)

// New returns a runtime; KindInvalid if the options lack what is needed, or if
// there is no such executable.
func New(o Options) (*Runtime, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Argv0 == "" {
		o.Argv0 = o.Path
	}
	if !filepath.IsAbs(o.Root) {
		return nil, errs.Invalid("runtime %s: the root folder %q must be an absolute path", o.Name, o.Root)
	}
	if !filepath.IsAbs(o.Path) || unix.Access(o.Path, unix.X_OK) != nil {
		return nil, errs.Invalid("runtime %s: %q is not the absolute path of an executable", o.Name, o.Path)
	}
	return &Runtime{o}, nil
}

// Command tells a monitor how to run the runtime.
func (r *Runtime) Command() (path, argv0 string, globalArgs []string) {
	globalArgs = []string{"--root", r.o.Root}
	if r.o.Systemd {
		globalArgs = append(globalArgs, "--systemd-cgroup")
	}
	return r.o.Path, r.o.Argv0, globalArgs
}

// call is one run of the executable.
type call struct {
	verb   string
	args   []string
	id     string
	stdin  *os.File
	stdout io.Writer // nil: discarded
	stderr *os.File
	files  []*os.File
	attr   *syscall.SysProcAttr
	// ready is called when the process has been started.
	ready func(*os.Process)
}

// lastWords bounds what of a runtime's messages is kept.
const lastWords = 8 << 10

// run runs a verb to its end. The error carries the runtime's own words.
func (r *Runtime) run(ctx context.Context, c call) error {
	dir, err := os.MkdirTemp(r.o.Temp, "runtime-")
	if err != nil {
		return fmt.Errorf("cannot run %s: %w", r.o.Name, err)
	}
	defer os.RemoveAll(dir)
	logFile := filepath.Join(dir, "log")
	_, _, args := r.Command()
	args = append(args, "--log", logFile, "--log-format", "json", c.verb)
	args = append(append(args, c.args...), c.id)
	if c.id == "" {
		args = args[:len(args)-1]
	}
	cmd := exec.CommandContext(ctx, r.o.Path, args...)
	cmd.Args[0] = r.o.Argv0
	cmd.SysProcAttr = c.attr
	cmd.WaitDelay = time.Second // a child of its own may hold our pipe
	cmd.ExtraFiles = c.files
	if c.stdin != nil {
		cmd.Stdin = c.stdin
	}
	cmd.Stdout = c.stdout
	var words bytes.Buffer
	if c.stderr != nil {
		cmd.Stderr = c.stderr
	} else {
		cmd.Stderr = &limited{&words}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run %s: %w", r.o.Path, err)
	}
	if c.ready != nil {
		c.ready(cmd.Process)
	}
	err = cmd.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well, only its pipe lives on
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s %s did not end in time: %w", r.o.Name, c.verb, ctx.Err())
	}
	return &failure{verb: r.o.Name + " " + c.verb, words: message(logFile, words.String()), cause: err}
}

// failure is a run that ended badly.
type failure struct {
	verb, words string
	cause       error
}

func (f *failure) Error() string {
	if f.words == "" {
		return f.verb + ": " + f.cause.Error()
	}
	return f.verb + ": " + f.words
}

func (f *failure) Unwrap() error { return f.cause }

// limited keeps the first bytes and swallows the rest.
type limited struct{ b *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), lastWords-l.b.Len())])
	return len(p), nil
}

// message takes the errors out of a log in JSON lines; without any, what was
// written to standard error.
func message(logFile, stderr string) string {
	var list []string
	data, _ := os.ReadFile(logFile)
	for line := range bytes.Lines(data[max(0, len(data)-lastWords):]) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") && entry.Msg != "" {
			list = append(list, entry.Msg)
		}
	}
	if list == nil {
		return strings.TrimSpace(stderr)
	}
	return strings.Join(list, "; ")
}

// stateJSON is the state as runtime-spec's runtime.md has it, with the time that
// runc and crun add.
type stateJSON struct {
	ID          string            `json:"id"`
	Status      string            `json:"status"`
	Pid         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
}

// State asks the runtime.
func (r *Runtime) State(ctx context.Context, id string) (oci.State, error) {
	if !oci.ValidID(id) || r.unused() {
		return oci.State{}, errs.NotFound("container", id)
	}
	var out bytes.Buffer
	if err := r.run(ctx, call{verb: "state", id: id, stdout: &out}); err != nil {
		if r.vanished(ctx, id) {
			return oci.State{}, errs.NotFound("container", id)
		}
		return oci.State{}, fmt.Errorf("cannot read state of container %s: %w", id, err)
	}
	var s stateJSON
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		return oci.State{}, fmt.Errorf("cannot read state of container %s: %s answered no JSON: %w", id, r.o.Name, err)
	}
	return oci.State{
		ID: s.ID, Status: oci.Status(s.Status), Pid: s.Pid, Bundle: s.Bundle, Created: s.Created, Annotations: s.Annotations,
	}, nil
}

// unused tells that the root folder was not made yet, so that nothing is in it.
func (r *Runtime) unused() bool {
	_, err := os.Stat(r.o.Root)
	return errors.Is(err, os.ErrNotExist)
}

// vanished asks for the list of containers, since a failed "state" may have any
// reason.
func (r *Runtime) vanished(ctx context.Context, id string) bool {
	if _, err := os.Stat(filepath.Join(r.o.Root, id)); err == nil {
		return false
	}
	var out bytes.Buffer
	if err := r.run(ctx, call{verb: "list", args: []string{"--quiet"}, stdout: &out}); err != nil {
		return true
	}
	for name := range strings.FieldsSeq(out.String()) {
		if name == id {
			return false
		}
	}
	return true
}

// classify gives a failed verb its kind: by what the container's state is.
func (r *Runtime) classify(ctx context.Context, verb, id string, err error, allowed ...oci.Status) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
	}
	s, serr := r.State(ctx, id)
	switch {
	case errs.Is(serr, errs.KindNotFound):
		return serr
	case serr != nil:
		return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
	}
	for _, a := range allowed {
		if s.Status == a {
			return fmt.Errorf("cannot %s container %s: %w", verb, id, err)
		}
	}
	return errs.Precondition("cannot %s container %s: it is %s: %w", verb, id, s.Status, err)
}

// Create makes a container.
func (r *Runtime) Create(ctx context.Context, id string, o oci.CreateOptions) error {
	if !oci.ValidID(id) {
		return errs.Invalid("cannot create container %q: a name has letters, digits and \"_+-.\" only", id)
	}
	if _, err := oci.LoadBundle(o.Bundle); err != nil {
		return fmt.Errorf("cannot create container %s: %w", id, err)
	}
	if _, err := os.Stat(filepath.Join(r.o.Root, id)); err == nil {
		return errs.Errorf(errs.KindAlreadyExists, "cannot create container %s: there is one of that name", id)
	}
	args := []string{"--bundle", o.Bundle}
	for _, opt := range []struct{ flag, value string }{
		{"--console-socket", o.ConsoleSocket}, {"--pid-file", o.PidFile},
	} {
		if opt.value != "" {
			args = append(args, opt.flag, opt.value)
		}
	}
	if o.NoPivot {
		args = append(args, "--no-pivot")
	}
	if o.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	if n := len(o.ExtraFiles); n > 0 {
		args = append(args, "--preserve-fds", fmt.Sprint(n))
	}
	// The container inherits the streams, so /dev/null must be meant: a pipe of
	// ours would make us wait for the container's end.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot create container %s: %w", id, err)
	}
	defer null.Close()
	streams := [3]*os.File{o.Stdin, o.Stdout, o.Stderr}
	for i := range streams {
		if streams[i] == nil {
			streams[i] = null
		}
	}
	err = r.run(ctx, call{
		verb: "create", args: args, id: id, files: o.ExtraFiles,
		stdin: streams[0], stdout: streams[1], stderr: streams[2],
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot create container %s: %w", id, err)
	// Runtimes differ in what they leave of a failed creation.
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if derr := r.Delete(dctx, id, true); derr != nil {
		err = errors.Join(err, derr)
	}
	return err
}

// Start starts a container.
func (r *Runtime) Start(ctx context.Context, id string) error {
	if !oci.ValidID(id) {
		return errs.NotFound("container", id)
	}
	if err := r.run(ctx, call{verb: "start", id: id}); err != nil {
		return r.classify(ctx, "start", id, err, oci.Created)
	}
	return nil
}

// Kill sends a signal.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	sure := all && sig == unix.SIGKILL
	if !oci.ValidID(id) {
		if sure {
			return nil
		}
		return errs.NotFound("container", id)
	}
	if sure {
		s, err := r.State(ctx, id)
		switch {
		case errs.Is(err, errs.KindNotFound):
			return nil
		case err == nil && s.Status == oci.Stopped:
			return r.killRemains(ctx, s)
		}
	}
	var args []string
	if all {
		args = append(args, "--all")
	}
	err := r.run(ctx, call{verb: "kill", args: append(args, id, fmt.Sprint(int(sig)))})
	if err == nil {
		return nil
	}
	err = r.classify(ctx, "kill", id, err, oci.Created, oci.Running, oci.Paused)
	if sure && (errs.Is(err, errs.KindNotFound) || errs.Is(err, errs.KindPrecondition)) {
		return nil // it ended meanwhile
	}
	return err
}

// killRemains kills what outlived the init of a container without a pid namespace
// of its own. Runtimes refuse signals to a stopped container, and old ones delete
// it without looking into its cgroup.
func (r *Runtime) killRemains(ctx context.Context, s oci.State) error {
	spec, err := oci.LoadBundle(s.Bundle)
	if err != nil || spec.Linux.CgroupsPath == "" {
		return nil // nothing tells where to look
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace && n.Path == "" {
			return nil // the kernel has killed them
		}
	}
	driver := cgroup.Cgroupfs
	if r.o.Systemd {
		driver = cgroup.Systemd
	}
	path, err := cgroup.Path(driver, spec.Linux.CgroupsPath)
	if err != nil {
		return fmt.Errorf("cannot kill the remains of container %s: %w", s.ID, err)
	}
	if err := cgroup.KillAll(ctx, path); err != nil {
		return fmt.Errorf("cannot kill the remains of container %s: %w", s.ID, err)
	}
	return nil
}

// Delete removes a container.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	s, err := r.State(ctx, id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	}
	if err == nil && !force && s.Status != oci.Stopped {
		return errs.Precondition("cannot delete container %s: it is %s; stop it first or force it", id, s.Status)
	}
	if err == nil && s.Status == oci.Paused { // frozen processes do not die
		if err := r.Resume(ctx, id); err != nil {
			r.o.Log.Warn("paused container cannot be resumed before deletion", "ctr", id, "err", err)
		}
	}
	if err == nil && s.Status == oci.Stopped {
		if err := r.killRemains(ctx, s); err != nil {
			return err
		}
	}
	var args []string
	if force {
		args = append(args, "--force")
	}
	if err := r.run(ctx, call{verb: "delete", args: args, id: id}); err != nil {
		if _, serr := r.State(ctx, id); errs.Is(serr, errs.KindNotFound) {
			return nil
		}
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	return nil
}

// Update changes limits; the values go over in a file.
func (r *Runtime) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	s, err := r.State(ctx, id)
	switch {
	case err != nil:
		return err
	case s.Status == oci.Stopped:
		return errs.Precondition("cannot update container %s: it is not running", id)
	case res == nil:
		return nil
	}
	file, err := r.writeTemp(res)
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", id, err)
	}
	defer os.Remove(file)
	if err := r.run(ctx, call{verb: "update", args: []string{"--resources", file}, id: id}); err != nil {
		return r.classify(ctx, "update", id, err, oci.Created, oci.Running, oci.Paused)
	}
	return nil
}

// Checkpoint writes a container's processes down.
func (r *Runtime) Checkpoint(ctx context.Context, id string, o oci.CheckpointOptions) error {
	args := []string{"--image-path", o.Images, "--work-path", o.Work, "--file-locks", "--manage-cgroups-mode", "ignore"}
	if o.LeaveRunning {
		args = append(args, "--leave-running")
	}
	if o.TCPEstablished {
		args = append(args, "--tcp-established")
	}
	if err := r.run(ctx, call{verb: "checkpoint", args: args, id: id}); err != nil {
		return errs.With(errs.KindPrecondition, r.classify(ctx, "checkpoint", id, err, oci.Running, oci.Paused))
	}
	return nil
}

// writeTemp writes a value as JSON to a private file.
func (r *Runtime) writeTemp(v any) (string, error) {
	f, err := os.CreateTemp(r.o.Temp, "runtime-*.json")
	if err != nil {
		return "", err
	}
	err = json.NewEncoder(f).Encode(v)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

// Pause freezes a container.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.freeze(ctx, "pause", id, oci.Paused, oci.Created, oci.Running)
}

// Resume thaws a container.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	return r.freeze(ctx, "resume", id, oci.Running, oci.Paused)
}

func (r *Runtime) freeze(ctx context.Context, verb, id string, goal oci.Status, from ...oci.Status) error {
	s, err := r.State(ctx, id)
	if err != nil || s.Status == goal {
		return err
	}
	if err := r.run(ctx, call{verb: verb, id: id}); err != nil {
		return r.classify(ctx, verb, id, err, from...)
	}
	return nil
}

// Processes lists the pids.
func (r *Runtime) Processes(ctx context.Context, id string) ([]int, error) {
	s, err := r.State(ctx, id)
	if err != nil || s.Status == oci.Stopped {
		return nil, err
	}
	var out bytes.Buffer
	if err := r.run(ctx, call{verb: "ps", args: []string{"--format", "json"}, id: id, stdout: &out}); err != nil {
		return nil, r.classify(ctx, "list processes of", id, err, oci.Created, oci.Running, oci.Paused)
	}
	var pids []int
	if err := json.Unmarshal(out.Bytes(), &pids); err != nil {
		return nil, fmt.Errorf("cannot list processes of container %s: %s answered no JSON: %w", id, r.o.Name, err)
	}
	return pids, nil
}

// Stats reads the cgroup of the container's init; no child is needed.
func (r *Runtime) Stats(ctx context.Context, id string) (*oci.Stats, error) {
	s, err := r.State(ctx, id)
	if err != nil {
		return nil, err
	}
	if s.Pid <= 0 {
		return nil, errs.Precondition("cannot read statistics of container %s: it is %s", id, s.Status)
	}
	path, err := cgroup.Of(s.Pid)
	if err == nil {
		var u *oci.Stats
		if u, err = cgroup.Stats(path); err == nil {
			return u, nil
		}
	}
	return nil, fmt.Errorf("cannot read statistics of container %s: %w", id, err)
}

// Features asks the runtime; an old one does not know the verb.
func (r *Runtime) Features(ctx context.Context) (*features.Features, error) {
	var out bytes.Buffer
	if err := r.run(ctx, call{verb: "features", stdout: &out}); err != nil {
		return nil, errs.Errorf(errs.KindUnimplemented, "runtime %s does not tell its features: %w", r.o.Name, err)
	}
	f := &features.Features{}
	if err := json.Unmarshal(out.Bytes(), f); err != nil {
		return nil, errs.Errorf(errs.KindUnimplemented, "runtime %s does not tell its features as JSON: %w", r.o.Name, err)
	}
	return f, nil
}
