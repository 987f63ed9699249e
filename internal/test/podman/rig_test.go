package podman

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/journaltest"
	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
)

const cgroupParent = "monocrio-test-podman"

// engine is podman with folders of its own, a monitor and a runtime.
type engine struct {
	t       *testing.T
	dir     string
	monitor string
	runtime string
	journal *net.UnixConn
}

// newEngine makes an engine with one image, "img", for the tests below t.
func newEngine(t *testing.T, monitor, runtime string) *engine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	for _, name := range []string{"podman", "runc"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("this machine lacks %s: scripts/deps test", name)
		}
	}
	e := &engine{t: t, dir: t.TempDir(), monitor: monitor, runtime: runtime}
	e.mount(e.dir)
	e.mount("/run") // podman's own files, and the journal's socket
	t.Cleanup(func() { removeCgroups(t) })
	e.journal = journaltest.Listen(t, journaltest.System)
	e.write("storage.conf", fmt.Sprintf("[storage]\ndriver = \"vfs\"\nrunroot = \"%s/runroot\"\ngraphroot = \"%[1]s/root\"\n", e.dir))
	e.write("containers.conf", "[engine]\nlock_type = \"file\"\nevents_logger = \"file\"\n")
	e.makeImage()
	t.Cleanup(func() { e.podman("rm", "--force", "--all", "--time", "0") })
	return e
}

func (e *engine) mount(dir string) {
	e.t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		e.t.Skip("cannot mount a file system for the engine's files: ", err)
	}
	e.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			e.t.Error(err)
		}
	})
}

func (e *engine) write(name, text string) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), []byte(text), 0o644); err != nil {
		e.t.Fatal(err)
	}
}

func (e *engine) makeImage() {
	e.t.Helper()
	files, err := registry.Busybox()
	if err != nil {
		e.t.Skip("cannot make an image: ", err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	names := slices.Sorted(maps.Keys(files))
	slices.SortStableFunc(names, func(a, b string) int { return kind(files[a]) - kind(files[b]) })
	for _, name := range names {
		f := files[name]
		h := &tar.Header{Name: name, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Data)), Typeflag: tar.TypeReg}
		switch kind(f) {
		case 0:
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case 2:
			h.Typeflag, h.Linkname = tar.TypeLink, f.Link
		}
		if f.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			e.t.Fatal(err)
		}
		w.Write(f.Data)
	}
	w.Close()
	if err := os.WriteFile(filepath.Join(e.dir, "image.tar"), buf.Bytes(), 0o644); err != nil {
		e.t.Fatal(err)
	}
	e.ok("import", filepath.Join(e.dir, "image.tar"), "img")
}

// kind is the place of a file in the archive: folders, files, links.
func kind(f registry.File) int {
	switch {
	case f.Mode.IsDir():
		return 0
	case f.Link != "":
		return 2
	}
	return 1
}

func (e *engine) cmd(args ...string) *exec.Cmd {
	cmd := exec.Command("podman", append([]string{"--root", e.dir + "/root", "--runroot", e.dir + "/runroot", "--tmpdir", e.dir + "/tmp",
		"--conmon", e.monitor, "--runtime", e.runtime, "--cgroup-manager", "cgroupfs", "--events-backend", "file"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + e.dir, "CONTAINERS_CONF=" + e.dir + "/containers.conf", "CONTAINERS_STORAGE_CONF=" + e.dir + "/storage.conf"}
	return cmd
}

// result is what one call of podman said.
type result struct {
	out, err string
	status   int
}

func (e *engine) podman(args ...string) result { return e.finish(e.cmd(args...)) }

// finish runs a prepared call. What it writes goes to files: a pipe would be held open
// by whatever it leaves behind.
func (e *engine) finish(cmd *exec.Cmd) result {
	e.t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(e.dir, "out")
		if err != nil {
			e.t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	cmd.Stdout, cmd.Stderr = files[0], files[1]
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	out, _ := os.ReadFile(files[0].Name())
	errs, _ := os.ReadFile(files[1].Name())
	return result{string(out), string(errs), cmd.ProcessState.ExitCode()}
}

// ok is a call that must succeed; it returns what it printed without the last newline.
func (e *engine) ok(args ...string) string {
	e.t.Helper()
	r := e.podman(args...)
	if r.status != 0 {
		e.t.Fatalf("podman %s: status %d: %s", strings.Join(args, " "), r.status, r.err)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// run is the beginning of podman run.
func run(args ...string) []string {
	return append([]string{"run", "--network", "none", "--cgroup-parent", "/" + cgroupParent}, args...)
}

// shell ends such a line with the image and a script.
func shell(script string, args ...string) []string {
	return append(run(args...), "img", "/bin/sh", "-c", script)
}

// eventually waits for something that must come.
func (e *engine) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// monitors are the processes of the monitor under test.
func (e *engine) monitors() (pids []int) {
	want, err := filepath.EvalSymlinks(e.monitor)
	if err != nil {
		e.t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == want {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(l)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// inspect returns what a template makes of a container.
func (e *engine) inspect(name, format string) string {
	e.t.Helper()
	return e.ok("inspect", "--type", "container", "--format", format, name)
}

// removeCgroups removes what runc and podman leave of the cgroups, as soon as the last
// monitor in them has ended.
func removeCgroups(t *testing.T) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent)
		left := false
		for _, top := range append(tops, "/sys/fs/cgroup/"+cgroupParent) {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				left = unix.Rmdir(dirs[i]) != nil || left
			}
		}
		if !left {
			return
		}
		if time.Now().After(end) {
			t.Errorf("cgroups are left in %v", tops)
			return
		}
	}
}

// terminal is a pseudo-terminal whose other side is a program's.
type terminal struct {
	*os.File
	slave *os.File
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("this machine has no pseudo-terminals: ", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return &terminal{master, slave}
}

func (w *terminal) size(t *testing.T, rows, cols uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(w.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		t.Fatal(err)
	}
}

// start runs a call of podman on the terminal and collects its output.
func (w *terminal) start(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = w.slave, w.slave, w.slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &screen{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := w.Read(buf)
			s.add(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	return s
}

// bin is our executable under the name of one of its faces.
func bin(t *testing.T, name string) string {
	t.Helper()
	path, err := world.Bin()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	return link
}
