package integration

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nriPlugin is an NRI plugin that notes what it is told; its functions, where they are
// set, answer.
type nriPlugin struct {
	mu     sync.Mutex
	told   []string
	synced []string
	ready  chan struct{}
	stub   stub.Stub

	onSync   func()
	onRun    func() error
	onCreate func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	onUpdate func(*api.LinuxResources) []*api.ContainerUpdate
	onStart  func() error
}

func (p *nriPlugin) note(what, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = append(p.told, what+" "+id)
}

func (p *nriPlugin) notes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
}

func (p *nriPlugin) Synchronize(_ context.Context, pods []*api.PodSandbox, ctrs []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	for _, s := range pods {
		p.synced = append(p.synced, s.GetId())
	}
	for _, c := range ctrs {
		p.synced = append(p.synced, c.GetId())
	}
	p.mu.Unlock()
	if p.onSync != nil {
		p.onSync()
	}
	close(p.ready)
	return nil, nil
}

func (p *nriPlugin) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("run", s.GetId())
	if p.onRun != nil {
		return p.onRun()
	}
	return nil
}

func (p *nriPlugin) StopPodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("stop-pod", s.GetId())
	return nil
}

func (p *nriPlugin) RemovePodSandbox(_ context.Context, s *api.PodSandbox) error {
	p.note("remove-pod", s.GetId())
	return nil
}

func (p *nriPlugin) CreateContainer(_ context.Context, s *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create", c.GetId())
	if p.onCreate != nil {
		return p.onCreate(s, c)
	}
	return nil, nil, nil
}

func (p *nriPlugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("created", c.GetId())
	return nil
}

func (p *nriPlugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("start", c.GetId())
	if p.onStart != nil {
		return p.onStart()
	}
	return nil
}

func (p *nriPlugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("started", c.GetId())
	return nil
}

func (p *nriPlugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note("update", c.GetId())
	if p.onUpdate != nil {
		return p.onUpdate(r), nil
	}
	return nil, nil
}

func (p *nriPlugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("updated", c.GetId())
	return nil
}

func (p *nriPlugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("stop", c.GetId())
	return nil, nil
}

func (p *nriPlugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove", c.GetId())
	return nil
}

// connect lets a plugin join; it returns when the plugin was told what there is, but
// does not wait for one that blocks there.
func connect(w *world.World, p *nriPlugin, index string) {
	w.T.Helper()
	p.ready = make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("test"+index), stub.WithPluginIdx(index), stub.WithSocketPath(filepath.Join(w.Dir, "nri.sock")))
	if err == nil {
		err = p.stub.Start(context.Background())
	}
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(p.stub.Stop)
}

// joined waits until a plugin takes part in lives: it does from the first pod it is
// told of.
func joined(w *world.World, p *nriPlugin) {
	w.T.Helper()
	<-p.ready
	w.Eventually("the plugin takes part", func() bool {
		pod := w.Pod("probe", nil)
		_, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
		if err != nil {
			w.T.Fatal(err)
		}
		return slices.Contains(p.notes(), "remove-pod "+pod)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = nil
}

func TestNRILife(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	p := &nriPlugin{}
	connect(w, p, "10")
	joined(w, p)
	pod := w.Pod("nri", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	short := w.Ctr(pod, "short", "exit 3", nil)
	w.WaitExit(short)
	w.Eventually("an end that nobody asked for is told", func() bool { return slices.Contains(p.notes(), "stop "+short) })
	if err := update(w, ctr, &cri.LinuxContainerResources{CpuShares: 300}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	of := func(id string) (list []string) {
		for _, n := range p.notes() {
			if what, who, _ := strings.Cut(n, " "); who == id {
				list = append(list, what)
			}
		}
		return list
	}
	for id, want := range map[string]string{
		pod: "run stop-pod remove-pod", ctr: "create created start started update updated stop remove", short: "create created start started stop remove",
	} {
		got := strings.Join(of(id), " ")
		if id == short { // the end may overtake the word that it began
			got = strings.Replace(got, "start stop started", "start started stop", 1)
		}
		if got != want {
			t.Errorf("told %s, want %s", got, want)
		}
	}
	if all := p.notes(); slices.Index(all, "stop "+ctr) > slices.Index(all, "stop-pod "+pod) {
		t.Error("the pod was said to have stopped before its container")
	}
}

// TestNRIAdjusts: what plugins want of a container comes to pass, and what it must
// not be is refused with their reason.
func TestNRIAdjusts(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	p := &nriPlugin{}
	connect(w, p, "10")
	joined(w, p)
	pod := w.Pod("nri", nil)
	other := w.Ctr(pod, "other", "exec sleep 1000", nil)
	p.onCreate = func(s *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		if s.GetName() != "nri" || s.GetUid() != "uid-nri" || len(s.GetIps()) != 2 || !slices.Contains(c.GetArgs(), "sh") {
			t.Errorf("told of %v in %v", c, s)
		}
		switch c.GetName() {
		case "refused":
			return nil, nil, errors.New("not on my node")
		case "class":
			a := &api.ContainerAdjustment{}
			a.SetLinuxRDTClass("gold")
			return a, nil, nil
		}
		a := &api.ContainerAdjustment{}
		a.AddEnv("ADDED", "yes")
		a.RemoveEnv("GONE")
		a.AddMount(&api.Mount{Source: "/etc", Destination: "/host-etc", Type: "bind", Options: []string{"bind", "ro"}})
		a.AddDevice(&api.LinuxDevice{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: api.FileMode(0o666)})
		a.AddRlimit("RLIMIT_NOFILE", 77, 77)
		a.SetLinuxCPUShares(400)
		a.SetLinuxOomScoreAdj(new(321))
		u := &api.ContainerUpdate{}
		u.SetContainerId(other)
		u.SetLinuxCPUShares(600)
		return a, []*api.ContainerUpdate{u}, nil
	}
	ctr := w.Ctr(pod, "adjusted", "exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Envs = []*cri.KeyValue{{Key: "GONE", Value: []byte("no")}, {Key: "KEPT", Value: []byte("yes")}}
	})
	for script, want := range map[string]string{
		"echo $ADDED$KEPT$GONE": "yesyes", "test -d /host-etc/apt && echo there": "there", "echo x >/dev/mine && echo written": "written",
		"cat /proc/1/oom_score_adj; grep 'open files' /proc/1/limits | awk '{print $4}'": "321\n77",
	} {
		if out, _ := w.Exec(ctr, script); out != want {
			t.Errorf("%s: %q", script, out)
		}
	}
	for c, want := range map[string][]string{ctr: {"400", "16"}, other: {"600", "24"}} {
		if got := limit(t, w, pod, c, "cpu.shares", "cpu.weight"); !slices.Contains(want, got) {
			t.Errorf("cpu.shares: %s, want %v", got, want)
		}
	}
	if got := w.Status(other).GetResources().GetLinux().GetCpuShares(); got != 600 {
		t.Errorf("the status of the other says %d shares", got)
	}
	held := w.Holds()
	for name, says := range map[string]string{"refused": "not on my node", "class": "gold"} {
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig(name, "true"), SandboxConfig: w.PodConfig("nri")})
		refused(t, name, err, codes.FailedPrecondition, "NRI plugin", says)
	}
	p.onRun = func() error { return errors.New("no more pods") }
	_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("unwanted")})
	refused(t, "a pod", err, codes.FailedPrecondition, "no more pods")
	if now := w.Holds(); strings.Join(now, "\n") != strings.Join(held, "\n") {
		t.Errorf("left after refusals:\n%s", strings.Join(now, "\n"))
	}
	p.onStart = func() error { return errors.New("not now") }
	waiting := w.Create(pod, "waiting", "exec sleep 1000", nil)
	_, err = w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: waiting})
	refused(t, "a start", err, codes.FailedPrecondition, "not now")
	p.onStart = nil
	if st := w.WaitExit(waiting); st.GetReason() != "ContainerCannotRun" || !strings.Contains(st.GetMessage(), "not now") {
		t.Errorf("after a refused start: %v", st)
	}
	p.onUpdate = func(*api.LinuxResources) []*api.ContainerUpdate {
		u := &api.ContainerUpdate{}
		u.SetContainerId(ctr)
		u.SetLinuxCPUShares(999)
		return []*api.ContainerUpdate{u}
	}
	if err := update(w, ctr, &cri.LinuxContainerResources{CpuShares: 500}); err != nil {
		t.Fatal(err)
	}
	if got := w.Status(ctr).GetResources().GetLinux().GetCpuShares(); got != 999 {
		t.Errorf("after an update that a plugin changed: %d shares", got)
	}
	u := &api.ContainerUpdate{}
	u.SetContainerId(other)
	u.SetLinuxMemoryLimit(200 << 20)
	if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) > 0 {
		t.Errorf("an update that nobody asked for: %v, %v", failed, err)
	}
	if got := limit(t, w, pod, other, "memory.limit_in_bytes", "memory.max"); got != "209715200" {
		t.Errorf("memory limit: %s", got)
	}
}

// TestNRIHidesWhatIsBeingMade: while plugins think about a pod, it can be neither seen
// nor used.
func TestNRIHidesWhatIsBeingMade(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	asked, answer := make(chan string, 1), make(chan struct{})
	p := &nriPlugin{}
	connect(w, p, "10")
	joined(w, p)
	p.onRun = func() error {
		notes := p.notes()
		asked <- strings.TrimPrefix(notes[len(notes)-1], "run ")
		<-answer
		return nil
	}
	made := make(chan string)
	go func() { made <- w.Pod("hidden", nil) }()
	id := <-asked
	_, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
	refused(t, "the status of a pod that is being made", err, codes.NotFound)
	if l, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(l.GetItems()) > 0 {
		t.Errorf("listed: %v, %v", l, err)
	}
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: id, Config: w.CtrConfig("early", "true"), SandboxConfig: w.PodConfig("hidden")})
	refused(t, "a container in a pod that is being made", err, codes.FailedPrecondition, "not ready")
	close(answer)
	if got := <-made; got != id {
		t.Errorf("the pod became %s, plugins were told %s", got, id)
	}
}

// TestNRISynchronize: a plugin that joins while containers are being made learns of
// each, and one that is killed holds nobody.
func TestNRISynchronize(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("sync", nil)
	before := w.Ctr(pod, "before", "exec sleep 1000", nil)
	reached, release := make(chan struct{}), make(chan struct{})
	p := &nriPlugin{onSync: func() { close(reached); <-release }}
	connect(w, p, "10")
	<-reached
	var wg sync.WaitGroup
	during := make([]string, 4)
	for i := range during {
		wg.Go(func() { during[i] = w.Create(pod, "during"+string(rune('a'+i)), "exec sleep 1000", nil) })
	}
	close(release)
	wg.Wait()
	p.mu.Lock()
	known := append(slices.Clone(p.synced), p.told...)
	p.mu.Unlock()
	for _, id := range append(during, before, pod) {
		if !slices.ContainsFunc(known, func(k string) bool { return k == id || k == "create "+id }) {
			t.Errorf("the plugin never learned of %s", id)
		}
	}
	w.Kill()
	w.Start()
	if out, _ := w.Exec(before, "echo on"); out != "on" {
		t.Errorf("after a restart: %q", out)
	}
	again := &nriPlugin{}
	connect(w, again, "20")
	joined(w, again)
	if !slices.Contains(again.synced, before) {
		t.Error("a restarted daemon does not tell its plugins what there is")
	}
	again.stub.Stop()
	w.Ctr(pod, "after", "exec sleep 1000", nil)
}

// TestNRIOff: without the interface there is no socket.
func TestNRIOff(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	text := strings.Replace(w.ConfText(), "[crio.nri]\n", "[crio.nri]\nenable_nri = false\n", 1)
	w.SetConf(text)
	w.Start()
	w.Pod("off", nil)
	if found, _ := filepath.Glob(filepath.Join(w.Dir, "nri.sock")); len(found) > 0 {
		t.Errorf("%v is there", found)
	}
}
