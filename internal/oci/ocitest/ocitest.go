// Package ocitest is the contract of oci.Runtime as a suite of tests: what each
// implementation, embedded or foreign, must do. It runs real containers as root
// with busybox as their world, and looks afterwards for whatever was left
// behind: processes, descriptors, mounts, cgroups, state.
//
// It knows no implementation.
package ocitest

import (
	"bytes"
	"context"
	"fmt"

	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
)

// Patience is how long a test waits for what must come.
const Patience = 20 * time.Second

// Unfit is a case that cannot be asked of a runtime.
type Unfit struct{ Case, Reason string }

// New makes the runtime under test over a state folder.
type New func(t *testing.T, root string) oci.Runtime

// Run runs the whole suite, but for the cases that do not fit the runtime; unfit has
// the reasons.
func Run(t *testing.T, newRuntime New, unfit ...Unfit) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	// Libraries open some descriptors once and keep them; the first container is
	// theirs and not looked at for leaks.
	t.Run("First", func(t *testing.T) {
		w := newWorld(t, newRuntime)
		id, _ := w.Start("sleep 1000")
		_, _, _, err := w.Exec(id, "true")
		w.ok("exec", err)
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, u := range unfit {
				if u.Case == c.name {
					t.Skip(u.Reason)
				}
			}
			w := NewWorld(t, newRuntime)
			c.run(w)
		})
	}
}

var cases = []struct {
	name string
	run  func(*World)
}{
	{"Life", life}, {"Hooks", hooks}, {"Console", console}, {"Descriptors", descriptors},
	{"BadBundle", badBundle}, {"BadCommand", badCommand}, {"Duplicate", duplicate}, {"Unknown", unknown},
	{"Kill", kill}, {"Delete", deleting}, {"SharedPids", sharedPids},
	{"ExecResults", execResults}, {"ExecProcess", execProcess}, {"ExecTail", execTail}, {"ExecBackground", execBackground},
	{"ExecDeadline", execDeadline}, {"ExecCancel", execCancel}, {"ExecTerminal", execTerminal}, {"ExecTyped", execTyped}, {"ExecStates", execStates}, {"ExecHangup", execHangup},
	{"Pause", pause}, {"Update", update}, {"Stats", stats}, {"Parallel", parallel}, {"Features", featureList},
}

// World is one test's surroundings: a runtime, a root file system and a cgroup.
type World struct {
	*testing.T
	RT     oci.Runtime
	Ctx    context.Context
	Dir    string // bundles are made here
	Cgroup string // all containers' parent
	rootfs string
	count  atomic.Int32
}

var worlds atomic.Int32

// NewWorld makes a world and, when the test ends, looks for leaks.
func NewWorld(t *testing.T, newRuntime New) *World {
	var before world
	t.Cleanup(func() { before.compare(t) })
	w := newWorld(t, newRuntime)
	before = snapshot(t)
	return w
}

func newWorld(t *testing.T, newRuntime New) *World {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	w := &World{
		T: t, Ctx: ctx, Dir: t.TempDir(),
		// Pid namespaces repeat pids, cgroups see them all: the name is random.
		Cgroup: fmt.Sprintf("/monocrio-test-%s-%d", ident.Short(ident.New()), worlds.Add(1)),
	}
	w.rootfs = rootfs(t, filepath.Join(w.Dir, "rootfs"))
	root := filepath.Join(w.Dir, "state")
	w.RT = newRuntime(t, root)
	if err := cgroup.CreateParent(ctx, cgroup.Cgroupfs, w.Cgroup, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer cancel()
		if left, _ := os.ReadDir(root); len(left) > 0 {
			t.Errorf("state was left: %v", left)
		}
		cleanupCtx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		w.checkCgroups()
		if err := cgroup.Remove(cleanupCtx, cgroup.Cgroupfs, w.Cgroup); err != nil {
			t.Error(err)
			_ = cgroup.KillAll(cleanupCtx, w.Cgroup)
			_ = cgroup.Remove(cleanupCtx, cgroup.Cgroupfs, w.Cgroup)
		}
	})
	return w
}

// checkCgroups fails for each cgroup that a container left below the parent.
func (w *World) checkCgroups() {
	for _, parent := range cgroup.Dirs(w.Cgroup) {
		entries, _ := os.ReadDir(parent)
		for _, e := range entries {
			if e.IsDir() {
				w.Errorf("cgroup %s was left", filepath.Join(parent, e.Name()))
			}
		}
	}
}

// world is what must be the same afterwards.
type world struct{ fds, mounts, children []string }

func snapshot(t *testing.T) world {
	var s world
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// Go's own poller opens its descriptors at first use.
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:[event") && !strings.HasSuffix(target, "/fd") {
			s.fds = append(s.fds, e.Name()+" "+target)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	s.mounts = strings.Split(string(mounts), "\n")
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		data, _ := os.ReadFile(f)
		s.children = append(s.children, strings.Fields(string(data))...)
	}
	return s
}

// compare allows for a moment: a goroutine that closes or reaps may be on its
// way.
func (before world) compare(t *testing.T) {
	var what string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		now := snapshot(t)
		what = ""
		for _, d := range []struct {
			name     string
			old, new []string
		}{{"descriptors", before.fds, now.fds}, {"mounts", before.mounts, now.mounts}, {"children", before.children, now.children}} {
			more := slices.DeleteFunc(d.new, func(s string) bool { return slices.Contains(d.old, s) })
			if len(more) > 0 {
				what += fmt.Sprintf("%s were left: %q\n", d.name, more)
			}
		}
		if what == "" {
			return
		}
	}
	t.Error(what)
}

// rootfs makes a root file system out of a static busybox.
func rootfs(t *testing.T, dir string) string {
	box := ""
	for _, p := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if out, err := exec.Command("ldd", p).CombinedOutput(); err != nil && len(out) > 0 {
			box = p
			break
		}
	}
	if box == "" {
		t.Skip("a static busybox is needed")
	}
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(box)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "echo", "true", "id", "pwd", "tty", "stty", "env", "seq", "dd", "kill", "ls"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Spec returns a specification that runs a shell script in namespaces of its own.
func (w *World) Spec(id, script string) *specs.Spec {
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: "test",
		Root:     &specs.Root{Path: w.rootfs, Readonly: true},
		Process:  Process("/bin/sh", "-c", script),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=1777", "size=1m"}},
		},
		Annotations: map[string]string{"test.key": "value=with=signs"},
		Linux: &specs.Linux{
			CgroupsPath: cgroup.ContainerPath(cgroup.Cgroupfs, w.Cgroup, "c", id),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// Process is one that runs as root with few capabilities.
func Process(args ...string) *specs.Process {
	caps := []string{"CAP_KILL", "CAP_CHOWN"}
	return &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin", "TERM=xterm"},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}

// Bundle writes a bundle and returns its folder and a fresh id.
func (w *World) Bundle(script string, change ...func(*specs.Spec)) (id, dir string) {
	w.Helper()
	id = fmt.Sprintf("t%d", w.count.Add(1))
	dir = filepath.Join(w.Dir, "bundle-"+id)
	spec := w.Spec(id, script)
	for _, f := range change {
		f(spec)
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = oci.WriteBundle(dir, spec)
	}
	if err != nil {
		w.Fatal(err)
	}
	return id, dir
}

// Create creates a container; its output goes to a file that the returned
// function reads. The container is deleted when the test ends.
func (w *World) Create(script string, change ...func(*specs.Spec)) (id string, output func() string) {
	w.Helper()
	id, dir := w.Bundle(script, change...)
	out, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		w.Fatal(err)
	}
	defer out.Close()
	w.cleanup(id)
	o := oci.CreateOptions{Bundle: dir, PidFile: filepath.Join(dir, "pid"), Stdout: out, Stderr: out}
	if err := w.RT.Create(w.Ctx, id, o); err != nil {
		w.Fatal(err)
	}
	w.reap(id)
	return id, func() string {
		data, err := os.ReadFile(out.Name())
		if err != nil {
			w.Error(err)
		}
		return string(data)
	}
}

// cleanup deletes a container when the test ends, before the leaks are looked for.
func (w *World) cleanup(id string) {
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := w.RT.Delete(ctx, id, true); err != nil {
			w.Errorf("cleanup: %v", err)
		}
	})
}

// reap waits for a container's init if it is our child, as its monitor would.
func (w *World) reap(id string) {
	w.Helper()
	s, err := w.RT.State(w.Ctx, id)
	if err != nil {
		w.Fatal(err)
	}
	go func() { _, _ = unix.Wait4(s.Pid, nil, 0, nil) }()
}

// Start creates and starts a container.
func (w *World) Start(script string, change ...func(*specs.Spec)) (id string, output func() string) {
	w.Helper()
	id, output = w.Create(script, change...)
	if err := w.RT.Start(w.Ctx, id); err != nil {
		w.Fatal(err)
	}
	return id, output
}

// Await waits until something is true.
func (w *World) Await(what string, is func() bool) {
	w.Helper()
	for end := time.Now().Add(Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("waited in vain: %s", what)
		}
	}
}

// AwaitStatus waits until a container has a status.
func (w *World) AwaitStatus(id string, want oci.Status) {
	w.Helper()
	w.Await(id+" to be "+string(want), func() bool {
		s, err := w.RT.State(w.Ctx, id)
		if err != nil {
			w.Fatal(err)
		}
		return s.Status == want
	})
}

// Exec runs a script in a container and returns what came of it.
func (w *World) Exec(id, script string) (code int, stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	code, err = w.RT.Exec(w.Ctx, id, oci.ExecRequest{
		Process: Process("/bin/sh", "-c", script), Stdout: &out, Stderr: &errOut,
	})
	return code, out.String(), errOut.String(), err
}

// receiver accepts one terminal on a console socket.
func (w *World) receiver() (path string, master func() *os.File) {
	dir, err := os.MkdirTemp("", "console-") // socket paths are short
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { os.RemoveAll(dir) })
	path = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		w.Fatal(err)
	}
	return path, func() *os.File {
		defer l.Close()
		_ = l.SetDeadline(time.Now().Add(Patience))
		conn, err := l.AcceptUnix()
		if err != nil {
			w.Fatal(err)
		}
		defer conn.Close()
		socket, err := conn.File()
		if err != nil {
			w.Fatal(err)
		}
		defer socket.Close()
		m, err := oci.ReceiveConsole(socket)
		if err != nil {
			w.Fatal(err)
		}
		return m
	}
}

// V2 mounts cgroup version 2 on /sys/fs/cgroup. On a host whose controllers
// are in version 1 that tree limits and accounts nothing, but joining, freezing,
// killing and removing are real.
const V2 = "mount -t cgroup2 none /sys/fs/cgroup"

// V1 hides the version 2 tree of a hybrid host.
const V1 = "mount -t tmpfs none /sys/fs/cgroup/unified"

// Again runs a test of the calling binary again in a mount namespace of its own,
// after a shell command has changed what is mounted.
func Again(t *testing.T, change, test string) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if cgroup.Mode() != cgroup.Hybrid {
		t.Skipf("the host has cgroup %s, not both versions", cgroup.Mode())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		change+` && mount --make-rshared / && exec "$@"`, "sh",
		self, "-test.run=^"+test+"$", "-test.v="+fmt.Sprint(testing.Verbose()), "-test.timeout=5m")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("after %s: %v\n%s", change, err, out)
	} else {
		t.Logf("%s", out)
	}
}
