package shim

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
)

// killed is the exit status of a container whose shim went away: with it went the
// machine, so it is that of a process that was killed.
const killed = 128 + int(unix.SIGKILL)

// proxy is the process that stands for a container. It starts the shim, or finds
// that of the pod, has the container made, and then moves its streams between the
// shim's named pipes and our own descriptors until the container ends. It ends with
// the container's exit status. Its parent, a monitor as a rule, needs not know that
// this is not the container.
type proxy struct {
	*Runtime
	id     string
	o      oci.CreateOptions
	spec   *specs.Spec
	rec    *record
	client *client
	// The container's side of our streams, as an exec has them.
	req     oci.ExecRequest
	streams *oci.Streams
	tty     *os.File // our side of the terminal that the monitor has
	events  *events
}

// Proxy runs the proxy of a container whose record Create has made, and returns the
// exit status. to gets what Create waits for; then settled is called, and nothing may
// happen for a long time.
func (r *Runtime) Proxy(id string, o oci.CreateOptions, to *os.File, settled func()) int {
	p := &proxy{Runtime: r, id: id, o: o}
	// The ends of a monitor or of a reader are no reason to end: the container goes on.
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	err := p.begin(context.Background())
	told := report{}
	if err != nil {
		told = report{Kind: errs.KindOf(err), Error: err.Error()}
	}
	data, merr := json.Marshal(told)
	if _, werr := to.Write(append(data, '\n')); err == nil && merr == nil && werr != nil {
		err = werr // who wanted the container is gone
		if derr := r.Delete(context.Background(), id, true); derr != nil {
			err = errors.Join(err, derr)
		}
	}
	to.Close()
	if err != nil {
		return 1
	}
	settled()
	return p.follow()
}

// begin brings the container up to the point where its process waits for Start.
func (p *proxy) begin(ctx context.Context) (err error) {
	if p.rec, err = p.get(p.id); err != nil {
		return err
	}
	if p.rec.Proxy, err = proc.Find(os.Getpid()); err != nil {
		return err
	}
	if p.spec, err = oci.LoadBundle(p.o.Bundle); err != nil {
		return err
	}
	if path := p.spec.Linux.CgroupsPath; path != "" {
		if p.rec.Cgroup, err = cgroup.Path(p.driver(), path); err != nil {
			return err
		}
	}
	p.rec.Environ = os.Environ()
	if err = p.put(p.id, p.rec); err != nil {
		return err
	}
	if err = p.place(); err != nil {
		return err
	}
	if err = p.linkRoot(); err != nil {
		return err
	}
	if err = p.joinPIDs(); err != nil {
		return err
	}
	if err = keepLog(filepath.Join(p.o.Bundle, "log"), p.path(p.id, logFile)); err != nil {
		return err
	}
	p.events = p.serveEvents(p.id)
	if p.rec.Address, p.rec.Service, err = p.startShim(ctx); err != nil {
		return err
	}
	if err = p.put(p.id, p.rec); err != nil {
		return err
	}
	if p.client, err = dial(ctx, p.id, p.rec); err != nil {
		return err
	}
	if p.rec.Task, err = p.create(ctx); err != nil {
		log, _ := os.ReadFile(p.path(p.id, logFile))
		if log = lastWords(log); len(log) > 0 {
			err = fmt.Errorf("%w; its log ends: %s", err, log)
		}
		return err
	}
	return p.put(p.id, p.rec)
}

// place moves us, and so the shim that we start, into the container's cgroup: what a
// pod's machine takes is then counted for the pod.
func (p *proxy) place() error {
	if p.rec.Cgroup == "" {
		return nil
	}
	if !p.Runtime.o.Systemd {
		return cgroup.Place(os.Getpid(), p.rec.Cgroup)
	}
	parts := strings.Split(p.spec.Linux.CgroupsPath, ":") // cgroup.Path has seen that they are three
	return cgroup.PlaceScope(os.Getpid(), parts[0], parts[1], parts[2])
}

// linkRoot makes the root file system appear where the protocol has it, for shims that
// look there and not into the specification: it is mounted elsewhere already, so the
// shim is asked to mount nothing.
func (p *proxy) linkRoot() error {
	root := p.spec.Root.Path
	if !filepath.IsAbs(root) {
		return nil
	}
	err := os.Symlink(root, filepath.Join(p.o.Bundle, "rootfs"))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// joinPIDs corrects the PID namespace that the bundle wants to join. Who wrote it took
// another container's proxy for the container: joined as it is, it would be the node's.
func (p *proxy) joinPIDs() error {
	for i, n := range p.spec.Linux.Namespaces {
		var pid int
		if _, err := fmt.Sscanf(n.Path, "/proc/%d/ns/pid", &pid); n.Type != specs.PIDNamespace || err != nil {
			continue
		}
		entries, err := os.ReadDir(p.Runtime.o.Root)
		if err != nil {
			return err
		}
		for _, e := range entries {
			rec, err := p.get(e.Name())
			if err != nil || rec.Proxy.Pid != pid || !rec.Proxy.Alive() {
				continue
			}
			if rec.Task == 0 {
				return errs.Precondition("cannot join the PID namespace of container %s: it is being made", e.Name())
			}
			p.spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", rec.Task)
			return oci.WriteBundle(p.o.Bundle, p.spec)
		}
	}
	return nil
}

// startShim returns the address of the shim: a new one's, or that of the pod's.
func (p *proxy) startShim(ctx context.Context) (address, service string, err error) {
	cmd := p.call(ctx, p.id, p.rec, "start")
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	// It goes with us, who are killed when the creation is given up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread() // whose death that is
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil || cmd.ProcessState != nil && !cmd.ProcessState.Success() {
		return "", "", fmt.Errorf("%s start: %w: %s", p.Runtime.o.Path, err, lastWords(words.Bytes()))
	}
	address = strings.TrimSpace(out.String())
	if !strings.HasPrefix(address, "{") {
		if address == "" {
			return "", "", fmt.Errorf("%s start told no address: %s", p.Runtime.o.Path, lastWords(words.Bytes()))
		}
		return address, serviceV2, nil
	}
	var told struct {
		Version           int
		Address, Protocol string
	}
	if err := json.Unmarshal([]byte(address), &told); err != nil {
		return "", "", fmt.Errorf("%s start told no address: %w", p.Runtime.o.Path, err)
	}
	if told.Protocol != "ttrpc" || told.Version < 2 || told.Version > 3 {
		return "", "", errs.Invalid("%s speaks version %d of the protocol over %s; 2 and 3 over ttrpc are known", p.Runtime.o.Path, told.Version, told.Protocol)
	}
	if told.Version == 3 {
		return told.Address, serviceV3, nil
	}
	return told.Address, serviceV2, nil
}

// create has the shim make the task, and returns its pid.
func (p *proxy) create(ctx context.Context) (int, error) {
	p.req.Process = p.spec.Process
	if err := p.openStreams(); err != nil {
		return 0, err
	}
	dir := p.path(p.id, streamsDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	streams, paths, err := oci.OpenFIFOs(&p.req, dir)
	if err != nil {
		return 0, err
	}
	p.streams = streams
	if paths.Stderr != "" && sameFile(os.Stdout, os.Stderr) { // one pipe keeps their order
		paths.Stderr = paths.Stdout
	}
	req := &task.CreateTaskRequest{ID: p.id, Bundle: p.o.Bundle, Terminal: p.spec.Process.Terminal,
		Stdin: paths.Stdin, Stdout: paths.Stdout, Stderr: paths.Stderr}
	if file := p.Runtime.o.Config; file != "" {
		options := &anypb.Any{}
		if err := options.MarshalFrom(&runtimeoptions.Options{ConfigPath: file}); err != nil {
			return 0, err
		}
		options.TypeUrl = string(options.MessageName()) // as containerd's registry of types names it
		req.Options = options
	}
	if p.Runtime.o.PullImage {
		m, err := guestPull(p.spec.Annotations)
		if err != nil {
			return 0, err
		}
		req.Rootfs = []*types.Mount{m}
	}
	made := &task.CreateTaskResponse{}
	err = p.client.do(ctx, "Create", req, made)
	return int(made.Pid), err
}

// guestPull is the root file system of a container whose image is pulled inside the
// machine, in the form that kata's design of guest images has: a volume that names the
// image, as an option of a mount that is none. The infra process's comes with the
// machine.
func guestPull(annotations map[string]string) (*types.Mount, error) {
	image := annotations["io.kubernetes.cri-o.ImageName"]
	if annotations["io.kubernetes.cri.container-type"] == "sandbox" {
		image = "pause"
	}
	if image == "" {
		return nil, errs.Invalid("the bundle does not say by annotation io.kubernetes.cri-o.ImageName which image is to be pulled")
	}
	volume, err := json.Marshal(map[string]any{"volume_type": "image_guest_pull", "source": image, "fs_type": "overlay",
		"image_pull": map[string]any{"metadata": map[string]string{}}})
	return &types.Mount{Type: "overlay", Source: "none", Options: []string{"io.katacontainers.volume=" + base64.StdEncoding.EncodeToString(volume)}}, err
}

// openStreams finds out what of our descriptors the container gets, or makes its
// terminal and sends it to the monitor.
func (p *proxy) openStreams() error {
	if !p.spec.Process.Terminal {
		p.req.Stdout, p.req.Stderr = os.Stdout, os.Stderr
		if !isNull(os.Stdin) {
			p.req.Stdin = &held{os.Stdin, p.awaitStart}
		}
		return nil
	}
	master, slave, err := oci.OpenTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	// Ours, so that we are told when its size changes. Reads know no deadline then, but
	// they need none: it is read until we end.
	if err := unix.IoctlSetInt(int(slave.Fd()), unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("cannot take the terminal: %w", err)
	}
	p.tty = slave
	p.req.Stdin, p.req.Stdout = &held{slave, p.awaitStart}, slave
	sizes := make(chan oci.Size, 1)
	p.req.Resize = sizes
	go p.sizes(sizes)
	return oci.SendConsole(p.o.ConsoleSocket, master)
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	y, err2 := b.Stat()
	return err == nil && err2 == nil && os.SameFile(x, y)
}

func isNull(f *os.File) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(os.DevNull, &b) == nil && a.Rdev == b.Rdev && a.Mode&unix.S_IFMT == unix.S_IFCHR
}

// held is an input that does not end before the container runs: a shim may open its
// end of the pipe as late as that, and one without a writer it might wait for.
type held struct {
	io.Reader
	until func()
}

func (h *held) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	if err != nil && n == 0 {
		h.until()
	}
	return n, err
}

// awaitStart returns when the container is no more in the state before Start.
func (p *proxy) awaitStart() {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if s, err := p.client.state(context.Background(), ""); err != nil || statusOf(s.Status) != oci.Created {
			return
		}
		time.Sleep(wait)
	}
}

// sizes follows the size of our terminal.
func (p *proxy) sizes(to chan<- oci.Size) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	last := oci.Size{}
	for ; ; <-changed {
		ws, err := unix.IoctlGetWinsize(int(p.tty.Fd()), unix.TIOCGWINSZ)
		if err == nil && (oci.Size{Width: ws.Col, Height: ws.Row}) != last {
			last = oci.Size{Width: ws.Col, Height: ws.Row}
			p.awaitStart()
			to <- last
		}
	}
}

// follow moves the streams until the container has ended.
func (p *proxy) follow() int {
	ctx := context.Background()
	p.streams.Resized = func(s oci.Size) {
		_ = p.client.do(ctx, "ResizePty", &task.ResizePtyRequest{ID: p.id, Width: uint32(s.Width), Height: uint32(s.Height)}, nil)
	}
	p.streams.InputEnded = func() {
		_ = p.client.do(ctx, "CloseIO", &task.CloseIORequest{ID: p.id, Stdin: true}, nil)
	}
	p.streams.Begin(&p.req, nil)
	go p.forward()
	code, err := p.client.wait(ctx, "")
	if err != nil {
		code = killed
	}
	p.streams.CloseChild()
	p.streams.Drain(ctx, tailTimeout)
	p.events.close()
	return code
}

// forward hands signals that are sent to us on to the container.
func (p *proxy) forward() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	for s := range signals {
		_ = p.client.kill(context.Background(), "", uint32(s.(syscall.Signal)), false)
	}
}
