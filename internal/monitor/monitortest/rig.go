// Package monitortest is the contract suite of monitors: what an engine may rely
// on, asked of any program that claims to keep conmon's contract, with real
// containers.
//
// It is for tests only and imports package monitor and testing.
package monitortest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/monitor"
)

// Rig is a monitor under test with a runtime for it.
type Rig struct {
	Path, Argv0 string // of the monitor
	Runtime     string
	// Foreign marks a monitor that is not ours: what only ours promises is left out.
	Foreign bool
	Env     []string
}

// need skips a test on a machine that lacks what it needs.
func (r *Rig) need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	for _, path := range []string{r.Path, r.Runtime, "/bin/busybox"} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("this machine lacks %s", path)
		}
	}
}

var counter atomic.Int64

// Box is one container made by the suite.
type Box struct {
	t     testing.TB
	rig   *Rig
	Dir   string // holds all the folders below
	Spawn monitor.Spawn
	Proc  monitor.Process
	spec  map[string]any
}

// Box prepares a container that runs a shell script.
func (r *Rig) Box(t testing.TB, script string) *Box {
	t.Helper()
	r.need(t)
	dir := t.TempDir()
	id := fmt.Sprintf("monocrio-test-%d-%d", os.Getpid(), counter.Add(1))
	b := &Box{t: t, rig: r, Dir: dir}
	for _, d := range []string{"bundle/rootfs/bin", "bundle/rootfs/proc", "bundle/rootfs/dev", "bundle/rootfs/tmp", "exits", "persist", "sockets", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shell := filepath.Join(dir, "bundle/rootfs/bin/sh")
	if err := os.Link("/bin/busybox", shell); err != nil {
		if out, err := exec.Command("cp", "/bin/busybox", shell).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, name := range []string{"cat", "sleep", "seq", "stty", "head", "dd", "yes", "true", "busybox", "id", "nohup", "setsid"} {
		if err := os.Symlink("sh", filepath.Join(dir, "bundle/rootfs/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	b.Spawn = monitor.Spawn{
		Path: r.Path, Argv0: r.Argv0, ID: id, UUID: id, Name: "box",
		Bundle: filepath.Join(dir, "bundle"), ExitDir: filepath.Join(dir, "exits"),
		PersistDir: filepath.Join(dir, "persist"), SocketDir: filepath.Join(dir, "sockets"),
		LogPath: filepath.Join(dir, "log"),
		Runtime: r.Runtime, RuntimeArgs: []string{"--root=" + filepath.Join(dir, "state")},
		Env: append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + dir}, r.Env...),
	}
	b.spec = spec(id, script)
	t.Cleanup(b.clean)
	return b
}

// spec is a small OCI specification.
func spec(id, script string) map[string]any {
	mount := func(dst, typ string, opts ...string) map[string]any {
		return map[string]any{"destination": dst, "type": typ, "source": typ, "options": opts}
	}
	return map[string]any{
		"ociVersion": "1.0.2", "hostname": "box",
		"process": map[string]any{
			"cwd": "/", "args": []string{"/bin/sh", "-c", script},
			"env":  []string{"PATH=/bin", "TERM=xterm"},
			"user": map[string]any{"uid": 0, "gid": 0},
		},
		"root":   map[string]any{"path": "rootfs"},
		"mounts": []any{mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "mode=755"), mount("/dev/pts", "devpts", "newinstance", "ptmxmode=0666")},
		"linux": map[string]any{
			"cgroupsPath": "/" + id,
			"namespaces":  []any{map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}},
			"resources":   map[string]any{},
		},
	}
}

// Process changes the specification's process.
func (b *Box) Process(key string, value any) {
	b.spec["process"].(map[string]any)[key] = value
}

// Linux changes the specification's Linux part.
func (b *Box) Linux(key string, value any) { b.spec["linux"].(map[string]any)[key] = value }

// Terminal gives the container a terminal.
func (b *Box) Terminal() {
	b.Process("terminal", true)
	b.Spawn.Terminal = true
}

// Create starts the monitor; the container waits to be started.
func (b *Box) Create() error {
	b.t.Helper()
	data, err := json.Marshal(b.spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.Spawn.Bundle, "config.json"), data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b.Proc, err = monitor.Start(ctx, b.Spawn)
	return err
}

// Start lets the container's process run.
func (b *Box) Start() {
	b.t.Helper()
	if out, err := b.runtime("start", b.Spawn.ID); err != nil {
		b.t.Fatalf("runtime start: %v: %s", err, out)
	}
}

// Run creates and starts.
func (b *Box) Run() {
	b.t.Helper()
	if err := b.Create(); err != nil {
		b.t.Fatal(err)
	}
	b.Start()
}

// runtime runs a verb of the runtime. What it writes goes to a file: a pipe would
// be held open by whatever the verb leaves behind.
func (b *Box) runtime(args ...string) (string, error) {
	cmd := exec.Command(b.Spawn.Runtime, append(append([]string{}, b.Spawn.RuntimeArgs...), args...)...)
	out, err := os.CreateTemp(b.Dir, "runtime")
	if err != nil {
		return "", err
	}
	defer out.Close()
	defer os.Remove(out.Name())
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	data, _ := os.ReadFile(out.Name())
	return string(data), err
}

// WaitExit waits until the monitor has recorded the end and is gone itself.
func (b *Box) WaitExit() monitor.Exit {
	b.t.Helper()
	var e monitor.Exit
	b.Eventually("the exit file", func() (ok bool) {
		var err error
		if e, ok, err = monitor.ReadExit(b.Spawn.ExitDir, b.Spawn.PersistDir, b.Spawn.ID); err != nil {
			b.t.Fatal(err)
		}
		return ok
	})
	b.Eventually("the end of the monitor", func() bool { return !monitor.Alive(b.Proc.Monitor) })
	return e
}

// Eventually waits for something that must come, generously.
func (b *Box) Eventually(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Log returns the log's content.
func (b *Box) Log() string {
	data, err := os.ReadFile(b.Spawn.LogPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return string(data)
}

// WaitLog waits until the log has a text.
func (b *Box) WaitLog(text string) {
	b.t.Helper()
	b.Eventually(fmt.Sprintf("%q in the log", text), func() bool { return strings.Contains(b.Log(), text) })
}

// Records returns the log's records without their times.
func (b *Box) Records() []string {
	b.t.Helper()
	var out []string
	for line := range strings.Lines(b.Log()) {
		stamp, rest, ok := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || !ok || len(stamp) != 35 {
			b.t.Errorf("a record begins with %q: %v", stamp, err)
		}
		out = append(out, rest)
	}
	return out
}

// Text is what the container wrote to its standard output, however the log cut it: a
// line that a program writes in two pieces may be two records.
func (b *Box) Text() string {
	b.t.Helper()
	var out strings.Builder
	for _, r := range b.Records() {
		if part, ok := strings.CutPrefix(r, "stdout P "); ok {
			out.WriteString(strings.TrimSuffix(part, "\n"))
		} else if line, ok := strings.CutPrefix(r, "stdout F "); ok {
			out.WriteString(line)
		}
	}
	return out.String()
}

// clean ends what is left.
func (b *Box) clean() {
	b.runtime("delete", "--force", b.Spawn.ID)
	if b.Proc.Monitor.Pid > 0 && monitor.Alive(b.Proc.Monitor) {
		deadline := time.Now().Add(10 * time.Second)
		for monitor.Alive(b.Proc.Monitor) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if monitor.Alive(b.Proc.Monitor) {
			b.t.Errorf("monitor %s outlives its container", b.Proc.Monitor)
			unix.Kill(b.Proc.Monitor.Pid, unix.SIGKILL)
		}
	}
	if b.t.Failed() {
		b.t.Logf("log:\n%.2000s", b.Log())
	}
}
