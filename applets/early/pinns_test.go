package early_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func inode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Dev, ":", st.Ino)
}

var kinds = []string{"user", "uts", "ipc", "net", "cgroup", "mnt"}

// pinned runs pinns and undoes at the end of the test what it made.
func pinned(t *testing.T, args ...string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	dir = t.TempDir()
	t.Cleanup(func() { unpin(dir) })
	pinnsIn(t, dir, args...)
	return dir
}

func pinnsIn(t *testing.T, dir string, args ...string) {
	t.Helper()
	out, err := applet("pinns", append([]string{"-d", dir, "-f", "name"}, args...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("%v: %v %s", args, err, out)
	}
}

func unpin(dir string) {
	pins, _ := filepath.Glob(dir + "/*/*")
	for _, p := range pins {
		unix.Unmount(p, unix.MNT_DETACH)
	}
	unix.Unmount(dir+"/mntns", unix.MNT_DETACH)
}

func pinOf(dir, kind string) string { return filepath.Join(dir, kind+"ns", "name") }

// within runs a command in a pinned namespace.
func within(t *testing.T, dir, kind string, args ...string) string {
	t.Helper()
	flag := "--" + kind
	if kind == "mnt" {
		flag = "--mount"
	}
	out, err := exec.Command("nsenter", append([]string{flag + "=" + pinOf(dir, kind), "--"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("nsenter %s %v: %v %s", flag, args, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// pins is what a call is to leave.
type pins struct {
	args      []string
	new, host []string
}

func pinCases() []pins {
	maps := []string{"--uid-mapping=0-100000-65536", "--gid-mapping=0-100000-65536"}
	short := map[string]string{"user": "-U", "uts": "-u", "ipc": "-i", "net": "-n", "cgroup": "-c", "mnt": "-m"}
	var list []pins
	for _, k := range kinds {
		more := maps
		if k != "user" {
			more = nil
		}
		list = append(list, pins{append([]string{"--" + k}, more...), []string{k}, nil}, pins{append([]string{short[k]}, more...), []string{k}, nil})
		if k != "mnt" { // the kernel lets nobody pin a mount namespace in itself
			list = append(list, pins{[]string{"--" + k + "=host"}, nil, []string{k}})
		}
	}
	return append(list,
		pins{append([]string{"-Uuincm"}, maps...), kinds, nil},
		pins{[]string{"--ipc", "--uts", "--net=host"}, []string{"ipc", "uts"}, []string{"net"}},
		pins{append([]string{"--user", "--ipc", "--net=host"}, maps...), []string{"user", "ipc"}, []string{"net"}},
		pins{[]string{"--user=host", "--mnt", "--cgroup=host"}, []string{"mnt"}, []string{"user", "cgroup"}})
}

// TestPinnsKinds: each kind alone and all together, long and short, new and the
// caller's own, lands where it should and nothing else does.
func TestPinnsKinds(t *testing.T) {
	for _, c := range pinCases() {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			at := pinned(t, c.args...)
			var want []string
			for _, k := range append(slices.Clone(c.new), c.host...) {
				want = append(want, pinOf(at, k))
			}
			got, _ := filepath.Glob(at + "/*/*")
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("files %v, not %v", got, want)
			}
			for _, k := range c.new {
				if inode(t, pinOf(at, k)) == inode(t, "/proc/self/ns/"+k) {
					t.Errorf("%s is not new", k)
				}
				typeOf(t, pinOf(at, k), k)
			}
			for _, k := range c.host {
				if inode(t, pinOf(at, k)) != inode(t, "/proc/self/ns/"+k) {
					t.Errorf("%s is not the caller's", k)
				}
			}
			for _, k := range c.new { // a new user namespace owns the others
				if slices.Contains(c.new, "user") && k != "user" && ownerOf(t, pinOf(at, k)) != inode(t, pinOf(at, "user")) {
					t.Errorf("%s does not belong to the user namespace", k)
				}
			}
		})
	}
}

func typeOf(t *testing.T, path, kind string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	got, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	want := map[string]int{"user": unix.CLONE_NEWUSER, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC,
		"net": unix.CLONE_NEWNET, "cgroup": unix.CLONE_NEWCGROUP, "mnt": unix.CLONE_NEWNS}[kind]
	if err != nil || got != want {
		t.Errorf("%s is of type %x, %v", path, got, err)
	}
}

func ownerOf(t *testing.T, path string) string {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	user, err := unix.IoctlRetInt(fd, unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(user)
	return inode(t, fmt.Sprint("/proc/self/fd/", user))
}

func TestPinnsMaps(t *testing.T) {
	at := pinned(t, "--user", "--uid-mapping=0-100000-1000@1000-200000-5", "--gid-mapping=0-300000-65536")
	for file, want := range map[string]string{"uid_map": "0 100000 1000 1000 200000 5", "gid_map": "0 300000 65536"} {
		if got := within(t, at, "user", "cat", "/proc/self/"+file); got != want {
			t.Errorf("%s: %q, not %q", file, got, want)
		}
	}
}

// TestPinnsSysctls: both ways to write them; each lands in its namespace and the
// caller's keeps its value.
func TestPinnsSysctls(t *testing.T) {
	paths := map[string]string{"ipc": "kernel/shm_rmid_forced", "net": "net/ipv4/ip_local_port_range", "uts": "kernel/hostname"}
	want := map[string]string{"ipc": "1", "net": "2000 3000", "uts": "a+b"}
	before := map[string]string{}
	for kind, path := range paths {
		before[kind] = sysctl(t, path)
	}
	for _, args := range [][]string{
		{"-s", "kernel.shm_rmid_forced=1", "--sysctl=net.ipv4.ip_local_port_range=2000 3000", "-skernel.hostname=a+b"},
		{"-s", "kernel.shm_rmid_forced=1+net.ipv4.ip_local_port_range=2000 3000+kernel.hostname=a+b"},
		{"-s", "kernel/hostname=a+b+net/ipv4/ip_local_port_range=2000 3000", "-s", "kernel/shm_rmid_forced=1"},
	} {
		for _, more := range [][]string{{"--ipc", "--net", "--uts"}, {"-Uinu", "--uid-mapping=0-100000-1000", "--gid-mapping=0-100000-1000"}, {"-minu"}} {
			at := pinned(t, append(slices.Clone(args), more...)...)
			for kind, path := range paths {
				if got := within(t, at, kind, "cat", "/proc/sys/"+path); got != want[kind] {
					t.Errorf("%v %v: %s is %q", args, more, path, got)
				}
				if now := sysctl(t, path); now != before[kind] {
					t.Errorf("%v %v: the caller's %s became %q", args, more, path, now)
				}
			}
		}
	}
	at := pinned(t, "--ipc", "-s", "fs.mqueue.msg_max=77", "-s", "kernel.sem=1 2 3 4", "-s", "kernel.msgmax=8000")
	if got := within(t, at, "ipc", "cat", "/proc/sys/kernel/sem", "/proc/sys/kernel/msgmax", "/proc/sys/fs/mqueue/msg_max"); got != "1 2 3 4 8000 77" {
		t.Errorf("ipc: %q", got)
	}
	at = pinned(t, "--user", "--uid-mapping=0-100000-1000", "--gid-mapping=0-100000-1000", "-s", "user.max_net_namespaces=3")
	if got := within(t, at, "user", "cat", "/proc/sys/user/max_net_namespaces"); got != "3" {
		t.Errorf("user: %q", got)
	}
	// A dot in an interface's name is a slash: sysctl(8).
	if got := refused(t, t.TempDir(), "--net", "-s", "net.ipv4.conf.eth0/100.forwarding=1"); !strings.Contains(got, "/proc/sys/net/ipv4/conf/eth0.100/forwarding") {
		t.Errorf("%q", got)
	}
}

func sysctl(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(data)), " ")
}

// refused runs pinns, which must fail and leave nothing, and returns its message.
func refused(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := applet("pinns", append([]string{"-d", dir, "-f", "name"}, args...)...).CombinedOutput()
	exit, ok := err.(*exec.ExitError)
	if !ok || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "[pinns:e]: ") {
		t.Errorf("%v: %q %v", args, out, err)
	}
	if left, _ := filepath.Glob(dir + "/*ns/name"); len(left) > 0 {
		t.Errorf("%v: left %v", args, left)
		unpin(dir)
	}
	return string(out)
}

func TestPinnsRefusesSysctls(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--net -s novalue", "NAME=VALUE"},
		{"--net -s =1", "NAME=VALUE"},
		{"--net -s net.ipv4.ip_forward=1+novalue=", "no namespace"},
		{"--net --ipc -s vm.swappiness=1", "vm.swappiness belongs to no namespace"},
		{"--net --ipc --uts -s kernel.core_pattern=x", "no namespace"},
		{"--ipc -s net.ipv4.ip_forward=1", "--net"},
		{"--ipc --net=host -s net.ipv4.ip_forward=1", "--net"},
		{"--net -s kernel.shm_rmid_forced=1", "--ipc"},
		{"--net -s kernel.hostname=x", "--uts"},
		{"--net -s user.max_net_namespaces=3", "--user"},
		{"--net -s net.ipv4.ip_forward=1+kernel.shmmax=1", "--ipc"},
		{"--net -s net/../kernel/core_pattern=x", "not the name"},
		{"--net -s net.//.kernel.core_pattern=x", "not the name"},
		{"--net -s net..ipv4=x", "not the name"},
		{"--net -s net.=x", "not the name"},
		{"--net -s net/.=x", "not the name"},
		{"--net -s .net.ipv4.ip_forward=1", "not the name"},
		{"--net -s ../../victim=1", "not the name"},
		{"--net -s net." + strings.Repeat("x", 300) + "=1", "too long"},
	} {
		if got := refused(t, t.TempDir(), strings.Fields(c.args)...); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.args, got)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	for args, want := range map[string]string{"--net -s net.no.such=1": "/proc/sys/net/no/such", "--net -s net.ipv4.ip_local_port_range=x": "Invalid argument"} {
		if got := refused(t, t.TempDir(), strings.Fields(args)...); !strings.Contains(got, want) {
			t.Errorf("%s: %q", args, got)
		}
	}
}

func TestPinnsRefuses(t *testing.T) {
	at := t.TempDir()
	for _, c := range []struct{ args, want string }{
		{"--help", "usage"},
		{"-h", "usage"},
		{"--nonsense", "usage"},
		{"-f x --ipc", "--dir"},
		{"-d DIR --ipc", "--filename"},
		{"-d DIR -f ../x --ipc", "../x"},
		{"-d DIR -f x", "no namespace"},
		{"-d DIR -f x --net=hots", "--net=hots"},
		{"-d DIR -f x --user", "--uid-mapping"},
		{"-d DIR -f x --ipc --uid-mapping=0-0-1 --gid-mapping=0-0-1", "--user"},
		{"-d DIR -f x --user=host --uid-mapping=0-0-1 --gid-mapping=0-0-1", "--user"},
		{"-d DIR -f x --user --uid-mapping=0-0-1", "--gid-mapping"},
		{"-d DIR -f x --user --uid-mapping=0-0-x --gid-mapping=0-0-1", "0-0-x"},
		{"-d DIR/no/such -f x --ipc", "DIR/no/such"},
	} {
		if strings.Contains(c.want, "DIR/no") && os.Geteuid() != 0 {
			continue
		}
		line, want := strings.ReplaceAll(c.args, "DIR", at), strings.ReplaceAll(c.want, "DIR", at)
		out, err := applet("pinns", strings.Fields(line)...).CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "[pinns:e]: ") || !strings.Contains(string(out), want) {
			t.Errorf("%s: %q %v", c.args, out, err)
		}
	}
	if left, _ := filepath.Glob(at + "/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPinnsUndoes: when one kind cannot be pinned, those before it are not left.
func TestPinnsUndoes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	at := t.TempDir()
	if err := os.WriteFile(at+"/netns", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := refused(t, at, "--uts", "--ipc", "--net"); !strings.Contains(got, "netns") {
		t.Errorf("%q", got)
	}
	if data, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(data), at) {
		t.Error("something is mounted")
	}
}

// TestPinnsFiles: folders and files have their modes whatever the caller's umask is; a
// file that is there is used; a link is not followed.
func TestPinnsFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	at := pinned(t, "--uts", "--ipc")
	unpin(at)
	for path, mode := range map[string]os.FileMode{at + "/utsns": 0o755 | os.ModeDir, pinOf(at, "uts"): 0o644} {
		if st, err := os.Stat(path); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v %v", path, st, err)
		}
	}
	pinnsIn(t, at, "--uts")
	typeOf(t, pinOf(at, "uts"), "uts")
	unpin(at)
	os.Remove(pinOf(at, "ipc"))
	if err := os.Symlink("/dev/null", pinOf(at, "ipc")); err != nil {
		t.Fatal(err)
	}
	if out, err := applet("pinns", "-d", at, "-f", "name", "--ipc").CombinedOutput(); err == nil {
		t.Errorf("a link was followed: %s", out)
	}
}

// TestPinnsMounts: the folder of mount namespaces is not copied into them, and takes
// more than one.
func TestPinnsMounts(t *testing.T) {
	at := pinned(t, "--mnt")
	if out, err := applet("pinns", "-d", at, "-f", "other", "--mnt").CombinedOutput(); err != nil {
		t.Fatalf("a second one in the same folder: %v %s", err, out)
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	folders, held := 0, 0
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case f[4] == at+"/mntns":
			folders++
			if !slices.Contains(f[6:9], "unbindable") {
				t.Errorf("%s", line)
			}
		case strings.HasPrefix(f[4], at+"/mntns/"):
			held++
		}
	}
	if folders != 1 || held != 2 || inode(t, pinOf(at, "mnt")) == inode(t, at+"/mntns/other") {
		t.Errorf("%d folders, %d pins in %s", folders, held, data)
	}
	if inside := within(t, at, "mnt", "cat", "/proc/self/mountinfo"); strings.Contains(inside, at+"/mntns/name") {
		t.Errorf("the namespace holds itself: %s", inside)
	}
}

// TestPinnsManual: docs/pinns.8.md has every option that the code has, and names a test.
func TestPinnsManual(t *testing.T) {
	code, err := os.ReadFile("ctor/pinns.c")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/pinns.8.md")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("pinns_test.go")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(?:-\\w, )?--([a-z-]+)[^|]*\\|[^|]+\\| (\\w+) \\|$").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = m[2]
	}
	options := regexp.MustCompile(`\{"([a-z-]+)", [012], 0, `).FindAllStringSubmatch(string(code), -1)
	if len(options) != 12 || len(rows) != len(options) {
		t.Errorf("%d options, %d rows", len(options), len(rows))
	}
	for _, o := range options {
		if !strings.Contains(string(own), "func "+rows[o[1]]+"(") {
			t.Errorf("--%s is shown by %q", o[1], rows[o[1]])
		}
	}
}
