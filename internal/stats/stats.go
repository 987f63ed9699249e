// Package stats tells what pods and containers consume: one Collector reads control
// groups, network interfaces and writable layers, straight from the kernel, when it is
// asked. It starts no process and does nothing while nobody asks.
//
// # Stuck readings
//
// Each number comes from a cell, which keeps its last value and when it was read. A call
// has the cells it needs read by a few goroutines (pool) and waits for them; a reading
// that takes longer than patience is waited for no more, by nobody, until it has ended:
// its last value is told, and the log says so once. So a container whose files hang
// costs one call a tenth of a second, once (two seconds if it was never read before), and
// all others nothing.
//
// # Rates
//
// The CRI wants the present use of processors (usage_nano_cores). It is the use since an
// earlier call: long enough ago to mean something, recent enough to mean the present.
// The first call tells none. A sampler in the background would have one at once, but it
// would have to run for somebody who may never ask again; those who ask do so every ten
// seconds or so.
//
// # Writable layers
//
// Their size is known only by walking them. That is done by one goroutine beside the
// calls, no more often than every ten seconds and for no more than a twentieth of a
// processor for each layer; calls tell the last size and its time, and wait only, and a
// little, for the very first one.
package stats

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
)

// Source lists what there is; pod.Manager does.
type Source interface {
	Pods() []state.PodView
	Containers() []state.ContainerView
	// Pod and Container find one by id or its beginning; NotFound kind otherwise.
	Pod(id string) (state.PodView, error)
	Container(id string) (state.ContainerView, error)
	// NamespacePath is where a namespace of a pod is pinned.
	NamespacePath(id, kind string) string
}

// Group is a cgroup, as *cgroup.Handle: NotFound kind when it is gone.
type Group interface {
	Read(cgroup.Parts) (*cgroup.Usage, error)
	Limits() (cgroup.Limits, error)
	Processes() ([]int, error)
	// Rest closes what is kept open between readings until the next one.
	Rest()
	Close()
}

// Network is a network namespace that is held, as *netstat.Namespace.
type Network interface {
	Read() ([]netstat.Interface, error)
	Close()
}

// Reader reads what the kernel and the image store know. All of it may block, but for
// Open.
type Reader interface {
	// Open takes hold of a cgroup, existing or not.
	Open(path string) (Group, error)
	// Files counts open files and sockets among them, MaxFiles is their soft limit.
	Files(pid int) (files, sockets int, err error)
	MaxFiles(pid int) (uint64, error)
	// Network takes hold of a network namespace, on the visitor's thread: NotFound
	// kind if there is none.
	Network(v *netstat.Visitor, path string) (Network, error)
	// Layer measures the writable layer of a container, in bytes and files.
	Layer(id string) (bytes, inodes uint64, err error)
	// Disk is the file system of the writable layers.
	Disk() (mount.Disk, error)
	// BlockName is the name in /dev of a block device, "" if it is unknown.
	BlockName(major, minor uint32) string
}

// Options are what a Collector works with.
type Options struct {
	Source Source
	Reader Reader
	// ContainerCgroup is the cgroup of a container below its pod's.
	ContainerCgroup func(parent, id string) string
	// Inside is where the numbers of a container are that does not run in a cgroup of this
	// kernel; nil if it does. The function may be nil.
	Inside func(*state.ContainerView) Group
	// LayersPath is a folder on the file system of the writable layers.
	LayersPath string
	// Period is how old an answer may be; 0: it is read for each call.
	Period time.Duration
	// Metrics are the groups of metrics, as of included_pod_metrics.
	Metrics []string
	Log     *slog.Logger
}

const (
	// patience is how long a reading is waited for if there is a last value to tell; it
	// takes less than a millisecond when nothing hangs.
	patience = 100 * time.Millisecond
	// callLimit bounds the wait of a call, for values that were never read and when many
	// readings hang at once.
	callLimit = 2 * time.Second
	// idleAfter is how long cgroups are kept open after the last call.
	idleAfter = time.Minute
	// layerPatience is how long a call waits for sizes of layers that were never
	// measured, layerLate how long a walk goes on before others are begun beside it.
	layerPatience = time.Second
	layerLate     = 10 * time.Second
	// layerAge, limitsAge and diskAge are how old those may be in any case.
	layerAge  = 10 * time.Second
	limitsAge = 10 * time.Second
	diskAge   = time.Second
)

// Collector reads and remembers.
type Collector struct {
	o     Options
	table []metric

	fast, slow pool
	disk       cell[mount.Disk]

	idle *time.Timer

	mu     sync.Mutex
	pods   map[string]*podCells
	ctrs   map[string]*ctrCells
	blocks map[[2]uint32]string // names of block devices
}

// podCells is what is read of a pod.
type podCells struct {
	holder
	group   cell[group]
	rate    rate
	netns   netns
	network cell[[]netstat.Interface]
}

// let closes all that is held.
func (p *podCells) let() {
	p.holder.let()
	p.netns.let()
}

// ctrCells is what is read of a container.
type ctrCells struct {
	holder
	group     cell[group]
	rate      rate
	processes cell[uint64]
	more      cell[*cgroup.Usage] // what metrics need besides
	limits    cell[limits]
	files     cell[files]
	layer     cell[Layer]
}

// group is a cgroup's use with the rate that follows from it.
type group struct {
	usage *cgroup.Usage
	cores *uint64
}

// limits is what was set, for the cgroup and for the first process.
type limits struct {
	cgroup.Limits
	maxFiles uint64 // 0: unknown
}

// files are the open files of all processes of a container.
type files struct{ processes, open, sockets uint64 }

// Layer is the size of a writable layer.
type Layer struct{ Bytes, Inodes uint64 }

// New makes a collector.
func New(o Options) *Collector {
	width := max(2, min(runtime.GOMAXPROCS(0), 8))
	c := &Collector{o: o, table: included(o.Metrics), pods: map[string]*podCells{}, ctrs: map[string]*ctrCells{}, blocks: map[[2]uint32]string{},
		fast: pool{width: width}, slow: pool{width: 1}}
	c.idle = time.AfterFunc(idleAfter, c.rest)
	return c
}

// rest closes what is kept open between calls: for some time there was none.
func (c *Collector) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pods {
		p.rest()
		p.netns.rest()
	}
	for _, p := range c.ctrs {
		p.rest()
	}
}

// PodStopped lets go of a pod's network namespace, which must end with the pod. It is to
// be called when the pod begins to stop; it does not wait.
func (c *Collector) PodStopped(id string) {
	c.mu.Lock()
	p := c.pods[id]
	c.mu.Unlock()
	if p != nil {
		p.netns.let()
	}
}

// Close waits for readings in progress, though not long for one that hangs.
func (c *Collector) Close() {
	c.idle.Stop()
	c.fast.end(callLimit)
	c.slow.end(callLimit)
}

// Container is a container at one instant. What could not be read is nil.
type Container struct {
	View state.ContainerView
	// Usage is there for running containers.
	Usage *cgroup.Usage
	// NanoCores is the present use of processors, in billionths of one.
	NanoCores *uint64
	Layer     *Layer
	LayerTime time.Time // when Layer was measured
	// Inside is where the numbers of a container are that does not run in a cgroup of this
	// kernel; nil if it does. The function may be nil.
	Inside func(*state.ContainerView) Group
	// LayersPath is a folder on the layer's file system.
	LayersPath string

	cells *ctrCells
	path  string // of its cgroup; empty if it does not run
	group Group
}

// Pod is a pod at one instant with its running containers.
type Pod struct {
	View state.PodView
	// Usage is that of the pod's cgroup; the sum of its containers if other pods use
	// the cgroup too.
	Usage     *cgroup.Usage
	NanoCores *uint64
	// Interfaces are those of the pod's network namespace except loopback. A pod in the
	// node's network has none: what the node's interfaces carry is not the pod's.
	Interfaces  []netstat.Interface
	NetworkTime time.Time
	Processes   uint64
	Containers  []Container

	cells *podCells
}

// Containers tells about running containers that keep lets through (nil: all). One that
// ends meanwhile is left out.
func (c *Collector) Containers(ctx context.Context, keep func(*state.ContainerView) bool) ([]Container, error) {
	s := c.snapshot()
	var list []Container
	for i := range s.ctrs {
		if s.runs(&s.ctrs[i]) && (keep == nil || keep(&s.ctrs[i])) {
			list = append(list, s.container(s.ctrs[i]))
		}
	}
	return s.finish(ctx, list)
}

// Container tells about one container, whatever its state; NotFound kind if there is
// none.
func (c *Collector) Container(ctx context.Context, id string) (Container, error) {
	v, err := c.o.Source.Container(id)
	if err != nil {
		return Container{}, err
	}
	s := c.snapshot()
	list, err := s.finish(ctx, []Container{s.container(v)})
	if err == nil && len(list) == 0 { // it ended this instant
		list = []Container{{View: v}}
	}
	if err != nil {
		return Container{}, err
	}
	return list[0], nil
}

// Pods tells about ready pods that keep lets through (nil: all), with their running
// containers.
func (c *Collector) Pods(ctx context.Context, keep func(*state.PodView) bool) ([]Pod, error) {
	s := c.snapshot()
	return s.podList(ctx, func(p *state.PodView) bool { return p.Status.Phase == state.Ready && (keep == nil || keep(p)) }, s.countProcesses)
}

// Pod tells about one pod, whatever its state; NotFound kind if there is none.
func (c *Collector) Pod(ctx context.Context, id string) (Pod, error) {
	v, err := c.o.Source.Pod(id)
	if err != nil {
		return Pod{}, err
	}
	s := c.snapshot()
	list, err := s.podList(ctx, func(p *state.PodView) bool { return p.ID == v.ID }, s.countProcesses)
	if err == nil && len(list) == 0 { // it is being removed
		list = []Pod{{View: v}}
	}
	if err != nil {
		return Pod{}, err
	}
	return list[0], nil
}
