package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is a machine without a kernel: what the seams make is kept in maps, which
// outlive a Manager. Monitors are real processes that do nothing, because their pids
// and start times are looked up.
type node struct {
	mu       sync.Mutex
	random   *rand.Rand
	failures float64 // how often a call of a seam fails
	killed   bool    // the last signal failed: the next one must not
	injected int

	attached, pins, cgroups, leases, mounted map[string]bool
	ctrs                                     map[string]*fakeCtr // by id
	exits                                    map[string]monitor.Exit
}

type fakeCtr struct {
	status  oci.Status
	monitor *exec.Cmd
	input   io.Closer
	done    chan struct{} // closed when the monitor is reaped
}

func newNode(seed uint64) *node {
	return &node{random: rand.New(rand.NewPCG(seed, 2)), attached: map[string]bool{}, pins: map[string]bool{},
		cgroups: map[string]bool{}, leases: map[string]bool{}, mounted: map[string]bool{}, ctrs: map[string]*fakeCtr{}, exits: map[string]monitor.Exit{}}
}

var errInjected = errors.New("injected")

// fails decides whether a call fails. Signals do not fail twice in a row, or kills
// would take their whole patience.
func (n *node) fails(seam string) error {
	chance := n.failures
	if seam == "Detach" { // twice for one pod, to leave a debt
		chance *= 4
	}
	failed := n.random.Float64() < chance
	if seam == "Kill" {
		failed = failed && !n.killed
		n.killed = failed
	}
	if !failed {
		return nil
	}
	n.injected++
	return fmt.Errorf("%s: %w", seam, errInjected)
}

// do makes a change that may fail: before it was made, or after.
func (n *node) do(seam string, change func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.fails(seam)
	if err == nil || n.random.IntN(2) == 0 {
		change()
	}
	return err
}

// held lists what is left on the node.
func (n *node) held() (list []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for what, m := range map[string]map[string]bool{"attachment": n.attached, "pins": n.pins, "cgroup": n.cgroups, "lease": n.leases, "mount": n.mounted} {
		for id := range m {
			list = append(list, what+" "+id)
		}
	}
	for id := range n.ctrs {
		list = append(list, "container "+id)
	}
	slices.Sort(list)
	return list
}

type fakeNetwork struct{ n *node }

func (f fakeNetwork) Select() (cni.Config, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return cni.Config{Name: "fake", List: json.RawMessage("{}")}, f.n.fails("Select")
}

func (f fakeNetwork) Attach(_ context.Context, _ cni.Config, r cni.Request) (cni.Result, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err := f.n.fails("Attach"); err != nil {
		return cni.Result{}, err
	}
	if f.n.attached[r.ID] {
		return cni.Result{}, errors.New("attached twice")
	}
	f.n.attached[r.ID] = true
	return cni.Result{IPs: []string{"10.0.0.1"}, Raw: json.RawMessage("{}")}, nil
}

func (f fakeNetwork) Detach(_ context.Context, _ cni.Config, r cni.Request, _ json.RawMessage) error {
	return f.n.do("Detach", func() { delete(f.n.attached, r.ID) })
}

// GC frees nothing: no record is lost here, so whatever would be freed was forgotten
// and must show in the end.
func (f fakeNetwork) GC(context.Context, []string) error { return nil }

type fakePins struct{ n *node }

func (f fakePins) Pin(_ context.Context, r namespace.PinRequest) error {
	var err error
	return errors.Join(f.n.do("Pin", func() {
		f.n.pins[r.Dir] = true
		for _, k := range r.Kinds { // what a look at the file system takes for a namespace
			link := filepath.Join(r.Dir, string(k))
			os.Remove(link)
			err = errors.Join(err, os.Symlink("/proc/self/ns/"+string(k), link))
		}
	}), err)
}

func (f fakePins) Unpin(dir string) error {
	return f.n.do("Unpin", func() { delete(f.n.pins, dir) })
}

type fakeCgroups struct{ n *node }

func (f fakeCgroups) ParentPath(parent, id string) (string, bool, error) {
	return "/pods/" + id, true, nil
}
func (f fakeCgroups) ContainerPath(parent, id string) string { return parent + "/" + id }

func (f fakeCgroups) Create(_ context.Context, path string, _ *specs.LinuxResources) error {
	return f.n.do("Create cgroup", func() { f.n.cgroups[path] = true })
}

func (f fakeCgroups) Remove(_ context.Context, path string) error {
	return f.n.do("Remove cgroup", func() { delete(f.n.cgroups, path) })
}

type fakeRootfs struct{ n *node }

func (f fakeRootfs) Lease(_ context.Context, l Lease) error {
	return f.n.do("Lease", func() { f.n.leases[l.ID] = true })
}

func (f fakeRootfs) Mount(_ context.Context, id string) (string, error) {
	return "/rootfs/" + id, f.n.do("Mount", func() { f.n.mounted[id] = true })
}

func (f fakeRootfs) Unmount(_ context.Context, id string) error {
	return f.n.do("Unmount", func() { delete(f.n.mounted, id) })
}

func (f fakeRootfs) Release(_ context.Context, id string) error {
	return f.n.do("Release", func() { delete(f.n.leases, id) })
}

// Leases hides all leases from the sweep of orphans, for the reason of GC.
func (f fakeRootfs) Leases(context.Context) ([]string, error) { return nil, nil }

type fakeImages struct{}

func (fakeImages) Resolve(_ context.Context, image *cri.ImageSpec, _ string) (state.Image, error) {
	ref := image.GetImage()
	if ref == "absent" {
		return state.Image{}, errs.NotFound("image", ref)
	}
	return state.Image{ID: ref, Ref: ref, Name: ref}, nil
}

type fakeSpecs struct{ n *node }

func (f fakeSpecs) Container(context.Context, SpecRequest) (*specs.Spec, *state.User, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return &specs.Spec{}, &state.User{}, f.n.fails("Container spec")
}

func (f fakeSpecs) Infra(context.Context, SpecRequest) (*specs.Spec, error) {
	return &specs.Spec{}, nil
}
func (f fakeSpecs) Pod(string, *state.PodRequest, func() []state.PodView) (func(), error) {
	return func() {}, nil
}
func (f fakeSpecs) Admit(*state.PodRequest, *state.ContainerRequest) error { return nil }
func (f fakeSpecs) Check(*cri.LinuxContainerResources) error               { return nil }
func (f fakeSpecs) Limits(...*cri.LinuxContainerResources) *specs.LinuxResources {
	return &specs.LinuxResources{}
}

type fakeHandlers struct{ h *process.Handler }

func (f fakeHandlers) Handler(name string) (*process.Handler, error) {
	if name != "" && name != f.h.Name {
		return nil, errs.NotFound("handler", name)
	}
	return f.h, nil
}

type fakeMonitors struct{ n *node }

func (f fakeMonitors) Start(_ context.Context, s monitor.Spawn) (monitor.Process, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	err := f.n.fails("Start monitor")
	if err != nil && f.n.random.IntN(2) == 0 {
		return monitor.Process{}, err
	}
	// A shell that waits for the end of its input; its arguments name the bundle.
	cmd := exec.Command("/bin/sh", "-c", "read x", "conmon", s.Bundle)
	in, e := cmd.StdinPipe()
	if e == nil {
		e = cmd.Start()
	}
	if e != nil {
		return monitor.Process{}, e
	}
	c := &fakeCtr{status: oci.Created, monitor: cmd, input: in, done: make(chan struct{})}
	go func() { cmd.Wait(); close(c.done) }()
	f.n.ctrs[s.ID] = c
	delete(f.n.exits, s.ID)
	if e := os.WriteFile(s.MonitorPidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600); e != nil {
		return monitor.Process{}, e
	}
	id, e := proc.Find(cmd.Process.Pid)
	if err != nil { // it failed after the runtime had made the container
		f.n.end(s.ID, 1)
		return monitor.Process{}, err
	}
	return monitor.Process{Monitor: id, Container: cmd.Process.Pid}, e
}

// end is the end of a container's process; its monitor notes it and goes too. The
// lock is held.
func (n *node) end(id string, code int) {
	c := n.ctrs[id]
	if c == nil || c.status == oci.Stopped {
		return
	}
	n.exits[id] = monitor.Exit{Code: code, At: time.Now()}
	c.status = oci.Stopped
	c.input.Close()
	<-c.done
}

func (f fakeMonitors) ReadExit(_, _, id string) (monitor.Exit, bool, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	e, ok := f.n.exits[id]
	return e, ok, nil
}

func (f fakeMonitors) Reopen(context.Context, string, string) error { return nil }

func (f fakeMonitors) Attach(context.Context, string, monitor.AttachStreams) error { return nil }

func (f fakeMonitors) Wait(ctx context.Context, id proc.ID) error {
	p, err := proc.Open(id)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	defer p.Close()
	return p.Wait(ctx)
}

type fakeRuntime struct {
	oci.Runtime // what is not called
	n           *node
}

func (f fakeRuntime) Command() (string, string, []string) { return "/runtime", "runtime", nil }

func (f fakeRuntime) Start(_ context.Context, id string) error {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	c := f.n.ctrs[id]
	if c == nil || c.status != oci.Created {
		return errs.Precondition("it is not created")
	}
	if err := f.n.fails("Start"); err != nil {
		return err
	}
	c.status = oci.Running
	return nil
}

func (f fakeRuntime) State(_ context.Context, id string) (oci.State, error) {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	c := f.n.ctrs[id]
	if c == nil {
		return oci.State{}, errs.NotFound("container", id)
	}
	return oci.State{ID: id, Status: c.status}, f.n.fails("State")
}

func (f fakeRuntime) Kill(_ context.Context, id string, sig syscall.Signal, _ bool) error {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err := f.n.fails("Kill"); err != nil {
		return err
	}
	f.n.end(id, 128+int(sig))
	return nil
}

func (f fakeRuntime) Delete(_ context.Context, id string, force bool) error {
	return f.n.do("Delete", func() {
		f.n.end(id, 137)
		delete(f.n.ctrs, id)
	})
}

func (f fakeRuntime) Resume(context.Context, string) error { return nil }

// fakePlugins refuse now and then, where that may be.
type fakePlugins struct{ *node }

func (fakePlugins) Hold() func() { return func() {} }

func (f fakePlugins) Pod(_ context.Context, m state.PodMoment, _ *state.PodView) error {
	return f.do(fmt.Sprint("Plugins.Pod ", m), func() {})
}

func (f fakePlugins) Container(_ context.Context, m state.ContainerMoment, _ *state.PodView, _ *state.ContainerView) error {
	return f.do(fmt.Sprint("Plugins.Container ", m), func() {})
}

func (f fakePlugins) Create(context.Context, *state.PodView, *state.ContainerView, *specs.Spec) error {
	return f.do("Plugins.Create", func() {})
}

func (f fakePlugins) Update(_ context.Context, _ *state.PodView, _ *state.ContainerView, r *cri.LinuxContainerResources) (*cri.LinuxContainerResources, error) {
	return r, f.do("Plugins.Update", func() {})
}

func (f fakePlugins) UpdatePod(context.Context, *state.PodView, *cri.LinuxContainerResources, *cri.LinuxContainerResources) error {
	return f.do("Plugins.UpdatePod", func() {})
}

func (f fakeRootfs) Diff(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}

func (f fakeRuntime) Checkpoint(context.Context, string, oci.CheckpointOptions) error { return nil }
