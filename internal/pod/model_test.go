package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/process"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// model is what a kubelet believes about its pods: the manager must agree.
type model struct {
	t      *testing.T
	m      *Manager
	n      *node
	random *rand.Rand
	worker int
	pods   map[string]*modelPod // by name
	trace  []string
}

type modelPod struct {
	id       string
	ready    bool
	stopping bool // a stop failed half-way: nothing new is let in
	infra    bool
	ctrs     map[string]*modelCtr // by name
}

type modelCtr struct {
	id    string
	state cri.ContainerState
}

const (
	created = cri.ContainerState_CONTAINER_CREATED
	running = cri.ContainerState_CONTAINER_RUNNING
	exited  = cri.ContainerState_CONTAINER_EXITED
)

func (k *model) fatalf(format string, args ...any) {
	k.t.Helper()
	k.t.Fatalf("worker %d after %v: %s", k.worker, k.trace[max(0, len(k.trace)-12):], fmt.Sprintf(format, args...))
}

func (k *model) note(format string, args ...any) {
	k.trace = append(k.trace, fmt.Sprintf(format, args...))
}

// want checks an error: its kind, or none; or, where a seam is used, that it was
// injected. It returns whether the call succeeded.
func (k *model) want(what string, err error, kind errs.Kind) bool {
	k.t.Helper()
	k.note("%s: %v", what, err)
	if kind != 0 {
		if !errs.Is(err, kind) {
			k.fatalf("%s: %v", what, err)
		}
		return false
	}
	if err != nil && !errors.Is(err, errInjected) {
		k.fatalf("%s: %v", what, err)
	}
	return err == nil
}

func (k *model) podConfig(name string, infra bool) *cri.PodSandboxConfig {
	o := &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER} // no mount of /dev/shm
	if infra {
		o.Pid = cri.NamespaceMode_POD
	}
	return &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: fmt.Sprint("w", k.worker), Uid: name},
		LogDirectory: filepath.Join(k.m.LogDir, name), DnsConfig: &cri.DNSConfig{Servers: []string{"127.0.0.1"}},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: o}}}
}

func ctrConfig(name string) *cri.ContainerConfig {
	return &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: "image"}}
}

// step makes one call, chosen at random.
func (k *model) step(ctx context.Context) {
	name, cname := []string{"a", "b"}[k.random.IntN(2)], []string{"x", "y"}[k.random.IntN(2)]
	p := k.pods[name]
	var c *modelCtr
	if p != nil {
		c = p.ctrs[cname]
	}
	switch k.random.IntN(10) {
	case 0, 1:
		k.run(ctx, name, p)
	case 2, 3:
		k.create(ctx, cname, p, c)
	case 4, 5:
		k.start(ctx, p, c)
	case 6:
		k.stopContainer(ctx, c)
	case 7:
		k.removeContainer(ctx, cname, p, c)
	case 8:
		k.end(p, c)
	case 9:
		if k.random.IntN(2) == 0 {
			k.stop(ctx, p)
		} else {
			k.remove(ctx, name, p)
		}
	}
	k.compare()
}

func (k *model) run(ctx context.Context, name string, p *modelPod) {
	infra := k.random.IntN(2) == 0
	if p != nil {
		infra = p.infra
	}
	id, err := k.m.Run(ctx, k.podConfig(name, infra), "")
	switch {
	case p == nil:
		if k.want("run "+name, err, 0) {
			k.pods[name] = &modelPod{id: id, ready: true, infra: infra, ctrs: map[string]*modelCtr{}}
		}
	case !p.ready:
		k.want("run "+name+" beside one that is not ready", err, errs.KindAlreadyExists)
	case k.want("run "+name+" again", err, 0) && id != p.id:
		k.fatalf("pod %s was %s and is %s", name, p.id, id)
	}
}

func (k *model) create(ctx context.Context, name string, p *modelPod, c *modelCtr) {
	if p == nil {
		_, err := k.m.Create(ctx, "0123456789ab", ctrConfig(name), nil)
		k.want("create in no pod", err, errs.KindNotFound)
		return
	}
	id, err := k.m.Create(ctx, p.id, ctrConfig(name), nil)
	switch {
	case c != nil && c.state != created:
		k.want("create beside one of that name", err, errs.KindAlreadyExists)
	case c != nil:
		if k.want("create again", err, 0) && id != c.id {
			k.fatalf("container %s was %s and is %s", name, c.id, id)
		}
	case !p.ready || p.stopping:
		k.want("create in a stopped pod", err, errs.KindPrecondition)
	default:
		if k.want("create "+name, err, 0) {
			p.ctrs[name] = &modelCtr{id, created}
		}
	}
}

func (k *model) start(ctx context.Context, p *modelPod, c *modelCtr) {
	if c == nil {
		return
	}
	err := k.m.Start(ctx, c.id)
	switch {
	case !p.ready || p.stopping || c.state != created:
		k.want("start out of turn", err, errs.KindPrecondition)
	case k.want("start", err, 0):
		c.state = running
	default:
		c.state = exited // with the reason that it cannot run
	}
}

func (k *model) stopContainer(ctx context.Context, c *modelCtr) {
	if c == nil {
		k.want("stop no container", k.m.StopContainer(ctx, "0123456789ab", 0), 0)
		return
	}
	err := k.m.StopContainer(ctx, c.id, time.Duration(k.random.IntN(2))*20*time.Millisecond)
	if k.want("stop container", err, 0) {
		c.state = exited
	}
}

func (k *model) removeContainer(ctx context.Context, name string, p *modelPod, c *modelCtr) {
	if c == nil {
		return
	}
	for try := 0; !k.want("remove container", k.m.RemoveContainer(ctx, c.id), 0); try++ {
		if try == 20 {
			k.fatalf("container %s cannot be removed", name)
		}
	}
	delete(p.ctrs, name)
}

// end lets a process end by itself, now and then the one of the pod.
func (k *model) end(p *modelPod, c *modelCtr) {
	if p == nil {
		return
	}
	if p.infra && p.ready && !p.stopping && k.random.IntN(4) == 0 {
		k.note("infra of %s ends", p.id)
		k.n.finish(p.id, 1)
		k.await("the pod without infra is not ready", func() bool { v, err := k.m.Pod(p.id); return err == nil && v.Status.Phase == state.NotReady })
		p.ready = false
		return
	}
	if c == nil || c.state == exited {
		return
	}
	k.note("container ends")
	k.n.finish(c.id, 7)
	k.await("the end is seen", func() bool { v, err := k.m.Container(c.id); return err == nil && v.Status.State() == exited })
	if v, err := k.m.Container(c.id); err != nil || v.Status.ExitCode != 7 {
		k.fatalf("code %d, %v", v.Status.ExitCode, err)
	}
	c.state = exited
}

// finish is end for others.
func (n *node) finish(id string, code int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.end(id, code)
}

func (k *model) await(what string, f func() bool) {
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			k.fatalf("%s: it does not come true", what)
		}
	}
}

func (k *model) stop(ctx context.Context, p *modelPod) {
	if p == nil {
		k.want("stop no pod", k.m.Stop(ctx, "0123456789ab"), 0)
		return
	}
	if k.want("stop pod", k.m.Stop(ctx, p.id), 0) {
		p.ready = false
		for _, c := range p.ctrs {
			c.state = exited
		}
		return
	}
	// How far it came is the manager's to say; forward only.
	p.stopping = true
	v, err := k.m.Pod(p.id)
	if err != nil || v.Status.Phase == state.Ready && !p.ready {
		k.fatalf("after a failed stop: %s %v", v.Status.Phase, err)
	}
	p.ready = v.Status.Phase == state.Ready
	for _, c := range p.ctrs {
		v, err := k.m.Container(c.id)
		if err != nil || v.Status.State() < c.state {
			k.fatalf("after a failed stop: container %s %v", v.Status.State(), err)
		}
		c.state = v.Status.State()
	}
}

func (k *model) remove(ctx context.Context, name string, p *modelPod) {
	if p == nil {
		return
	}
	for try := 0; !k.want("remove pod", k.m.Remove(ctx, p.id), 0); try++ {
		if try == 20 {
			k.fatalf("pod %s cannot be removed", name)
		}
	}
	delete(k.pods, name)
}

// compare holds the manager's lists against the model.
func (k *model) compare() {
	k.t.Helper()
	pods, ctrs := map[string]state.Phase{}, map[string]cri.ContainerState{}
	ours := map[string]bool{}
	for _, v := range k.m.Pods() {
		if v.Request.Config.GetMetadata().GetNamespace() == fmt.Sprint("w", k.worker) {
			pods[v.ID], ours[v.ID] = v.Status.Phase, true
		}
	}
	for _, v := range k.m.Containers() {
		if ours[v.Request.Pod] {
			ctrs[v.ID] = v.Status.State()
		}
	}
	for name, p := range k.pods {
		if got := pods[p.id]; (got == state.Ready) != p.ready || got == "" {
			k.fatalf("pod %s is %q, ready should be %t", name, got, p.ready)
		}
		delete(pods, p.id)
		for cname, c := range p.ctrs {
			if got, ok := ctrs[c.id]; !ok || got != c.state {
				k.fatalf("container %s is %s (listed: %t), should be %s", cname, got, ok, c.state)
			}
			delete(ctrs, c.id)
		}
	}
	if len(pods)+len(ctrs) > 0 {
		k.fatalf("unknown to the model: %v %v", pods, ctrs)
	}
}

func newManager(t *testing.T, dir string, n *node) *Manager {
	t.Helper()
	for _, d := range []string{"state", "run", "exits", "attach", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m, err := New(Options{StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Host: process.Host{Monitors: fakeMonitors{n}, ExitsDir: filepath.Join(dir, "exits"), AttachDir: filepath.Join(dir, "attach")}, LogDir: filepath.Join(dir, "log"), Boot: "boot", MakeTime: time.Minute,
		Network: fakeNetwork{n}, Namespaces: fakePins{n}, Cgroups: fakeCgroups{n}, Rootfs: fakeRootfs{n}, Images: fakeImages{},
		Handlers: fakeHandlers{&process.Handler{Name: "fake", Runtime: fakeRuntime{n: n}}}, Specs: fakeSpecs{n}, Plugins: fakePlugins{n},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err == nil {
		err = m.Recover(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestModel runs random calls of several kubelets against a manager whose seams fail
// now and then, with restarts, and compares it with a model. In the end nothing may
// be left.
func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("MONOCRIO_SEED"); v != "" {
		fmt.Sscan(v, &seed)
	}
	t.Logf("MONOCRIO_SEED=%d", seed)
	dir, n := t.TempDir(), newNode(seed)
	const workers, rounds, steps = 4, 15, 50
	m := newManager(t, dir, n)
	models := make([]*model, workers)
	for i := range models {
		models[i] = &model{t: t, n: n, worker: i, random: rand.New(rand.NewPCG(seed, uint64(10+i))), pods: map[string]*modelPod{}}
	}
	for range rounds {
		n.set(0.12)
		var wg sync.WaitGroup
		for _, k := range models {
			k.m = m
			wg.Go(func() {
				for range steps {
					k.step(context.Background())
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		m.Close()
		m = newManager(t, dir, n)
		for _, k := range models {
			k.m = m
			k.note("restart")
			for _, p := range k.pods {
				p.stopping = false
			}
			k.compare()
		}
	}
	n.set(0)
	for _, k := range models {
		for name, p := range k.pods {
			k.remove(context.Background(), name, p)
		}
	}
	for try := 0; m.sweep(context.Background()) > 0 && try < 5; try++ {
	}
	if held := n.held(); len(held) > 0 || m.Owed() > 0 {
		t.Errorf("left on the node: %v; %d debts", held, m.Owed())
	}
	for _, d := range []string{"state/pods", "state/containers", "state/owed", "run/pods", "run/containers", "exits"} {
		if entries, _ := os.ReadDir(filepath.Join(dir, d)); len(entries) > 0 {
			t.Errorf("left in %s: %v", d, entries)
		}
	}
	if n.injected < 20 {
		t.Errorf("only %d failures were injected", n.injected)
	}
	m.Close()
}

// set changes how often seams fail.
func (n *node) set(failures float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failures = failures
}

var _ oci.Runtime = fakeRuntime{}
