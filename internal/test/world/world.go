// Package world gives a test the real daemon in a world of its own: its folders, a
// registry on loopback with a busybox image, a bridge network, a CRI client; and at
// the end a look at everything that could have been left behind.
//
// Test binaries run in mount, network, pid, ipc and uts namespaces of their own
// (scripts/in-namespaces), so whatever is found there was left by the test.
package world

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// World is one daemon and what surrounds it.
type World struct {
	cri.RuntimeServiceClient
	Images cri.ImageServiceClient

	T        testing.TB
	Dir      string
	Registry *registry.Registry
	Addr     string // of the registry
	Image    string // a busybox that can be pulled
	Socket   string
	Conf     string // crio.conf
	NetDir   string
	Args     []string // more arguments of the daemon

	bin    string
	daemon *exec.Cmd
	exited chan struct{}
	log    *syncBuffer
	conn   *grpc.ClientConn
	atEnd  []func()
	pods   map[string]bool // ids of all pods made, for the look at cgroups
}

// Options change the world before the daemon starts.
type Options struct {
	// Extra is added to crio.conf; it may open tables of its own. API is added to the
	// table [crio.api].
	Extra, API string
	// Net replaces the network's conflist; "-" for none.
	Net string
	// Late leaves the daemon for the test to start.
	Late bool
	Env  []string
}

// Bin returns the real executable: MONOCRIO_BIN, one that is behind the test's own, or one
// that is built.
var Bin = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("MONOCRIO_BIN"); b != "" {
		return b, nil
	}
	if b, err := behind(); b != "" || err != nil {
		return b, err
	}
	text, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	// Nobody is told when all tests are over: it is put where builds are.
	root := strings.TrimSpace(string(text))
	bin := filepath.Join(root, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(bin, ".for-tests-") // another package's tests may be at it too
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	out, fresh := filepath.Join(bin, "monocrio-for-tests"), filepath.Join(dir, "monocrio")
	cmd := exec.Command(filepath.Join(root, "scripts", "build"), "-o", fresh, "-t", "crashpoints")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, text)
	}
	return out, os.Rename(fresh, out)
})

// New makes a world and, unless told otherwise, starts its daemon.
func New(t testing.TB, o Options) *World {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, mounts, cgroups")
	}
	bin, err := Bin()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "mw") // short: sockets live in it
	if err == nil {
		err = os.Chmod(dir, 0o711) // as /var/lib is: mapped users look for their files below
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &World{T: t, Dir: dir, bin: bin, Registry: &registry.Registry{}, NetDir: filepath.Join(dir, "net.d"),
		Socket: filepath.Join(dir, "crio.sock"), Conf: filepath.Join(dir, "crio.conf"), log: &syncBuffer{}, pods: map[string]bool{}}
	t.Cleanup(w.end)
	w.makeRegistry()
	w.write("net.d/10-test.conflist", o.Net, Conflist)
	w.write("crio.conf", fmt.Sprintf(conf, dir, o.API)+o.Extra, "")
	w.write("registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", w.Addr), "")
	if !o.Late {
		w.Start(o.Env...)
	}
	return w
}

const conf = `[crio]
root = "%[1]s/root"
runroot = "%[1]s/runroot"
state_dir = "%[1]s/state"
run_dir = "%[1]s/run"
log_dir = "%[1]s/log"
[crio.api]
listen = "%[1]s/crio.sock"
%[2]s
[crio.image]
registries_conf = "%[1]s/registries.conf"
registries_conf_dir = "%[1]s/none"
[crio.nri]
nri_listen = "%[1]s/nri.sock"
nri_plugin_dir = "%[1]s/nri"
nri_plugin_config_dir = "%[1]s/nri.d"
[crio.network]
network_dir = "%[1]s/net.d"
plugin_dirs = ["%[1]s/plugins"]
cni_cache_dir = "%[1]s/cni"
`

// Conflist is the network that a world has unless it is told otherwise.
const Conflist = `{"cniVersion": "1.1.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "mtest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

func (w *World) write(name, text, def string) {
	path := filepath.Join(w.Dir, name)
	if text == "" {
		text = def
	}
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil && text != "-" {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		w.T.Fatal(err)
	}
}

func (w *World) makeRegistry() {
	files, err := registry.Busybox()
	if err != nil {
		w.T.Skip(err)
	}
	if _, err := w.Registry.Add("test/busybox", "1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip,
		Config: v1.ImageConfig{Cmd: []string{"sh", "-c", "echo default command"}, Env: []string{"PATH=/bin", "FROM=image"}}}); err != nil {
		w.T.Fatal(err)
	}
	addr, stop, err := w.Registry.Serve()
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(stop)
	w.Addr, w.Image = addr, addr+"/test/busybox:1"
}

// Start runs the daemon and waits until it answers; env is added to its environment.
func (w *World) Start(env ...string) {
	w.T.Helper()
	if err := w.TryStart(env...); err != nil {
		w.T.Fatalf("the daemon does not start: %v\n%s", err, w.log)
	}
}

// StartAs is Start with another executable.
func (w *World) StartAs(bin string) {
	w.T.Helper()
	own := w.bin
	w.bin = bin
	defer func() { w.bin = own }()
	w.Start()
}

// TryStart is Start for a daemon that may fail.
func (w *World) TryStart(env ...string) error {
	cmd := exec.Command(w.bin, append([]string{"crio", "-c", w.Conf}, w.Args...)...)
	cmd.Env = append(append(w.environ(), "TMPDIR="+w.Dir), env...) // there it writes its stacks
	cmd.Stdout, cmd.Stderr = w.log, w.log
	if err := cmd.Start(); err != nil {
		return err
	}
	w.daemon, w.exited = cmd, make(chan struct{})
	go func() { cmd.Wait(); close(w.exited) }()
	if w.conn == nil {
		var err error
		w.conn, err = grpc.NewClient("unix://"+w.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(80<<20)))
		if err != nil {
			return err
		}
		w.RuntimeServiceClient, w.Images = cri.NewRuntimeServiceClient(w.conn), cri.NewImageServiceClient(w.conn)
	}
	for end := time.Now().Add(60 * time.Second); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := w.Version(ctx, &cri.VersionRequest{})
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-w.exited:
			return fmt.Errorf("it ended with %v", cmd.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			return err
		}
		w.conn.ResetConnectBackoff()
	}
}

// environ is what the daemon and its commands get: an option of a table that many tests
// write themselves, and nothing of this machine's own store.
func (w *World) environ() []string {
	return append(os.Environ(), "CONTAINER_NAMESPACES_DIR="+filepath.Join(w.Dir, "ns"), "CONTAINERS_STORAGE_CONF=/dev/null")
}

// Bin is the executable.
func (w *World) Bin() string { return w.bin }

// Pid is the daemon's process.
func (w *World) Pid() int { return w.daemon.Process.Pid }

// Kill ends the daemon with SIGKILL and waits for its end.
func (w *World) Kill() {
	w.daemon.Process.Signal(syscall.SIGKILL)
	w.WaitEnd()
}

// Stop ends the daemon with SIGTERM; it must exit with 0.
func (w *World) Stop() {
	w.T.Helper()
	w.daemon.Process.Signal(syscall.SIGTERM)
	w.WaitEnd()
	if code := w.daemon.ProcessState.ExitCode(); code != 0 {
		w.T.Errorf("the daemon ended with %d\n%s", code, w.log)
	}
}

// WaitEnd waits for the daemon's end, whoever causes it.
func (w *World) WaitEnd() {
	w.T.Helper()
	select {
	case <-w.exited:
	case <-time.After(30 * time.Second):
		w.daemon.Process.Kill()
		<-w.exited
		w.T.Errorf("the daemon did not end")
	}
	w.notePods()
}

// Redial makes the next call connect at once.
func (w *World) Redial() { w.conn.ResetConnectBackoff() }

// Restart kills the daemon and starts it again.
func (w *World) Restart() {
	w.T.Helper()
	w.Kill()
	w.Start()
}

// AtEnd runs f after the daemon's end, before the look at what is left.
func (w *World) AtEnd(f func()) { w.atEnd = append(w.atEnd, f) }

// Log is what the daemon has logged so far.
func (w *World) Log() string { return w.log.String() }

// Ctx bounds a call generously: a test fails by it only if something hangs.
func (w *World) Ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.T.Cleanup(cancel)
	return ctx
}

// Run runs an applet of the executable and returns what it prints.
func (w *World) Run(args ...string) (stdout, stderr string, code int) {
	return w.RunEnv(nil, args...)
}

// RunEnv is Run with more in the environment.
func (w *World) RunEnv(env []string, args ...string) (stdout, stderr string, code int) {
	cmd := exec.Command(w.bin, args...)
	if args[0] == "timeout" { // for what must end and might not
		cmd = exec.Command("timeout", append([]string{args[1], w.bin}, args[2:]...)...)
	}
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(w.environ(), env...), &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// syncBuffer may be written and read at the same time.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Conn is the connection to the daemon, for calls that are made by name.
func (w *World) Conn() *grpc.ClientConn { return w.conn }

// ConfText is the content of crio.conf.
func (w *World) ConfText() string {
	data, err := os.ReadFile(w.Conf)
	if err != nil {
		w.T.Fatal(err)
	}
	return string(data)
}

// SetConf replaces crio.conf; a daemon reads it when it starts.
func (w *World) SetConf(text string) {
	if err := os.WriteFile(w.Conf, []byte(text), 0o644); err != nil {
		w.T.Fatal(err)
	}
}
