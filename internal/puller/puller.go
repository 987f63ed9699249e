// Package puller pulls images in processes of their own, each in the cgroup that has to
// bear its cost (separate_pull_cgroup): the daemon's half starts them, the other half is
// what they do.
//
// It knows images, their store and cgroups, and no pod.
package puller

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

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/storage"
)

// Command is the command, of crio, by which the daemon runs itself for one pull.
const Command = "pull-for-daemon"

// pullers implements image.Outside.
type pullers struct {
	where  string
	driver cgroup.Driver
	store  storage.Options
}

// New makes what starts the processes for separate_pull_cgroup = where; nil if that is
// empty.
func New(where string, d cgroup.Driver, store storage.Options) (image.Outside, error) {
	if where == "" {
		return nil, nil
	}
	store.Log = nil
	if slice := strings.HasSuffix(where, ".slice"); where != "pod" && (!slice || d != cgroup.Systemd) {
		return nil, errs.Invalid("[crio.runtime] separate_pull_cgroup = %q: allowed are \"pod\", and with systemd as cgroup manager the name of a slice", where)
	}
	return &pullers{where: where, driver: d, store: store}, nil
}

// Place implements image.Outside. A request that names no pod is the daemon's own.
func (p *pullers) Place(parent string) (string, error) {
	if p.where != "pod" {
		return p.where, nil
	}
	if parent == "" {
		return "", nil
	}
	return cgroup.ParentPath(p.driver, parent)
}

// order is what the process reads.
type order struct {
	Store storage.Options
	Job   image.Job
}

// pulling is a process that pulls.
type pulling struct {
	io.Reader
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bytes.Buffer
	path  string // its cgroup, if that is to be deleted
	p     *pullers
}

// Start implements image.Outside. The process waits for the job, and gets it when it is
// where it belongs.
func (p *pullers) Start(ctx context.Context, place string, j image.Job) (io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", Command)
	cmd.Args[0] = "crio"
	// A signal for the daemon's process group is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r := &pulling{cmd: cmd, said: &bytes.Buffer{}, p: p}
	cmd.Stderr = r.said
	var err error
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if r.Reader, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	id := ident.New()
	if p.driver == cgroup.Systemd {
		err = cgroup.PlaceScope(cmd.Process.Pid, filepath.Base(place), "crio-pull", id)
	} else {
		r.path = filepath.Join(place, "crio-pull-"+id)
		err = cgroup.Place(cmd.Process.Pid, r.path)
	}
	if err == nil {
		err = json.NewEncoder(r.stdin).Encode(order{Store: p.store, Job: j})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the process, by the end of its input, and tells what it said if it failed.
func (r *pulling) Close() error {
	if r.cmd.ProcessState != nil {
		return nil
	}
	r.stdin.Close()
	err := r.cmd.Wait()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(r.said.String()))
	}
	if r.path != "" {
		err = errors.Join(err, cgroup.Remove(context.Background(), r.p.driver, r.path))
	}
	return err
}

// Run does one pull for a daemon: the job comes by in, reports go to out. It ends with the
// daemon, whose end is the end of in.
func Run(in io.Reader, out io.Writer, log *slog.Logger) (err error) {
	var j order
	d := json.NewDecoder(in)
	if err := d.Decode(&j); err != nil {
		return fmt.Errorf("cannot read the job: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(1) // half a layer is nobody's; the daemon's next start removes it
	}()
	j.Store.Log = log
	store, err := storage.Open(j.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	artifacts := artifact.New(artifact.Options{Root: artifact.In(j.Store.Root), Log: log})
	return image.New(image.Options{Store: store, Artifacts: artifacts, BigFilesDir: j.Job.BigFilesDir, Rules: j.Job.Rules, Log: log}).Work(j.Job, out)
}
