package docs

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// place is what a document's world is made of, prepared outside of it.
type place struct {
	t       *testing.T
	dir     string // a folder that the world sees too
	machine bool   // the world is the whole machine
	cgroups []string
}

// release is the name of the release that the world's pages offer.
const release = "v1.0.0"

// bundle is the tarball of the executable under test: MONOCRIO_BUNDLE, or one that is made.
var bundle = sync.OnceValues(func() (string, error) {
	if b := os.Getenv("MONOCRIO_BUNDLE"); b != "" {
		return b, nil
	}
	dir, err := os.MkdirTemp("/tmp", "monocrio-docs-bundle-")
	if err != nil {
		return "", err
	}
	made.dir = dir
	cmd := exec.Command(filepath.Join(root(), "scripts/bundle"), "-o", dir, "-b", os.Getenv("MONOCRIO_BIN"), "-r", release)
	cmd.Env = append(os.Environ(), "MONOCRIO_COMMIT_DATE=2026-01-02T03:04:05Z")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("scripts/bundle: %w\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("scripts/bundle made %v, %v", found, err)
	}
	return found[0], nil
})

// made is the folder of the bundle, to be removed when all tests are done.
var made struct{ dir string }

func newPlace(t *testing.T, machine bool) *place {
	t.Helper()
	p := &place{t: t, machine: machine}
	file, err := bundle()
	if err != nil {
		t.Fatal(err)
	}
	if p.dir, err = os.MkdirTemp("/tmp", "monocrio-docs-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(p.dir) })
	for _, d := range []string{"tools", "blocks", "site/download/" + release, "site/latest/download"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	name := "site/download/" + release + "/" + filepath.Base(file)
	p.copy("/proc/self/exe", "docs.test")
	p.copy(file, name)
	p.copy(file+".sha256sum", name+".sha256sum")
	p.copy(filepath.Join(root(), "scripts/get"), "site/get")
	for _, f := range []string{"site/latest/download/VERSION", "site/download/" + release + "/VERSION"} {
		if err := os.WriteFile(filepath.Join(p.dir, f), []byte(release+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !machine {
		for _, n := range []string{"systemctl", "journalctl"} {
			if err := os.Symlink("../docs.test", filepath.Join(p.dir, "tools", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return p
}

func (p *place) copy(from, to string) {
	p.t.Helper()
	in, err := os.Open(from)
	if err != nil {
		p.t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(p.dir, to), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		p.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// enter puts the shell into namespaces and cgroups of the world, and stays there as the
// process that ends them. Its arguments are files in which it registers, then --, then
// what runs.
const enter = `set -e
mount --make-rshared /
ip link set lo up
while [ "$1" != -- ]; do echo 0 >"$1"; shift; done
shift
exec unshare --cgroup sh -c '"$@"; exit $?' sh "$@"`

// command is the test binary as the world's first program.
func (p *place) command(doc string) *exec.Cmd {
	p.t.Helper()
	self := filepath.Join(p.dir, "docs.test")
	args := []string{self}
	if !p.machine {
		p.makeCgroups()
		args = []string{"unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", "sh", "-c", enter, "sh"}
		for _, c := range p.cgroups {
			args = append(args, filepath.Join(c, "cgroup.procs"))
		}
		args = append(args, "--", self)
	}
	abs, err := filepath.Abs(filepath.Join(root(), doc))
	if err != nil {
		p.t.Fatal(err)
	}
	p.copy(abs, filepath.Base(doc))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "MONOCRIO_DOCS_WORLD="+p.dir, "MONOCRIO_DOCS_DOC="+filepath.Base(doc))
	return cmd
}

// makeCgroups makes a cgroup for the world in each hierarchy, which it will take for the
// hierarchy's root, and removes them when it is gone.
func (p *place) makeCgroups() {
	p.t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.removeCgroups)
	for _, h := range hierarchies(p.t) {
		in := h.path
		for _, line := range strings.Split(string(own), "\n") {
			if f := strings.SplitN(line, ":", 3); len(f) == 3 && f[1] == h.controllers {
				in = filepath.Join(h.path, f[2])
			}
		}
		if h.controllers == "" && h.path == "/sys/fs/cgroup" {
			in = h.path // processes in ours would keep us from handing controllers on
		}
		c := filepath.Join(in, filepath.Base(p.dir)) // a name that no other run has
		if err := os.Mkdir(c, 0o755); err != nil {
			p.t.Fatal(err)
		}
		p.cgroups = append(p.cgroups, c)
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // of version 1; empty ones take no process
			if v, err := os.ReadFile(filepath.Join(in, f)); err == nil && h.controllers != "" {
				if err := os.WriteFile(filepath.Join(c, f), v, 0); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
}

func (p *place) removeCgroups() {
	for _, c := range p.cgroups {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			var dirs []string
			filepath.WalkDir(c, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				os.Remove(d)
			}
			if _, err := os.Stat(c); os.IsNotExist(err) {
				break
			}
			if time.Now().After(end) {
				p.t.Errorf("cannot remove the cgroup %s", c)
				break
			}
		}
	}
}

// hierarchy is a mounted hierarchy of cgroups; controllers is "" for version 2.
type hierarchy struct{ path, controllers string }

func hierarchies(t *testing.T) (list []hierarchy) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil && t != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		left, right, _ := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 3 || !strings.HasPrefix(l[4], "/sys/fs/cgroup") {
			continue
		}
		switch r[0] {
		case "cgroup2":
			list = append(list, hierarchy{l[4], ""})
		case "cgroup":
			var c []string
			for _, o := range strings.Split(r[2], ",") {
				if o != "rw" && o != "ro" && o != "xattr" && !strings.HasPrefix(o, "release_agent=") && o != "clone_children" {
					c = append(c, o)
				}
			}
			list = append(list, hierarchy{l[4], strings.Join(c, ",")})
		}
	}
	return list
}

// layers puts fresh layers over this machine's folders; what is only read stays visible.
func layers(dir string) error {
	up := filepath.Join(dir, "layers")
	if err := mount("tmpfs", up, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, d := range []string{"/etc", "/usr/local", "/usr/lib/systemd", "/var", "/opt"} {
		if _, err := os.Stat(d); err != nil {
			continue // this machine has no such folder
		}
		upper, work := filepath.Join(up, d, "upper"), filepath.Join(up, d, "work")
		for _, x := range []string{upper, work} {
			if err := os.MkdirAll(x, 0o755); err != nil {
				return err
			}
		}
		if err := mount("overlay", d, "overlay", 0, "lowerdir="+d+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	for _, d := range []string{"/etc/cni", "/etc/crio", "/etc/crictl.yaml", "/etc/containerd", "/etc/kubernetes"} { // what packages of this machine have brought
		if err := os.RemoveAll(d); err != nil {
			return err
		}
	}
	if err := emptyTmp(dir); err != nil {
		return err
	}
	for _, d := range []string{"/root", "/run", "/var/lib/containers", "/var/lib/kubelet", "/var/lib/crio", "/var/lib/cni", "/var/lib/containerd", "/var/log"} {
		if err := mount("tmpfs", d, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	return nil
}

// emptyTmp puts an empty /tmp over this machine's, in which only the world's folder is seen.
func emptyTmp(dir string) error {
	own, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("cannot clone the mount of %s: %w", dir, err)
	}
	defer unix.Close(own)
	if err := mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.MoveMount(own, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func mount(what, where, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(where, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(what, where, kind, flags, data); err != nil {
		return fmt.Errorf("cannot mount %s at %s: %w", kind, where, err)
	}
	return nil
}

// kernel gives the world its own view of /sys, and hides the settings of the whole machine
// that a kubelet writes behind files.
func kernel(dir string) error {
	list := hierarchies(nil)
	if err := mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if len(list) == 1 && list[0].controllers == "" {
		return unified()
	}
	if err := mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range list {
		kind := "cgroup"
		if h.controllers == "" {
			kind = "cgroup2"
		}
		data := h.controllers
		if strings.HasPrefix(data, "name=") {
			data = "none," + data
		}
		if err := mount("cgroup", h.path, kind, 0, data); err != nil {
			return err
		}
	}
	for i, f := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"} {
		path := filepath.Join("/proc/sys", f)
		data, err := os.ReadFile(path)
		if err != nil {
			continue // this kernel has no such setting
		}
		own := filepath.Join(dir, fmt.Sprintf("sysctl-%d", i))
		if err := os.WriteFile(own, data, 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// unified is the one hierarchy of cgroup v2: processes step aside so that controllers can
// be handed on.
func unified() error {
	if err := mount("cgroup", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
		return err
	}
	if err := os.Mkdir("/sys/fs/cgroup/world", 0o755); err != nil {
		return err
	}
	procs, err := os.ReadFile("/sys/fs/cgroup/cgroup.procs")
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(procs)) {
		if err := os.WriteFile("/sys/fs/cgroup/world/cgroup.procs", []byte(pid), 0); err != nil {
			return err
		}
	}
	has, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(has)) {
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c), 0); err != nil {
			return err
		}
	}
	return nil
}
