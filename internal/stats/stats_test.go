package stats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		var used atomic.Uint64 // microseconds
		m.cpu = func(string) uint64 { return used.Load() }
		c, _ := collector(t, m, nil)
		cores := func() any {
			t.Helper()
			a, b := containers(t, c)["ctr-x"].NanoCores, pods(t, c)["pod-a"].NanoCores
			if (a == nil) != (b == nil) || a != nil && *a != *b {
				t.Errorf("the container's rate is %v, its pod's %v", a, b)
			}
			if a == nil {
				return nil
			}
			return *a
		}
		check := func(what string, want any) {
			t.Helper()
			if got := cores(); got != want {
				t.Errorf("%s: %v, want %v", what, got, want)
			}
		}
		check("the first call", nil)
		used.Add(200_000)
		time.Sleep(shortest / 2)
		check("too soon", nil)
		time.Sleep(shortest / 2)
		check("a fifth of a second in one", uint64(200_000_000))
		used.Add(1_000_000)
		time.Sleep(shortest / 2)
		check("too soon after that: the last one", uint64(200_000_000))
		time.Sleep(9500 * time.Millisecond)
		check("a second in ten", uint64(100_000_000))
		time.Sleep(longest + time.Second)
		check("after a long time in which nobody asked", nil)
		used.Store(0)
		time.Sleep(2 * time.Second)
		check("a counter that went back", nil)
		used.Store(64 * 200 * 1_000_000) // as much as many processors do
		time.Sleep(200 * time.Second)
		check("64 processors", uint64(64_000_000_000))
	})
}

// TestStuck: a container whose cgroup cannot be read any more costs one call the
// patience, others nothing, and tells its last values.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		for i := range 20 {
			m.add(fmt.Sprint("p", i), fmt.Sprint("c", i))
		}
		var hang atomic.Bool
		free := make(chan struct{})
		m.onGroup = func(path string) error {
			if hang.Load() && strings.HasSuffix(path, "/ctr-c3") {
				<-free
			}
			return nil
		}
		var used atomic.Uint64
		m.cpu = func(string) uint64 { return used.Load() }
		c, log := collector(t, m, nil)
		containers(t, c)
		hang.Store(true)
		used.Store(5000)
		for i, want := range []time.Duration{patience, 0, 0} {
			begin := time.Now()
			got := containers(t, c)
			if took := time.Since(begin); took != want {
				t.Errorf("call %d took %v, want %v", i, took, want)
			}
			if len(got) != 20 {
				t.Fatalf("call %d: %d containers", i, len(got))
			}
			for id, x := range got {
				want := uint64(5000)
				if id == "ctr-c3" {
					want = 0
				}
				if x.Usage == nil || x.Usage.CPU.Total != want || want > 0 && x.Usage.Time.Before(begin) {
					t.Errorf("call %d at %v: %s: %+v", i, begin, id, x.Usage)
				}
			}
			time.Sleep(time.Second)
		}
		if log.String() != "" {
			t.Errorf("it was told at once: %s", log)
		}
		time.Sleep(2 * sayAfter)
		containers(t, c)
		time.Sleep(2 * sayAfter)
		if n := strings.Count(log.String(), "does not end"); n != 1 || !strings.Contains(log.String(), "ctr-c3") {
			t.Errorf("the log says it %d times:\n%s", n, log)
		}
		close(free)
		synctest.Wait()
		if x := containers(t, c)["ctr-c3"]; x.Usage.CPU.Total != 5000 {
			t.Errorf("when it goes on: %+v", x.Usage)
		}
		if !strings.Contains(log.String(), "has ended") {
			t.Errorf("the log: %s", log)
		}
	})
}

// TestStuckFromTheFirst: many containers that were never read hang; the others are told.
func TestStuckFromTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		for i := range 40 {
			m.add(fmt.Sprint("p", i), fmt.Sprint("c", i))
		}
		free := make(chan struct{})
		m.onGroup = func(path string) error {
			if i := strings.LastIndex(path, "ctr-c"); i > 0 && len(path) == i+7 && path[i+6]%2 == 0 {
				<-free
			}
			return nil
		}
		c, _ := collector(t, m, nil)
		begin := time.Now()
		containers(t, c)
		if took := time.Since(begin); took > callLimit+layerPatience {
			t.Errorf("the first call took %v", took)
		}
		for time.Since(begin) < time.Minute { // places are lost one after the other
			containers(t, c)
			time.Sleep(time.Second)
		}
		begin = time.Now()
		got := containers(t, c)
		if took := time.Since(begin); took != 0 || len(got) != 40 {
			t.Errorf("a later call took %v for %d", took, len(got))
		}
		known := 0
		for _, x := range got {
			if x.Usage != nil {
				known++
			}
		}
		if known != 25 { // 0 to 9, and the odd ones of 10 to 39
			t.Errorf("%d are known", known)
		}
		close(free)
		synctest.Wait()
	})
}

func TestVanishing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x", "y", "z")
		m.add("b", "v")
		m.onGroup = func(path string) error {
			switch path {
			case "/pods/a/ctr-x":
				return errs.NotFound("cgroup", path)
			case "/pods/a/ctr-y":
				return errFake
			case "/pods/b":
				return errs.NotFound("cgroup", path)
			}
			return nil
		}
		m.ctrs[2].Status.FinishedAt = 3e18
		c, _ := collector(t, m, nil)
		got := containers(t, c)
		if len(got) != 2 || got["ctr-y"].Usage != nil || got["ctr-y"].Layer == nil || got["ctr-v"].Usage == nil {
			t.Errorf("%+v", got)
		}
		p := pods(t, c)
		if len(p) != 2 || len(p["pod-a"].Containers) != 1 || p["pod-a"].Usage == nil || p["pod-b"].Usage != nil || len(p["pod-b"].Containers) != 1 {
			t.Errorf("%+v", p)
		}
		ctx := context.Background()
		for _, id := range []string{"ctr-x", "ctr-z"} { // just ended, ended
			if x, err := c.Container(ctx, id); err != nil || x.Usage != nil || x.View.ID != id {
				t.Errorf("%s: %+v, %v", id, x, err)
			}
		}
		if x, err := c.Container(ctx, "ctr-v"); err != nil || x.Usage == nil || x.Layer == nil || x.LayersPath != "/layers" {
			t.Errorf("%+v, %v", x, err)
		}
		_, err := c.Container(ctx, "absent")
		_, err2 := c.Pod(ctx, "absent")
		if !errs.Is(err, errs.KindNotFound) || !errs.Is(err2, errs.KindNotFound) {
			t.Error(err, err2)
		}
		// A container whose pod is being removed is not told.
		m.pods = m.pods[:1]
		if got := containers(t, c); len(got) != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("alone", "a")
		m.add("shared1", "b", "c").Request.Cgroup = "/all"
		m.add("shared2").Request.Cgroup = "/all"
		m.add("root", "d").Request.Cgroup = "/"
		host := m.add("host")
		host.Request.Config.Linux = &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}}
		host.Status.Infra = &state.Process{}
		m.add("stopped").Status.Phase = state.NotReady
		again := m.add("again") // a kubelet's second sandbox of the same pod
		again.Request.Cgroup = "/pods/stopped"
		m.onGroup = func(path string) error {
			if path == "/all" || path == "/" {
				t.Errorf("%s was read", path)
			}
			return nil
		}
		c, _ := collector(t, m, nil)
		got := pods(t, c)
		if len(got) != 6 {
			t.Errorf("%d pods", len(got))
		}
		for name, want := range map[string]struct {
			memory, processes uint64
			interfaces, ctrs  int
			pressure          bool
		}{
			"pod-alone": {100, 3, 2, 1, true}, "pod-shared1": {200, 6, 2, 2, false}, "pod-shared2": {0, 0, 2, 0, false},
			"pod-root": {100, 3, 2, 1, false}, "pod-host": {100, 1, 0, 0, true},
			"pod-again": {100, 0, 2, 0, true},
		} {
			p := got[name]
			if p.Processes != want.processes || len(p.Interfaces) != want.interfaces || len(p.Containers) != want.ctrs {
				t.Errorf("%s: %+v", name, p)
			}
			if want.memory == 0 && p.Usage == nil {
				continue
			}
			if p.Usage == nil || p.Usage.Memory.Usage != want.memory || (p.Usage.CPU.Pressure != nil) != want.pressure || p.Usage.Time.IsZero() {
				t.Errorf("%s: %+v", name, p.Usage)
			}
		}
		m.pods[0].Status.Phase = state.NotReady
		if p, err := c.Pod(context.Background(), "pod-alone"); err != nil || p.Interfaces != nil {
			t.Errorf("the last network of a pod that has stopped: %+v, %v", p, err)
		}
		if p, err := c.Pod(context.Background(), "pod-stopped"); err != nil || len(p.Containers) != 0 || len(p.Interfaces) != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// TestLayers: a size is waited for once; later it is measured beside the calls, and the
// less often the longer it takes.
func TestLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		var takes atomic.Int64
		m.onLayer = func(string) error { time.Sleep(time.Duration(takes.Load())); return nil }
		takes.Store(int64(50 * time.Millisecond))
		c, _ := collector(t, m, nil)
		begin := time.Now()
		x := containers(t, c)["ctr-x"]
		if x.Layer == nil || x.Layer.Bytes != 100 || x.Layer.Inodes != 3 || !x.LayerTime.Equal(begin) || time.Since(begin) != 50*time.Millisecond {
			t.Errorf("the first size: %+v at %v, after %v", x.Layer, x.LayerTime, time.Since(begin))
		}
		ask := func(want uint64) {
			t.Helper()
			begin := time.Now()
			x := containers(t, c)["ctr-x"]
			if x.Layer == nil || x.Layer.Bytes != want || time.Since(begin) != 0 {
				t.Errorf("%+v after %v, want %d", x.Layer, time.Since(begin), want)
			}
		}
		ask(100)
		time.Sleep(layerAge)
		takes.Store(int64(time.Minute)) // it has grown
		ask(100)                        // it is being measured
		time.Sleep(30 * time.Second)
		ask(100)
		time.Sleep(31 * time.Second)
		ask(200)
		time.Sleep(thrift*time.Minute - 2*time.Minute)
		ask(200) // it would cost too much
		if n := m.count("layer ctr-x"); n != 2 {
			t.Errorf("it was measured %d times", n)
		}
		time.Sleep(2 * time.Minute)
		ask(200)
		time.Sleep(2 * time.Minute)
		ask(300)
	})
}

// TestGrownLayerKeepsNobody: a walk that takes long is waited for by no other.
func TestGrownLayerKeepsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		free := make(chan struct{})
		m.onLayer = func(id string) error {
			if id == "ctr-x" {
				<-free
			}
			return nil
		}
		c, _ := collector(t, m, nil)
		begin := time.Now()
		if x := containers(t, c)["ctr-x"]; x.Layer != nil || x.Usage == nil || time.Since(begin) != layerPatience {
			t.Errorf("%+v after %v", x, time.Since(begin))
		}
		m.mu.Lock()
		m.add("b", "y")
		m.mu.Unlock()
		time.Sleep(layerLate)
		containers(t, c)
		synctest.Wait()
		if got := containers(t, c); got["ctr-y"].Layer == nil || got["ctr-x"].Layer != nil {
			t.Errorf("%+v", got)
		}
		close(free)
		synctest.Wait()
	})
}

func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		c, _ := collector(t, m, func(o *Options) { o.Period = 30 * time.Second })
		first := containers(t, c)["ctr-x"].Usage.Time
		time.Sleep(29 * time.Second)
		if again := containers(t, c)["ctr-x"].Usage.Time; !again.Equal(first) {
			t.Error("it was read again within the period")
		}
		time.Sleep(time.Second)
		if again := containers(t, c)["ctr-x"].Usage.Time; again.Equal(first) {
			t.Error("it was not read again after the period")
		}
	})
}

// TestJoin: calls at the same time share one reading.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		m.onGroup = func(string) error { time.Sleep(10 * time.Millisecond); return nil }
		c, _ := collector(t, m, nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if x := containers(t, c)["ctr-x"]; x.Usage == nil {
					t.Error("no values")
				}
			})
		}
		wg.Wait()
		if n := m.count(fmt.Sprintf("/pods/a/ctr-x %d", baseParts)); n != 1 {
			t.Errorf("it was read %d times", n)
		}
		if n := m.count("open /pods/a/ctr-x"); n != 1 {
			t.Errorf("it was opened %d times", n)
		}
	})
}

func TestCallerGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		m.onGroup = func(string) error { time.Sleep(time.Second); return nil }
		c, _ := collector(t, m, nil)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := c.Containers(ctx, nil)
		_, err2 := c.Pods(ctx, nil)
		_, err3 := c.Metrics(ctx)
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if time.Since(begin) != 10*time.Millisecond {
			t.Errorf("it took %v", time.Since(begin))
		}
		time.Sleep(5 * time.Second)
	})
}

func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x", "y")
		m.onGroup = func(path string) error {
			if strings.HasSuffix(path, "x") {
				panic("a bug")
			}
			return nil
		}
		c, _ := collector(t, m, nil)
		if got := containers(t, c); len(got) != 2 || got["ctr-x"].Usage != nil || got["ctr-y"].Usage == nil {
			t.Errorf("%+v", got)
		}
	})
}

// TestHolds: a namespace is held while its pod is ready and somebody asks, and not when
// the pod stops at any moment.
func TestHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.add("a", "x")
		m.add("b")
		c, _ := collector(t, m, nil)
		check := func(what string, a, b int) {
			t.Helper()
			if ha, hb := m.holds("pod-a/net"), m.holds("pod-b/net"); ha != a || hb != b {
				t.Errorf("%s: held are %d and %d, want %d and %d", what, ha, hb, a, b)
			}
		}
		pods(t, c)
		pods(t, c)
		check("after two calls", 1, 1)
		time.Sleep(idleAfter + time.Second)
		check("when nobody asks", 0, 0)
		if m.count("rest /pods/a") == 0 || m.count("rest /pods/a/ctr-x") == 0 {
			t.Error("cgroups stay open when nobody asks")
		}
		pods(t, c)
		check("when somebody asks again", 1, 1)
		c.PodStopped("pod-b")
		check("when one stops", 1, 0)
		m.mu.Lock()
		m.pods[1].Status.Phase = state.NotReady
		m.mu.Unlock()
		pods(t, c)
		check("while it is stopped", 1, 0)
		m.mu.Lock()
		m.pods, m.ctrs = nil, nil
		m.mu.Unlock()
		containers(t, c)
		check("when all are gone", 0, 0)
		if m.count("close /pods/a") != 1 || m.count("close /pods/a/ctr-x") != 1 {
			t.Error("the cgroups of what is gone stay open")
		}
	})
}

// TestHoldRace: the pod stops while its namespace is being opened, before or after the
// collector knows of it.
func TestHoldRace(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			m.add("a")
			c, _ := collector(t, m, nil)
			m.onOpen = func(string) {
				m.mu.Lock()
				m.pods[0].Status.Phase = state.NotReady
				m.mu.Unlock()
				if told {
					c.PodStopped("pod-a")
				}
			}
			pods(t, c)
			if n := m.holds("pod-a/net"); n != 0 {
				t.Errorf("told %v: it is held", told)
			}
		})
	}
}

// TestFIFO: the same with the kernel's reader over real files, one of which is a FIFO
// that nobody writes to.
func TestFIFO(t *testing.T) {
	root := t.TempDir()
	m := newMachine()
	for _, n := range []string{"x", "y"} {
		m.add(n, n)
		dir := filepath.Join(root, "pods", n, "ctr-"+n)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cpu.stat": "usage_usec 5\n", "cgroup.procs": "", "memory.current": "7\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tree := cgroup.Tree{Mode: cgroup.V2, Mounts: map[string]string{"": root}}
	c, _ := collector(t, m, func(o *Options) { o.Reader = overTree{m, tree} })
	if got := containers(t, c); got["ctr-x"].Usage == nil || got["ctr-x"].Usage.Memory.Usage != 7 {
		t.Fatalf("%+v", got)
	}
	fifo := filepath.Join(root, "pods/x/ctr-x/memory.current")
	if err := errors.Join(os.Remove(fifo), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(root, "pods/y/ctr-y/memory.current")
	until := func(ok func(x, y uint64) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; {
			got := containers(t, c)
			x, y := got["ctr-x"].Usage, got["ctr-y"].Usage
			if x != nil && y != nil && ok(x.Memory.Usage, y.Memory.Usage) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%+v, %+v", x, y)
			}
		}
	}
	for i := range uint64(3) {
		if err := os.WriteFile(other, fmt.Appendf(nil, "%d\n", 100+i), 0o600); err != nil {
			t.Fatal(err)
		}
		until(func(x, y uint64) bool {
			if x != 7 {
				t.Errorf("%d was read from a FIFO that nobody writes to", x)
			}
			return y == 100+i
		})
	}
	if err := os.WriteFile(fifo, []byte("9\n"), 0); err != nil { // frees the reader
		t.Fatal(err)
	}
	if err := os.WriteFile(fifo+"-new", []byte("11\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fifo+"-new", fifo); err != nil {
		t.Fatal(err)
	}
	until(func(x, y uint64) bool { return x == 11 })
}

type overTree struct {
	*machine
	tree cgroup.Tree
}

func (o overTree) Open(path string) (Group, error) { return o.tree.Open(path) }

// TestConcurrent: calls and pods that come and go at the same time; nothing is held at
// the end.
func TestConcurrent(t *testing.T) {
	m := newMachine()
	m.add("stays", "s")
	c, _ := collector(t, m, nil)
	ctx := context.Background()
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				list, err := c.Containers(ctx, nil)
				pods, err2 := c.Pods(ctx, nil)
				all, err3 := c.Metrics(ctx)
				one, err4 := c.Container(ctx, "ctr-s")
				if err := errors.Join(err, err2, err3, err4); err != nil || len(list) == 0 || len(pods) == 0 || one.Usage == nil {
					t.Errorf("%d containers, %d pods, %+v, %v", len(list), len(pods), one, err)
					return
				}
				n := 0
				for range all {
					n++
				}
				if n == 0 {
					t.Error("no metrics")
				}
			}
		})
	}
	for i := range 200 {
		name := fmt.Sprint("p", i)
		m.mu.Lock()
		m.add(name, name)
		m.mu.Unlock()
		if i%2 == 0 {
			c.Pod(ctx, "pod-"+name)
		}
		m.mu.Lock()
		m.pods[1].Status.Phase = state.NotReady
		m.mu.Unlock()
		c.PodStopped("pod-" + name)
		m.mu.Lock()
		m.pods, m.ctrs = m.pods[:1], m.ctrs[:1]
		m.mu.Unlock()
	}
	stop.Store(true)
	wg.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, n := range m.held {
		if n != 0 && path != "pod-stays/net" {
			t.Errorf("%s is held %d times", path, n)
		}
	}
}
