package metric

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// builder registers what is wanted; what is not wanted counts too, unseen.
type builder struct {
	registry *prometheus.Registry
	want     map[string]bool
}

func (b builder) opts(key string) prometheus.Opts {
	return prometheus.Opts{Name: Prefix + key, Help: help()[key]}
}

func add[T prometheus.Collector](b builder, key string, c T) T {
	if b.want[key] {
		b.registry.MustRegister(c)
	}
	return c
}

func (b builder) counter(key string) prometheus.Counter {
	return add(b, key, prometheus.NewCounter(prometheus.CounterOpts(b.opts(key))))
}

func (b builder) counters(key string, labels ...string) *prometheus.CounterVec {
	return add(b, key, prometheus.NewCounterVec(prometheus.CounterOpts(b.opts(key)), labels))
}

// sizes are the upper bounds of the classes of layer sizes.
func sizes() []float64 { return []float64{1e3, 1e4, 5e4, 1e5, 5e5, 1e6, 1e7, 5e7, 1e8, 1e9, 1e10} }

// bucket names the class of a size by its upper bound, bytes.
func bucket(size int64) string {
	for _, s := range sizes() {
		if float64(size) <= s {
			return strconv.FormatInt(int64(s), 10)
		}
	}
	return "+Inf"
}

// chosen is the metric of the default runtime, which a reload may change.
type chosen struct{ name func() string }

func (c chosen) desc() *prometheus.Desc {
	return prometheus.NewDesc(Prefix+defaultRuntime, help()[defaultRuntime], []string{"runtime"}, nil)
}

// Describe implements prometheus.Collector.
func (c chosen) Describe(out chan<- *prometheus.Desc) { out <- c.desc() }

// Collect implements prometheus.Collector.
func (c chosen) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, 1, c.name())
}

// zombies counts the processes in state Z, proc_pid_stat(5).
func zombies(proc string) (n int) {
	files, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "stat"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		// The name, in brackets, may have anything in it.
		if i := bytes.LastIndexByte(data, ')'); i >= 0 && bytes.HasPrefix(data[i:], []byte(") Z")) {
			n++
		}
	}
	return n
}
