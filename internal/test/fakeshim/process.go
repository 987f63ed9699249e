package fakeshim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	events1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/command"
)

// process is a container's first one or that of an exec. pid and code are set before
// others can ask for them: by the answer to Start, and by done.
type process struct {
	paths    oci.Paths
	terminal bool
	spec     *specs.Process // of an exec
	pid      int
	code     int
	done     chan struct{}
	sizes    chan oci.Size

	mu     sync.Mutex
	master *os.File
}

func newProcess(paths oci.Paths, terminal bool) *process {
	return &process{paths: paths, terminal: terminal, done: make(chan struct{}), sizes: make(chan oci.Size, 8)}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// resize sets the terminal of a container; that of an exec is the runtime's.
func (p *process) resize(s oci.Size) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.master != nil {
		_ = oci.SetSize(p.master, s)
		return
	}
	select {
	case p.sizes <- s:
	default:
	}
}

// files opens the streams by their names.
func (p *process) files() (f [3]*os.File, err error) {
	for i, path := range []string{p.paths.Stdin, p.paths.Stdout, p.paths.Stderr} {
		if path == "" {
			continue
		}
		mode := os.O_WRONLY
		if i == 0 {
			mode = os.O_RDONLY
		}
		if f[i], err = os.OpenFile(path, mode, 0); err != nil {
			closeAll(f)
			return f, err
		}
	}
	return f, nil
}

func closeAll(f [3]*os.File) {
	for _, f := range f {
		if f != nil {
			f.Close()
		}
	}
}

// container is a task.
type container struct {
	process
	id, bundle string
	dir        string // our own bundle, of the runtime inside
	cgroup     string
	rt         *command.Runtime
	execs      map[string]*process // under the service's lock
}

func newContainer(dir string, r *task.CreateTaskRequest) (*container, error) {
	if err := pulls(r.Rootfs); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(r.Bundle, "rootfs")); err != nil {
		return nil, errs.Invalid("the bundle has no root file system: %w", err)
	}
	c := &container{id: r.ID, bundle: r.Bundle, dir: filepath.Join(dir, "bundles", r.ID), execs: map[string]*process{}}
	p := newProcess(oci.Paths{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr}, r.Terminal)
	c.paths, c.terminal, c.done, c.sizes = p.paths, p.terminal, p.done, p.sizes
	config := Config{}
	if r.Options != nil {
		var o runtimeoptions.Options
		if r.Options.TypeUrl != "runtimeoptions.v1.Options" {
			return nil, errs.Invalid("the options are a %q", r.Options.TypeUrl)
		}
		if err := r.Options.UnmarshalTo(&o); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(o.ConfigPath)
		if err == nil {
			err = json.Unmarshal(data, &config)
		}
		if err != nil {
			return nil, errs.Invalid("configuration: %w", err)
		}
	}
	if config.Runtime == "" {
		var err error
		if config.Runtime, err = exec.LookPath("runc"); err != nil {
			return nil, err
		}
	}
	var err error
	c.rt, err = command.New(command.Options{Path: config.Runtime, Name: "inner", Root: filepath.Join(dir, "state")})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	return c, os.WriteFile(filepath.Join(c.dir, "runtime"), []byte(config.Runtime), 0o600)
}

// pulls takes the one mount that is none: an image that is to be pulled inside. It only
// says so in the log.
func pulls(rootfs []*types.Mount) error {
	for _, m := range rootfs {
		text, ok := strings.CutPrefix(strings.Join(m.Options, ","), "io.katacontainers.volume=")
		data, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil {
			return errs.Unimplemented("nothing is mounted here")
		}
		fmt.Fprintf(os.Stderr, "pulls inside: %s\n", data)
	}
	return nil
}

func (c *container) clear() { os.RemoveAll(c.dir) }

// create makes the container up to its start, and waits for its end beside.
func (c *container) create(ctx context.Context) error {
	spec, err := oci.LoadBundle(c.bundle)
	if err != nil {
		return err
	}
	if path := spec.Linux.CgroupsPath; path != "" {
		spec.Linux.CgroupsPath = filepath.Join(filepath.Dir(path), "guest-"+c.id)
		c.cgroup = spec.Linux.CgroupsPath
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(c.bundle, spec.Root.Path)
	}
	if err := oci.WriteBundle(c.dir, spec); err != nil {
		return err
	}
	socket := filepath.Join(filepath.Dir(filepath.Dir(c.dir)), c.id[:min(len(c.id), 12)]) // its path must be short
	o := oci.CreateOptions{Bundle: c.dir, PidFile: filepath.Join(c.dir, "pid")}
	files, err := c.files()
	if err != nil {
		return err
	}
	finish := func() { closeAll(files) }
	if c.terminal {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			return err
		}
		defer l.Close()
		o.ConsoleSocket = socket
		got := make(chan error, 1)
		go func() { got <- c.receive(l) }()
		if err = c.rt.Create(ctx, c.id, o); err == nil {
			err = <-got
		}
		if err != nil {
			finish()
			return err
		}
		finish = c.copy(files)
	} else {
		o.Stdin, o.Stdout, o.Stderr = files[0], files[1], files[2]
		err := c.rt.Create(ctx, c.id, o)
		finish()
		if err != nil {
			return err
		}
		finish = func() {}
	}
	data, err := os.ReadFile(o.PidFile)
	if err == nil {
		c.pid, err = strconv.Atoi(string(data))
	}
	if err != nil {
		return err
	}
	go c.await(finish)
	return nil
}

// receive takes the terminal.
func (c *container) receive(l *net.UnixListener) error {
	_ = l.SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	m, err := oci.ReceiveConsole(f)
	c.mu.Lock()
	c.master = m
	c.mu.Unlock()
	return err
}

// copy moves what comes through the terminal; the returned function waits for the
// last of it.
func (c *container) copy(files [3]*os.File) func() {
	out := make(chan struct{})
	go func() {
		if files[0] != nil {
			_, _ = io.Copy(c.master, files[0])
		}
	}()
	go func() {
		defer close(out)
		_, _ = io.Copy(files[1], c.master)
		c.master.Close() // a reader that is gone is a line that is dead
	}()
	return func() {
		<-out
		closeAll(files)
	}
}

// await is the end of a container.
func (c *container) await(finish func()) {
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(c.pid, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	c.code = ws.ExitStatus()
	if ws.Signaled() {
		c.code = 128 + int(ws.Signal())
		if n, err := cgroup.OOMKills(c.cgroup); err == nil && n > 0 {
			c.publishOOM()
		}
	}
	finish()
	close(c.done)
}

// publishOOM tells, before the end is told, why it came.
func (c *container) publishOOM() {
	conn, err := net.Dial("unix", os.Getenv("TTRPC_ADDRESS"))
	if err != nil {
		return
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	event := &anypb.Any{TypeUrl: "containerd.events.TaskOOM", Value: protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), c.id)}
	_, _ = events1.NewEventsClient(client).Forward(context.Background(), &events1.ForwardRequest{Envelope: &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: os.Getenv("NAMESPACE"), Topic: "/tasks/oom", Event: event}})
}

// startExec returns when the process runs, or cannot.
func (c *container) startExec(p *process) error {
	files, err := p.files()
	if err != nil {
		return err
	}
	p.spec.Terminal = p.terminal
	req := oci.ExecRequest{Process: p.spec, Resize: p.sizes}
	if files[0] != nil {
		req.Stdin = files[0]
	}
	if files[1] != nil {
		req.Stdout = files[1]
	}
	if files[2] != nil {
		req.Stderr = files[2]
	}
	started := make(chan int, 1)
	req.Started = func(pid int) { started <- pid }
	failed := make(chan error, 1)
	go func() {
		code, err := c.rt.Exec(context.Background(), c.id, req)
		closeAll(files)
		if err != nil {
			failed <- err
			return
		}
		p.code = code
		close(p.done)
	}()
	select {
	case p.pid = <-started:
		return nil
	case <-p.done:
		return nil
	case err := <-failed:
		return errors.Join(errors.New("cannot start the process"), err)
	}
}

// metrics puts statistics into the message of version 1 of cgroups, by the numbers
// that its definition gives the fields.
func metrics(u *oci.Stats) *anypb.Any {
	number := func(b []byte, field protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
	}
	message := func(b []byte, field protowire.Number, sub []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), sub)
	}
	pids := number(number(nil, 1, u.Pids.Current), 2, u.Pids.Limit)
	cpu := message(nil, 1, number(number(number(nil, 1, u.CPU.Total), 2, u.CPU.System), 3, u.CPU.User))
	memory := number(number(number(nil, 18, u.Memory.Cache), 19, u.Memory.RSS), 30, u.Memory.Usage-u.Memory.WorkingSet)
	memory = message(memory, 33, number(number(nil, 1, u.Memory.Limit), 2, u.Memory.Usage))
	var b []byte
	b = message(message(message(b, 2, pids), 3, cpu), 4, memory)
	return &anypb.Any{TypeUrl: "io.containerd.cgroups.v1.Metrics", Value: b}
}
