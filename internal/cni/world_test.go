package cni_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	appletcni "github.com/monocrio/monocrio/applets/cni"
	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/ident"
)

// TestMain lets the test binary act as a plugin when it is called by the name of
// one, as the shipped executable does.
func TestMain(m *testing.M) {
	for _, p := range cni.Embedded() {
		if filepath.Base(os.Args[0]) == p.Name && os.Getenv("CNI_COMMAND") != "" {
			os.Exit(appletcni.Main(p, os.Args))
		}
	}
	// Threads that enter namespaces end there. The first one cannot end: it would be
	// parked, and hold its namespace for ever.
	runtime.LockOSThread()
	os.Exit(m.Run())
}

// world is a node for a test: a service over folders of its own, in a network
// namespace of its own in which every goroutine of the test that calls it runs by
// in().
type world struct {
	change []func(*cni.Options)
	t      testing.TB
	net    *cni.Network
	dir    string // network_dir
	bin    string // plugin_dirs
	data   string // CacheDir
}

// newWorld needs root and namespaces of its own (scripts/in-namespaces).
func newWorld(t testing.TB, conf string, change ...func(*cni.Options)) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if boot, err := os.ReadFile("/proc/1/cmdline"); err != nil || !bytes.Contains(boot, []byte("in-namespaces")) {
		t.Skip("needs namespaces of its own: run by scripts/in-namespaces")
	}
	w := &world{t: t, change: change, dir: filepath.Join(t.TempDir(), "net.d"), bin: t.TempDir(), data: t.TempDir()}
	if conf != "" {
		w.write("10-test.conflist", conf)
	}
	w.start()
	t.Cleanup(func() {
		if err := w.net.GC(context.Background(), nil); err != nil {
			t.Errorf("GC at the end: %v", err)
		}
		// A pod's end of a pair goes some time after its namespace; until then the
		// bridge has a port and stays.
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if err := w.net.Teardown(context.Background()); err != nil {
				t.Errorf("Teardown: %v", err)
			}
			if len(w.links()) == 0 {
				break
			}
		}
		w.net.Close()
		w.clean()
	})
	return w
}

func (w *world) start() {
	w.t.Helper()
	o := cni.Options{ConfDir: w.dir, PluginDirs: []string{w.bin}, CacheDir: w.data, Plugins: cni.Embedded(),
		Log: slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, change := range w.change {
		change(&o)
	}
	n, err := cni.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.net = n
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// clean fails the test if the node has links, filter tables or leases left.
func (w *world) clean() {
	w.t.Helper()
	if l := w.links(); len(l) > 0 {
		w.t.Errorf("interfaces are left over: %v", l)
	}
	if out := w.ruleset(); strings.Contains(out, "monocrio") {
		w.t.Errorf("packet filter rules are left over:\n%s", out)
	}
	if l := w.leases(); len(l) > 0 {
		w.t.Errorf("leases are left over: %v", l)
	}
	if l, _ := filepath.Glob(filepath.Join(w.data, "results", "*")); len(l) > 0 {
		w.t.Errorf("cached results are left over: %v", l)
	}
}

// links lists the node's interfaces, except lo and those that tests keep.
func (w *world) links() (out []string) {
	w.t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range links {
		if l.Name != "lo" && !strings.HasPrefix(l.Name, "keep") {
			out = append(out, l.Name)
		}
	}
	return out
}

func (w *world) ruleset() string {
	w.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		return ""
	}
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		w.t.Fatalf("nft list ruleset: %v\n%s", err, out)
	}
	return string(out)
}

func (w *world) leases() (out []string) {
	all, _ := filepath.Glob(filepath.Join(w.data, "networks", "*", "*"))
	for _, f := range all {
		if net.ParseIP(filepath.Base(f)) != nil {
			out = append(out, f)
		}
	}
	return out
}

// pod is an attached pod.
type pod struct {
	w   *world
	req cni.Request
	cfg cni.Config
	res cni.Result
}

// newNS makes a network namespace, pinned to a file. Its loopback is down.
func newNS(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

// run makes a pod and attaches it.
func (w *world) run(ports ...cni.Port) *pod {
	w.t.Helper()
	p := w.prepare(ports...)
	if err := p.attach(); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) prepare(ports ...cni.Port) *pod {
	w.t.Helper()
	cfg, err := w.net.Select()
	if err != nil {
		w.t.Fatal(err)
	}
	id := ident.New()
	return &pod{w: w, cfg: cfg, req: cni.Request{ID: id, NetNS: newNS(w.t), PodName: "p-" + id[:6], PodNamespace: "default", PodUID: id[:8], Ports: ports}}
}

func (p *pod) attach() (err error) {
	p.res, err = p.w.net.Attach(context.Background(), p.cfg, p.req)
	return err
}

func (p *pod) detach() {
	p.w.t.Helper()
	if err := p.w.net.Detach(context.Background(), p.cfg, p.req, p.res.Raw); err != nil {
		p.w.t.Fatal(err)
	}
}

// inNS runs f in a network namespace; "" is the node.
func inNS(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// sh runs a command in a namespace and returns what it prints.
func sh(t *testing.T, ns string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skip("needs the tool " + args[0])
	}
	var out []byte
	err := inNS(ns, func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// serve answers, in a namespace, with the address that the client seems to have.
func serve(t *testing.T, ns, network, addr string) {
	t.Helper()
	err := inNS(ns, func() error {
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					host, _, _ := net.SplitHostPort(from.String())
					c.WriteTo([]byte(host), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				io.WriteString(c, host)
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var errNoAnswer = errors.New("no answer")

// dial connects from a namespace and returns what the server says: as whom it saw
// the client.
func dial(ns, network, addr string, patience time.Duration) (string, error) {
	var who string
	err := inNS(ns, func() error {
		c, err := net.DialTimeout(network, addr, patience)
		if err != nil {
			return fmt.Errorf("%w: %v", errNoAnswer, err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		if strings.HasPrefix(network, "udp") {
			if _, err := io.WriteString(c, "?"); err != nil {
				return err
			}
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return fmt.Errorf("%w: %v", errNoAnswer, err)
		}
		who = string(buf[:n])
		return nil
	})
	return who, err
}

// want dials and compares whom the server saw; who "" is anybody.
func want(t *testing.T, ns, network, addr, who string) {
	t.Helper()
	got, err := dial(ns, network, addr, 10*time.Second)
	if err != nil {
		t.Fatalf("%s %s: %v", network, addr, err)
	}
	if who != "" && got != who {
		t.Errorf("%s %s: the server saw %s, want %s", network, addr, got, who)
	}
}

// wantNone dials and wants no answer.
func wantNone(t *testing.T, ns, network, addr string) {
	t.Helper()
	if who, err := dial(ns, network, addr, 700*time.Millisecond); err == nil {
		t.Errorf("%s %s: answered (as %s), want none", network, addr, who)
	}
}

// list makes a conflist.
func list(version string, plugins ...string) string {
	return fmt.Sprintf(`{"cniVersion":%q,"name":"test","plugins":[%s]}`, version, strings.Join(plugins, ","))
}

const bridge4 = `{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,
	"ipam":{"type":"host-local","ranges":[[{"subnet":"10.85.0.0/16"}]]}}`

const bridge46 = `{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipMasq":true,"hairpinMode":true,
	"ipam":{"type":"host-local","ranges":[[{"subnet":"10.85.0.0/16"}],[{"subnet":"fd00:85::/64"}]]}}`

const portmapConf = `{"type":"portmap","capabilities":{"portMappings":true}}`

func deadline(ms int) time.Time { return time.Now().Add(time.Duration(ms) * time.Millisecond) }
