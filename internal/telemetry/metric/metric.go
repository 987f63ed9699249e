// Package metric counts what the daemon does, for Prometheus, under the names that
// dashboards for CRI-O know: container_runtime_crio_ and a key. What pods consume is
// not here: package stats tells it through the CRI.
//
// Parts do not know this package. The daemon hands each a function to call, and those
// that are not wanted do nothing.
package metric

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Prefix stands before each key.
const Prefix = "container_runtime_crio_"

// Keys of the collectors, as metrics_collectors names them. The last three are ours.
const (
	operations           = "operations_total"
	operationsErrors     = "operations_errors_total"
	operationsLatency    = "operations_latency_seconds"
	operationsLatencySum = "operations_latency_seconds_total"
	pullsBytes           = "image_pulls_bytes_total"
	pullsSkippedBytes    = "image_pulls_skipped_bytes_total"
	pullsLayerSize       = "image_pulls_layer_size"
	pullsSuccess         = "image_pulls_success_total"
	pullsFailure         = "image_pulls_failure_total"
	layerReuse           = "image_layer_reuse_total"
	oomTotal             = "containers_oom_total"
	oomByName            = "containers_oom_count_total"
	eventsDropped        = "containers_events_dropped_total"
	seccompNotified      = "containers_seccomp_notifier_count_total"
	monitorStopped       = "containers_stopped_monitor_count"
	defunct              = "processes_defunct"
	stalled              = "resources_stalled_at_stage"
	defaultRuntime       = "default_runtime"
	steps                = "steps_latency_seconds"
	networkOwed          = "network_owed"
	reloads              = "config_reloads_total"
)

// Names lists the keys, sorted.
func Names() []string { return slices.Sorted(maps.Keys(help())) }

// help says what each counts; it is the list of what there is.
func help() map[string]string {
	return map[string]string{
		operations:           "Calls of the CRI, by their name.",
		operationsErrors:     "Calls of the CRI that failed, by their name.",
		operationsLatency:    "How long the last call took, by its name.",
		operationsLatencySum: "How long calls take, by their name; network_setup_pod and network_setup_overall: attaching pods.",
		pullsBytes:           "Bytes fetched from registries, by media type and size of the layer.",
		pullsSkippedBytes:    "Bytes of layers that were here already, by their size.",
		pullsLayerSize:       "Sizes of the layers that were fetched, bytes.",
		pullsSuccess:         "Pulls that succeeded.",
		pullsFailure:         "Pulls that failed, by their error.",
		layerReuse:           "Layers that a pull found here already, by their digest.",
		oomTotal:             "Containers that were killed because their memory was used up.",
		oomByName:            "The same, by the container's name, while it is there.",
		eventsDropped:        "Events of pods and containers that a listener did not take in time.",
		seccompNotified:      "System calls that a profile forbids, seen by the seccomp notifier, by container and call.",
		monitorStopped:       "Containers whose monitor was gone before them, by their name.",
		defunct:              "Processes of this node that have ended and that their parents have not waited for.",
		stalled:              "Repeated requests that found the first one at work still, by what it was doing.",
		defaultRuntime:       "1 for the runtime handler of pods that name none.",
		steps:                "How long the steps of making and unmaking pods and containers take.",
		networkOwed:          "Removed pods whose network could not be told so yet.",
		reloads:              "Reloads of the configuration, by how they ended.",
	}
}

// Options say what is counted.
type Options struct {
	// Collectors are keys, with or without prefixes; "all" is all.
	Collectors []string
	// DefaultRuntime and NetworkOwed are asked at each scrape.
	DefaultRuntime func() string
	NetworkOwed    func() int
}

// Metrics is the set of counters.
type Metrics struct {
	registry *prometheus.Registry

	calls, callErrors, pulledBytes, skippedBytes, failures, reused, oomNamed, notified, unwatched, stalls, reloaded *prometheus.CounterVec
	success, oom, dropped                                                                                           prometheus.Counter
	latency                                                                                                         *prometheus.GaugeVec
	latencies                                                                                                       *prometheus.SummaryVec
	layerSize                                                                                                       prometheus.Histogram
	steps                                                                                                           *prometheus.HistogramVec
}

// New makes the counters that are wanted. The kind of the error is Invalid if one of
// them does not exist.
func New(o Options) (*Metrics, error) {
	want, err := wanted(o.Collectors)
	if err != nil {
		return nil, err
	}
	m := &Metrics{registry: prometheus.NewRegistry()}
	b := builder{m.registry, want}
	m.calls, m.callErrors = b.counters(operations, "operation"), b.counters(operationsErrors, "operation")
	m.latency = add(b, operationsLatency, prometheus.NewGaugeVec(prometheus.GaugeOpts(b.opts(operationsLatency)), []string{"operation"}))
	m.latencies = add(b, operationsLatencySum, prometheus.NewSummaryVec(prometheus.SummaryOpts{Name: Prefix + operationsLatencySum, Help: help()[operationsLatencySum],
		Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001}}, []string{"operation"}))
	m.pulledBytes, m.skippedBytes = b.counters(pullsBytes, "mediatype", "size"), b.counters(pullsSkippedBytes, "size")
	m.layerSize = add(b, pullsLayerSize, prometheus.NewHistogram(prometheus.HistogramOpts{Name: Prefix + pullsLayerSize, Help: help()[pullsLayerSize], Buckets: sizes()}))
	m.success, m.failures = b.counter(pullsSuccess), b.counters(pullsFailure, "error")
	m.reused = b.counters(layerReuse, "name")
	m.oom, m.oomNamed = b.counter(oomTotal), b.counters(oomByName, "name")
	m.dropped = b.counter(eventsDropped)
	m.notified = b.counters(seccompNotified, "name", "syscall")
	m.unwatched = b.counters(monitorStopped, "name")
	m.stalls = b.counters(stalled, "stage")
	m.reloaded = b.counters(reloads, "result")
	m.steps = add(b, steps, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: Prefix + steps, Help: help()[steps],
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}}, []string{"step", "direction"}))
	add(b, defunct, prometheus.NewGaugeFunc(prometheus.GaugeOpts(b.opts(defunct)), func() float64 { return float64(zombies("/proc")) }))
	add(b, networkOwed, prometheus.NewGaugeFunc(prometheus.GaugeOpts(b.opts(networkOwed)), func() float64 { return float64(o.NetworkOwed()) }))
	add[prometheus.Collector](b, defaultRuntime, chosen{o.DefaultRuntime})
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m, nil
}

// Check refuses collectors that do not exist.
func Check(collectors []string) error {
	_, err := wanted(collectors)
	return err
}

func wanted(collectors []string) (map[string]bool, error) {
	all, want := help(), map[string]bool{}
	for _, c := range collectors {
		key := strings.TrimPrefix(strings.TrimPrefix(c, "container_runtime_"), "crio_")
		switch {
		case c == "all":
			for k := range all {
				want[k] = true
			}
		case all[key] == "":
			return nil, errs.Invalid("there is no metric %q; there are %s", c, strings.Join(Names(), ", "))
		default:
			want[key] = true
		}
	}
	return want, nil
}

// Handler serves them all.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Call counts a call of the CRI. A nil Metrics counts nothing, here and below.
func (m *Metrics) Call(name string, took time.Duration, failed bool) {
	if m == nil {
		return
	}
	m.calls.WithLabelValues(name).Inc()
	if failed {
		m.callErrors.WithLabelValues(name).Inc()
	}
	m.latency.WithLabelValues(name).Set(took.Seconds())
	m.latencies.WithLabelValues(name).Observe(took.Seconds())
}

// Step counts a step of a life; "network", up, is what older dashboards call
// network_setup_pod and network_setup_overall.
func (m *Metrics) Step(direction, name string, took time.Duration) {
	if m == nil {
		return
	}
	m.steps.WithLabelValues(name, direction).Observe(took.Seconds())
	if name == "network" && direction == "up" {
		m.latencies.WithLabelValues("network_setup_pod").Observe(took.Seconds())
		m.latencies.WithLabelValues("network_setup_overall").Observe(took.Seconds())
	}
}

// Layer is one layer of an image that was pulled.
type Layer struct {
	Digest, MediaType string
	Size              int64
	Fetched           bool // else it was here
}

// Pull counts a pull. failure is empty for success, else the registry's word for it.
func (m *Metrics) Pull(layers []Layer, failure string) {
	if m == nil {
		return
	}
	for _, l := range layers {
		size := max(l.Size, 0)
		if !l.Fetched {
			m.skippedBytes.WithLabelValues(bucket(size)).Add(float64(size))
			m.reused.WithLabelValues(l.Digest).Inc()
			continue
		}
		m.pulledBytes.WithLabelValues(l.MediaType, bucket(size)).Add(float64(size))
		m.layerSize.Observe(float64(size))
	}
	if failure != "" {
		m.failures.WithLabelValues(failure).Inc()
		return
	}
	m.success.Inc()
}

// OOM counts a container that was killed for its memory.
func (m *Metrics) OOM(name string) {
	if m != nil {
		m.oom.Inc()
		m.oomNamed.WithLabelValues(name).Inc()
	}
}

// MonitorStopped counts a container whose monitor was gone before it.
func (m *Metrics) MonitorStopped(name string) {
	if m != nil {
		m.unwatched.WithLabelValues(name).Inc()
	}
}

// SeccompNotified counts a system call that a profile forbids.
func (m *Metrics) SeccompNotified(name, syscall string) {
	if m != nil {
		m.notified.WithLabelValues(name, syscall).Inc()
	}
}

// Forget drops what bears the name of a container that is gone.
func (m *Metrics) Forget(name string) {
	if m != nil {
		m.oomNamed.DeleteLabelValues(name)
		m.unwatched.DeleteLabelValues(name)
		m.notified.DeletePartialMatch(prometheus.Labels{"name": name})
	}
}

// EventDropped counts an event that a listener did not take.
func (m *Metrics) EventDropped() {
	if m != nil {
		m.dropped.Inc()
	}
}

// Stalled counts a request that joined an earlier one, which was at a stage.
func (m *Metrics) Stalled(stage string) {
	if m != nil {
		m.stalls.WithLabelValues(stage).Inc()
	}
}

// Reload counts a reload: "applied", "refused" or "unchanged".
func (m *Metrics) Reload(result string) {
	if m != nil {
		m.reloaded.WithLabelValues(result).Inc()
	}
}
