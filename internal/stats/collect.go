package stats

import (
	"context"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What statistics need of cgroups, and what metrics need besides.
const (
	baseParts = cgroup.PartCPU | cgroup.PartMemory | cgroup.PartPressure
	moreParts = cgroup.PartMemoryMore | cgroup.PartTasks | cgroup.PartIO | cgroup.PartHugetlb
)

// snapshot is one call: what there was when it began, and its readings.
type snapshot struct {
	*Collector
	pods  []state.PodView
	ctrs  []state.ContainerView
	above map[string]string // the cgroups of pods by id
	users map[string]int    // how many ready pods are in a cgroup
	fast  round
	slow  round
}

// snapshot lists pods and containers, and forgets the cells of those that are gone.
func (c *Collector) snapshot() *snapshot {
	s := &snapshot{Collector: c, pods: c.o.Source.Pods(), ctrs: c.o.Source.Containers(), above: map[string]string{}, users: map[string]int{}}
	for i := range s.pods {
		path := s.pods[i].Request.Cgroup
		s.above[s.pods[i].ID] = path
		if s.pods[i].Status.Phase == state.Ready {
			s.users[path]++
		}
	}
	s.fast = round{log: c.o.Log, start: time.Now(), patience: patience, first: callLimit}
	s.slow = round{log: c.o.Log, start: s.fast.start, patience: layerLate, first: layerLate}
	c.idle.Reset(idleAfter)
	c.mu.Lock()
	defer c.mu.Unlock()
	prune(c.pods, s.pods, func(v state.PodView) string { return v.ID }, func(p *podCells) { p.let() })
	prune(c.ctrs, s.ctrs, func(v state.ContainerView) string { return v.ID }, func(c *ctrCells) { c.let() })
	return s
}

func prune[C, V any](cells map[string]*C, views []V, id func(V) string, let func(*C)) {
	if len(cells) <= len(views) {
		return
	}
	there := make(map[string]bool, len(views))
	for _, v := range views {
		there[id(v)] = true
	}
	for k, c := range cells {
		if !there[k] {
			let(c)
			delete(cells, k)
		}
	}
}

// cells returns what is kept under an id, made if absent.
func cells[C any](c *Collector, m map[string]*C, id string) *C {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m[id] == nil {
		m[id] = new(C)
	}
	return m[id]
}

// readGroup wants a cgroup read, with its rate.
func (s *snapshot) readGroup(c *cell[group], r *rate, g Group, what, id string) {
	want(&s.fast, c, s.o.Period, what, id, func(*netstat.Visitor) (group, error) {
		u, err := g.Read(baseParts)
		if err != nil {
			return group{}, err
		}
		return group{u, r.next(u.Time, u.CPU.Total)}, nil
	})
}

// runs tells whether a container runs, in a pod that is not being removed.
func (s *snapshot) runs(v *state.ContainerView) bool {
	return s.above[v.Request.Pod] != "" && v.Status.State() == cri.ContainerState_CONTAINER_RUNNING
}

// container begins to read a container.
func (s *snapshot) container(v state.ContainerView) Container {
	ctr := Container{View: v, LayersPath: s.o.LayersPath, cells: cells(s.Collector, s.Collector.ctrs, v.ID)}
	wantBeside(&s.slow, &ctr.cells.layer, max(layerAge, s.o.Period), "writable layer of container", v.ID, func(*netstat.Visitor) (Layer, error) {
		bytes, inodes, err := s.o.Reader.Layer(v.ID)
		return Layer{bytes, inodes}, err
	})
	if !s.runs(&v) {
		return ctr
	}
	path := s.o.ContainerCgroup(s.above[v.Request.Pod], v.ID)
	g, err := ctr.cells.hold(func() (Group, error) {
		if s.o.Inside != nil {
			if g := s.o.Inside(&v); g != nil {
				return g, nil
			}
		}
		return s.o.Reader.Open(path)
	})
	if err != nil {
		s.o.Log.Debug("cannot find a container's cgroup", "ctr", v.ID, "err", err)
		return ctr
	}
	ctr.path, ctr.group = path, g
	s.readGroup(&ctr.cells.group, &ctr.cells.rate, g, "cgroup of container", v.ID)
	return ctr
}

// wait has everything read that was asked for.
func (s *snapshot) wait(ctx context.Context) error {
	s.Collector.slow.submit(s.slow.jobs)
	if err := s.fast.do(ctx, &s.Collector.fast, callLimit); err != nil {
		return err
	}
	s.slow.jobs = nil
	return s.slow.do(ctx, &s.Collector.slow, layerPatience)
}

// finish waits, and fills in what was read.
func (s *snapshot) finish(ctx context.Context, list []Container) ([]Container, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.filled(list), nil
}

// filled takes containers' values from their cells. One whose cgroup is gone has ended
// and is left out.
func (s *snapshot) filled(list []Container) []Container {
	kept := list[:0]
	for i := range list {
		if s.fill(&list[i]) {
			kept = append(kept, list[i])
		}
	}
	return kept
}

// fill takes a container's values from its cells; false if it has ended.
func (s *snapshot) fill(c *Container) bool {
	if l, at, err := c.cells.layer.get(); err == nil || !at.IsZero() {
		c.Layer, c.LayerTime = &l, at
	}
	if c.path == "" {
		return true // it does not run: that is all there is
	}
	g, _, ok := last(s, &c.cells.group, "cgroup of container", c.View.ID)
	if ok {
		c.Usage, c.NanoCores = g.usage, g.cores
	}
	_, _, err := c.cells.group.get()
	return !errs.Is(err, errs.KindNotFound)
}

// podList reads the pods that keep lets through, with their containers; more
// adds to what is read of a running one.
func (s *snapshot) podList(ctx context.Context, keep func(*state.PodView) bool, more func(*Container)) ([]Pod, error) {
	list, at := []Pod{}, map[string]int{}
	for i := range s.pods {
		if keep(&s.pods[i]) {
			at[s.pods[i].ID] = len(list)
			list = append(list, Pod{View: s.pods[i], cells: cells(s.Collector, s.Collector.pods, s.pods[i].ID)})
		}
	}
	for i := range list {
		s.beginPod(&list[i])
	}
	for _, v := range s.ctrs {
		if i, ok := at[v.Request.Pod]; ok && s.runs(&v) {
			c := s.container(v)
			if c.group != nil {
				more(&c)
			}
			list[i].Containers = append(list[i].Containers, c)
		}
	}
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	for i := range list {
		s.fillPod(&list[i])
	}
	return list, nil
}

// countProcesses has the processes of a running container counted.
func (s *snapshot) countProcesses(c *Container) {
	g := c.group
	want(&s.fast, &c.cells.processes, s.o.Period, "processes of container", c.View.ID, func(*netstat.Visitor) (uint64, error) {
		u, err := g.Read(cgroup.PartProcesses)
		if err != nil {
			return 0, err
		}
		return u.Pids.Processes, nil
	})
}

// alone tells whether a pod has its cgroup for itself. Pods that have stopped do not
// count: a kubelet makes the next one of the same pod in the same cgroup.
func (s *snapshot) alone(v *state.PodView) bool {
	users := s.users[v.Request.Cgroup]
	if v.Status.Phase == state.Ready {
		users--
	}
	return v.Request.Cgroup != "/" && users == 0
}

// ownNetwork tells whether a pod is in a network of its own now.
func ownNetwork(v *state.PodView) bool {
	return v.Status.Phase == state.Ready && !v.Request.HostNetwork()
}

func (s *snapshot) beginPod(p *Pod) {
	v, c := p.View, p.cells
	if s.alone(&v) {
		if g, err := c.hold(func() (Group, error) { return s.o.Reader.Open(v.Request.Cgroup) }); err != nil {
			s.o.Log.Debug("cannot find a pod's cgroup", "pod", v.ID, "err", err)
		} else {
			s.readGroup(&c.group, &c.rate, g, "cgroup of pod", v.ID)
		}
	}
	if ownNetwork(&v) {
		path := s.o.Source.NamespacePath(v.ID, "net")
		want(&s.fast, &c.network, s.o.Period, "network of pod", v.ID, func(t *netstat.Visitor) ([]netstat.Interface, error) {
			list, err := c.netns.read(func() (Network, error) { return s.o.Reader.Network(t, path) })
			// The pod may have stopped before its namespace was held: nobody would know.
			if now, gone := s.o.Source.Pod(v.ID); gone != nil || now.Status.Phase != state.Ready {
				c.netns.let()
			}
			return slices.DeleteFunc(list, func(i netstat.Interface) bool { return i.Name == "lo" }), err
		})
	}
}

func (s *snapshot) fillPod(p *Pod) {
	p.Containers = s.filled(p.Containers)
	for i := range p.Containers {
		c := &p.Containers[i]
		if n, at, _ := c.cells.processes.get(); !at.IsZero() {
			p.Processes += n
		}
	}
	if p.View.Status.Infra != nil {
		p.Processes++
	}
	if ownNetwork(&p.View) {
		if list, at, ok := last(s, &p.cells.network, "network of pod", p.View.ID); ok {
			p.Interfaces, p.NetworkTime = list, at
		}
	}
	if !s.alone(&p.View) {
		p.sum()
	} else if g, _, ok := last(s, &p.cells.group, "cgroup of pod", p.View.ID); ok {
		p.Usage, p.NanoCores = g.usage, g.cores
	}
}

// last returns the last value of a cell; false if there is none or what it tells of is
// gone.
func last[T any](s *snapshot, c *cell[T], what, id string) (T, time.Time, bool) {
	v, at, err := c.get()
	if err != nil && err != errNotRead && !errs.Is(err, errs.KindNotFound) {
		s.o.Log.Debug("statistics: cannot read", "what", what, "id", id, "err", err)
	}
	return v, at, !at.IsZero() && !errs.Is(err, errs.KindNotFound)
}

// sum adds up the containers. Stalls cannot be added.
func (p *Pod) sum() {
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Usage == nil {
			continue
		}
		if p.Usage == nil {
			p.Usage = &cgroup.Usage{Memory: cgroup.MemoryUsage{Limit: cgroup.NoLimit, SwapLimit: cgroup.NoLimit}}
		}
		if c.Usage.Time.After(p.Usage.Time) {
			p.Usage.Time = c.Usage.Time
		}
		p.Usage.CPU.Total += c.Usage.CPU.Total
		m, u := &p.Usage.Memory, &c.Usage.Memory
		m.Usage += u.Usage
		m.WorkingSet += u.WorkingSet
		m.RSS += u.RSS
		m.Cache += u.Cache
		m.MappedFile += u.MappedFile
		m.Kernel += u.Kernel
		m.Swap += u.Swap
		m.SwapCounted = m.SwapCounted || u.SwapCounted
		m.PageFaults += u.PageFaults
		m.MajorFaults += u.MajorFaults
		if c.NanoCores != nil {
			sum := *c.NanoCores
			if p.NanoCores != nil {
				sum += *p.NanoCores
			}
			p.NanoCores = &sum
		}
	}
}
