package stats

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/linux/netstat"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// baseLabels are what every metric has, as the kubelet's /metrics/cadvisor.
var baseLabels = [...]string{"id", "name", "image", "namespace", "pod", "container"}

// metric is one name: a row of the tables below.
type metric struct {
	group  string // the word of included_pod_metrics; "": always there
	name   string
	help   string
	kind   cri.MetricType
	labels []string // besides baseLabels
	// values emits the metric of a container, podValues of a pod; nil: it has none.
	values    func(*sample, emit)
	podValues func(*podSample, emit)
}

// emit adds one value with the labels of the row; at is when it was read.
type emit func(value uint64, at time.Time, labels ...string)

// sample is what metrics are made of: a container's numbers, all there.
type sample struct {
	*Container
	at      time.Time // of Usage
	more    *cgroup.Usage
	limits  *limits
	files   *files
	disk    *mount.Disk
	diskAt  time.Time
	filesAt time.Time
	block   func(major, minor uint32) string
}

// podSample is the same of a pod.
type podSample struct{ *Pod }

// included picks the rows whose groups are wanted.
func included(groups []string) (rows []metric) {
	for _, m := range allMetrics() {
		if m.group == "" || slices.Contains(groups, "all") || slices.Contains(groups, m.group) {
			rows = append(rows, m)
		}
	}
	return rows
}

// Descriptors describes the metrics that Metrics may tell.
func (c *Collector) Descriptors() []*cri.MetricDescriptor {
	list := make([]*cri.MetricDescriptor, 0, len(c.table))
	for _, m := range c.table {
		list = append(list, &cri.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: append(slices.Clone(baseLabels[:]), m.labels...)})
	}
	return list
}

// Metrics reads all ready pods and returns their metrics, one pod after the other, made
// as they are asked for. A value that was read for this call has no time, an older one
// has its own.
func (c *Collector) Metrics(ctx context.Context) (iter.Seq[*cri.PodSandboxMetrics], error) {
	s := c.snapshot()
	want(&s.fast, &c.disk, diskAge, "file system of writable layers", "", func(*netstat.Visitor) (mount.Disk, error) { return c.o.Reader.Disk() })
	pods, err := s.podList(ctx, func(p *state.PodView) bool { return p.Status.Phase == state.Ready }, s.readMore)
	if err != nil {
		return nil, err
	}
	return func(yield func(*cri.PodSandboxMetrics) bool) {
		for i := range pods {
			if !yield(s.metrics(&pods[i])) {
				return
			}
		}
	}, nil
}

// readMore has the numbers read that only metrics need.
func (s *snapshot) readMore(c *Container) {
	id, g, r := c.View.ID, c.group, s.o.Reader
	parts := moreParts
	if l, at, _ := c.cells.limits.get(); at.IsZero() || l.CPUQuota != cgroup.NoLimit {
		parts |= cgroup.PartQuota
	}
	if u, at, _ := c.cells.group.get(); at.IsZero() || u.usage.CPU.User+u.usage.CPU.System == 0 { // they did not come with the total
		parts |= cgroup.PartCPUTimes
	}
	want(&s.fast, &c.cells.more, s.o.Period, "cgroup of container", id, func(*netstat.Visitor) (*cgroup.Usage, error) { return g.Read(parts) })
	want(&s.fast, &c.cells.limits, max(limitsAge, s.o.Period), "limits of container", id, func(*netstat.Visitor) (limits, error) {
		l, err := g.Limits()
		out := limits{Limits: l}
		if p := c.View.Status.Process; p != nil && err == nil {
			if n, bad := r.MaxFiles(p.Init.Pid); bad == nil {
				out.maxFiles = n
			}
		}
		return out, err
	})
	wantSpared(&s.fast, &c.cells.files, s.o.Period, "open files of container", id, func(*netstat.Visitor) (f files, err error) {
		pids, err := g.Processes()
		f.processes = uint64(len(pids))
		for _, pid := range pids {
			if files, sockets, err := r.Files(pid); err == nil { // or it has ended
				f.open += uint64(files)
				f.sockets += uint64(sockets)
			}
		}
		return f, err
	})
}

// metrics makes the message of one pod.
func (s *snapshot) metrics(p *Pod) *cri.PodSandboxMetrics {
	md := p.View.Request.Config.GetMetadata()
	out := &cri.PodSandboxMetrics{PodSandboxId: p.View.ID}
	// A pod's cgroup has no container, as in cAdvisor.
	b := s.builder([]string{p.View.Request.Cgroup, "", "", md.GetNamespace(), md.GetName(), ""})
	emit := b.emit
	for i := range s.table {
		if b.row = &s.table[i]; b.row.podValues != nil {
			b.row.podValues(&podSample{p}, emit)
		}
	}
	out.Metrics = b.out
	for i := range p.Containers {
		c := &p.Containers[i]
		out.ContainerMetrics = append(out.ContainerMetrics, &cri.ContainerMetrics{ContainerId: c.View.ID, Metrics: s.containerMetrics(p, c)})
	}
	return out
}

func (s *snapshot) containerMetrics(p *Pod, c *Container) []*cri.Metric {
	md, cfg := p.View.Request.Config.GetMetadata(), c.View.Request.Config.GetMetadata()
	// The name is what cAdvisor shows of a CRI-O container.
	name := fmt.Sprintf("k8s_%s_%s_%s_%s_%d", cfg.GetName(), md.GetName(), md.GetNamespace(), md.GetUid(), cfg.GetAttempt())
	b := s.builder([]string{c.path, name, c.View.Request.Image.Name, md.GetNamespace(), md.GetName(), cfg.GetName()})
	sm, emit := s.sample(c), b.emit
	for i := range s.table {
		if b.row = &s.table[i]; b.row.values != nil {
			b.row.values(&sm, emit)
		}
	}
	return b.out
}

// sample collects what is known of a container from its cells.
func (s *snapshot) sample(c *Container) sample {
	out := sample{Container: c, block: s.blockName}
	if c.Usage != nil {
		out.at = c.Usage.Time
	}
	if u, at, _ := c.cells.more.get(); !at.IsZero() {
		out.more = u
	}
	if l, at, _ := c.cells.limits.get(); !at.IsZero() {
		out.limits = &l
	}
	if f, at, _ := c.cells.files.get(); !at.IsZero() {
		out.files, out.filesAt = &f, at
	}
	if d, at, _ := s.disk.get(); !at.IsZero() {
		out.disk, out.diskAt = &d, at
	}
	return out
}

// blockName remembers names: a device keeps its own.
func (s *snapshot) blockName(major, minor uint32) string {
	s.mu.Lock()
	name, ok := s.blocks[[2]uint32{major, minor}]
	s.mu.Unlock()
	if ok {
		return name
	}
	if name = s.o.Reader.BlockName(major, minor); name != "" {
		name = "/dev/" + name
		s.mu.Lock()
		s.blocks[[2]uint32{major, minor}] = name
		s.mu.Unlock()
	}
	return name
}

// builder makes the metrics of one object, row by row. Messages, values and labels lie in
// blocks, since there are thousands, and those without labels of their own share the
// object's.
type builder struct {
	start   time.Time
	base    []string
	row     *metric
	metrics []cri.Metric
	values  []cri.UInt64Value
	labels  []string
	out     []*cri.Metric
}

func (s *snapshot) builder(base []string) *builder {
	return &builder{start: s.fast.start, base: base, out: make([]*cri.Metric, 0, 2*block)}
}

const block = 32

// emit adds one value of the current row.
func (b *builder) emit(value uint64, at time.Time, labels ...string) {
	if len(b.metrics) == 0 {
		b.metrics, b.values = make([]cri.Metric, block), make([]cri.UInt64Value, block)
	}
	x, v := &b.metrics[0], &b.values[0]
	b.metrics, b.values = b.metrics[1:], b.values[1:]
	v.Value = value
	x.Name, x.MetricType, x.Value, x.LabelValues = b.row.name, b.row.kind, v, b.base
	if len(labels) > 0 {
		x.LabelValues = b.with(labels)
	}
	if !at.IsZero() && at.Before(b.start) {
		x.Timestamp = at.UnixNano()
	}
	b.out = append(b.out, x)
}

// with returns the object's labels with more.
func (b *builder) with(labels []string) []string {
	n := len(b.base) + len(labels)
	if cap(b.labels)-len(b.labels) < n {
		b.labels = make([]string, 0, max(n, 4*block))
	}
	begin := len(b.labels)
	b.labels = append(append(b.labels, b.base...), labels...)
	return b.labels[begin:len(b.labels):len(b.labels)]
}
