package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/linux/module"
	"github.com/monocrio/monocrio/internal/linux/mount"
)

// mounts are what a machine has before the daemon starts. /var is memory unless there is
// a disk for it; memory of a kind on which overlayfs can write, which the initramfs need
// not be.
var mounts = []struct {
	source, target, kind string
	flags                uintptr
	data                 string
}{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, ""},
	{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	{"tmp", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, "nsdelegate"},
}

// Links to this executable by which others, and ps, know the daemon and modprobe.
const (
	links    = "/run/monocrio"
	daemon   = links + "/crio"
	modprobe = links + "/modprobe"
)

// prepare makes the machine. An error is one with which it cannot go on.
func (m *machine) prepare() error {
	if err := leaveRootfs(); err != nil {
		return fmt.Errorf("cannot make the initramfs a root that containers can leave: %w", err)
	}
	for _, mt := range mounts {
		if err := makeMount(mt.source, mt.target, mt.kind, mt.flags, mt.data); err != nil {
			return err
		}
	}
	if err := makeLinks(); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	m.params = parse(string(line))
	for _, u := range m.unknown {
		say("%s on the kernel's command line means nothing; there are monocrio.data, .run and .hostname", u)
	}
	m.say("load modules", loadModules())
	if err := makeMount("securityfs", "/sys/kernel/security", "securityfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		say("%v", err) // what is not there is a kernel without security modules
	}
	if err := m.mountVar(); err != nil {
		return err
	}
	// Mounts that containers share with the node need it to share its own.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot share the machine's mounts: %w", err)
	}
	m.say("set up lo", up("lo"))
	m.say("name the host", m.setHostname())
	m.say("forward between networks", os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	return os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// say tells of a failure after which the machine goes on.
func (m *machine) say(what string, err error) {
	if err != nil {
		say("cannot %s: %v", what, err)
	}
}

// leaveRootfs gives the initramfs a mount that has a parent. pivot_root(2), by which each
// container gets its root, refuses to leave the kernel's very first mount.
func leaveRootfs() error {
	kind, err := mount.FsType("/")
	if err != nil || kind != unix.RAMFS_MAGIC && kind != unix.TMPFS_MAGIC {
		return err
	}
	const aside = "/.root"
	if err := os.MkdirAll(aside, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Chdir(aside); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return os.Remove(aside)
}

func makeMount(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if mount.IsMountPoint(target) {
		return nil // by the kernel, or by whoever started us
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("cannot mount %s at %s: does the kernel have it? %w", kind, target, err)
	}
	return nil
}

func makeLinks() error {
	exe, err := ownFile("/init", os.Args[0])
	if err == nil {
		err = os.MkdirAll(links, 0o755)
	}
	for _, l := range []string{daemon, modprobe} {
		if err == nil {
			err = os.Symlink(exe, l)
		}
		if errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	return err
}

// ownFile is the name of this executable's file. The link /proc/self/exe is of no use: it
// tells the place below the mount that was left.
func ownFile(names ...string) (string, error) {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if fi, err := os.Stat(n); err == nil && filepath.IsAbs(n) && os.SameFile(fi, own) {
			return n, nil
		}
	}
	return "", fmt.Errorf("cannot find the file of this process: it is none of %v; put it at /init", names)
}

// loadModules loads the modules of the machine's devices, and lets the kernel load others
// when it needs them. A kernel without modules has no folder of them.
func loadModules() error {
	tree, err := module.Running()
	if err != nil {
		return err
	}
	if _, err := os.Stat(string(tree)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte(modprobe), 0o644); err != nil {
		return fmt.Errorf("cannot tell the kernel who loads modules: %w", err)
	}
	// A bus that gets its driver shows more devices.
	for seen, before := map[string]bool{}, -1; len(seen) != before; {
		before = len(seen)
		for _, alias := range devices("/sys/devices") {
			if !seen[alias] {
				seen[alias] = true
				if err := tree.Load(alias); err != nil && !errors.Is(err, fs.ErrNotExist) {
					say("%v", err)
				}
			}
		}
	}
	_ = tree.Load("evdev") // no device asks for it: the power button's events
	return nil
}

// devices are the aliases of what the kernel has found.
func devices(dir string) (aliases []string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "modalias" {
			if text, err := os.ReadFile(path); err == nil && len(text) > 1 {
				aliases = append(aliases, strings.TrimSpace(string(text)))
			}
		}
		return nil
	})
	return aliases
}

// mountVar mounts the disk for /var, or memory. What the initramfs has in /var is hidden.
func (m *machine) mountVar() error {
	if m.data == "" {
		return makeMount("var", "/var", "tmpfs", unix.MS_NODEV, "mode=0755")
	}
	kind := m.dataType
	if kind == "" {
		kind = "ext4"
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) { // its driver may still look
		if _, err := os.Stat(m.data); err == nil {
			break
		} else if time.Now().After(end) {
			return fmt.Errorf("cannot find the disk for /var, %s: %w", m.data, err)
		}
	}
	return makeMount(m.data, "/var", kind, unix.MS_NODEV|unix.MS_NOATIME, "")
}

func (m *machine) setHostname() error {
	name := m.hostname
	if text, err := os.ReadFile("/etc/hostname"); err == nil && name == "" {
		name = strings.TrimSpace(string(text))
	}
	if name == "" {
		name = "monocrio"
	}
	return unix.Sethostname([]byte(name))
}

// up sets an interface up.
func up(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}
