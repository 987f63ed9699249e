package stats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// machine is a fake of pods, containers and the kernel. Hooks may block.
type machine struct {
	mu    sync.Mutex
	pods  []state.PodView
	ctrs  []state.ContainerView
	reads map[string]int // how often each thing was read

	onGroup func(path string) error // before a cgroup is read
	onOpen  func(path string)       // before a namespace is opened
	onLayer func(id string) error
	cpu     func(path string) uint64 // microseconds
	held    map[string]int           // namespaces
}

func newMachine() *machine { return &machine{reads: map[string]int{}, held: map[string]int{}} }

// add makes a ready pod with running containers and returns it to be changed.
func (m *machine) add(name string, ctrs ...string) *state.PodView {
	p := state.PodView{ID: "pod-" + name}
	p.Request.Cgroup = "/pods/" + name
	p.Request.Config.PodSandboxConfig = &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: "uid-" + name}}
	p.Status = state.PodStatus{Phase: state.Ready, CreatedAt: 1e18}
	m.pods = append(m.pods, p)
	for _, n := range ctrs {
		c := state.ContainerView{ID: "ctr-" + n}
		c.Request = state.ContainerRequest{Pod: p.ID, Image: state.Image{Name: "image:1"},
			Config: state.ContainerConfig{ContainerConfig: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: n}}}}
		c.Status = state.ContainerStatus{Phase: state.Live, StartedAt: 2e18, Process: &state.Process{}}
		m.ctrs = append(m.ctrs, c)
	}
	return &m.pods[len(m.pods)-1]
}

func (m *machine) Pods() []state.PodView {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]state.PodView(nil), m.pods...)
}

func (m *machine) Containers() []state.ContainerView {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]state.ContainerView(nil), m.ctrs...)
}

func (m *machine) Pod(id string) (state.PodView, error) {
	for _, p := range m.Pods() {
		if p.ID == id {
			return p, nil
		}
	}
	return state.PodView{}, errs.NotFound("pod", id)
}

func (m *machine) Container(id string) (state.ContainerView, error) {
	for _, c := range m.Containers() {
		if c.ID == id {
			return c, nil
		}
	}
	return state.ContainerView{}, errs.NotFound("container", id)
}

func (m *machine) NamespacePath(id, kind string) string { return id + "/" + kind }

func (m *machine) count(what string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads[what]
}

func (m *machine) tick(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads[what]++
}

func (m *machine) Open(path string) (Group, error) {
	if path == "" {
		return nil, errs.Invalid("no path")
	}
	m.tick("open " + path)
	return &fakeGroup{m, path}, nil
}

type fakeGroup struct {
	m    *machine
	path string
}

func (g *fakeGroup) Read(parts cgroup.Parts) (*cgroup.Usage, error) {
	g.m.tick(fmt.Sprintf("%s %d", g.path, parts))
	if g.m.onGroup != nil {
		if err := g.m.onGroup(g.path); err != nil {
			return nil, err
		}
	}
	u := &cgroup.Usage{Time: time.Now(), CPU: cgroup.CPUUsage{Total: 1000},
		Memory:  cgroup.MemoryUsage{Usage: 100, WorkingSet: 70, RSS: 50, Limit: cgroup.NoLimit, SwapLimit: cgroup.NoLimit, Peak: 120},
		Pids:    cgroup.PidsUsage{Current: 5, Limit: cgroup.NoLimit, Processes: 3},
		IO:      []cgroup.IOUsage{{Major: 8, Minor: 1, ReadBytes: 10, WriteBytes: 20, ReadOps: 1, WriteOps: 2}},
		Hugetlb: []cgroup.HugetlbUsage{{PageSize: "2MB", Usage: 4096, Peak: 8192, PeakKept: true}}}
	u.CPU.Pressure, u.Memory.Pressure, u.IOPressure = &cgroup.Pressure{}, &cgroup.Pressure{}, &cgroup.Pressure{}
	if g.m.cpu != nil {
		u.CPU.Total = g.m.cpu(g.path)
	}
	return u, nil
}

func (g *fakeGroup) Limits() (cgroup.Limits, error) {
	g.m.tick("limits " + g.path)
	return cgroup.Limits{CPUShares: 1024, CPUPeriod: 100000, CPUQuota: 20000, Memory: 1 << 20, MemorySwap: cgroup.NoLimit, Tasks: cgroup.NoLimit}, nil
}

func (g *fakeGroup) Processes() ([]int, error) { return []int{7, 8, 9}, nil }
func (g *fakeGroup) Rest()                     { g.m.tick("rest " + g.path) }
func (g *fakeGroup) Close()                    { g.m.tick("close " + g.path) }

func (m *machine) Files(int) (int, int, error)  { return 4, 1, nil }
func (m *machine) MaxFiles(int) (uint64, error) { return 1024, nil }

type fakeNetwork struct {
	m    *machine
	path string
}

func (m *machine) Network(_ *netstat.Visitor, path string) (Network, error) {
	if m.onOpen != nil {
		m.onOpen(path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[path]++
	return &fakeNetwork{m, path}, nil
}

func (n *fakeNetwork) Read() ([]netstat.Interface, error) {
	n.m.tick("net " + n.path)
	return []netstat.Interface{{Name: "lo", RxBytes: 1}, {Name: "eth0", RxBytes: 2}, {Name: "eth1", TxBytes: 3}}, nil
}

func (n *fakeNetwork) Close() {
	n.m.mu.Lock()
	defer n.m.mu.Unlock()
	n.m.held[n.path]--
}

func (m *machine) holds(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[path]
}

func (m *machine) Layer(id string) (uint64, uint64, error) {
	m.tick("layer " + id)
	if m.onLayer != nil {
		if err := m.onLayer(id); err != nil {
			return 0, 0, err
		}
	}
	return uint64(m.count("layer "+id)) * 100, 3, nil
}

func (m *machine) Disk() (mount.Disk, error) {
	return mount.Disk{Source: "/dev/sda1", Bytes: 1000, Inodes: 100, FreeInodes: 90}, nil
}

func (m *machine) BlockName(major, minor uint32) string { return fmt.Sprintf("b%d-%d", major, minor) }

// collector makes a collector over a machine; its log is returned.
func collector(t *testing.T, m *machine, change func(*Options)) (*Collector, *syncLog) {
	t.Helper()
	log := &syncLog{}
	o := Options{Source: m, Reader: m, LayersPath: "/layers", Metrics: []string{"all"},
		ContainerCgroup: func(parent, id string) string { return parent + "/" + id },
		Log:             slog.New(slog.NewTextHandler(log, nil))}
	if change != nil {
		change(&o)
	}
	c := New(o)
	t.Cleanup(c.Close)
	return c, log
}

type syncLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// containers calls and maps the answers by id.
func containers(t *testing.T, c *Collector) map[string]Container {
	t.Helper()
	list, err := c.Containers(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Container{}
	for _, x := range list {
		if _, twice := out[x.View.ID]; twice {
			t.Errorf("%s is there twice", x.View.ID)
		}
		out[x.View.ID] = x
	}
	return out
}

func pods(t *testing.T, c *Collector) map[string]Pod {
	t.Helper()
	list, err := c.Pods(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Pod{}
	for _, x := range list {
		out[x.View.ID] = x
	}
	return out
}

var errFake = errors.New("the disk is on fire")
