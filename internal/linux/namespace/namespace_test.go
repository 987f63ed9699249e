package namespace

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// The test binary is also the helper child of pinWithUser.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == helperName {
		time.Sleep(time.Hour) // killed by the test; select{} would be found to be a deadlock
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making namespaces needs root")
	}
}

func nsInode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), " "+dir+"/")
}

func TestPinUnpin(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "pod")
	req := PinRequest{
		Kinds: []Kind{Net, IPC, UTS, Cgroup}, Dir: dir, Hostname: "pod-1",
		Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "17"},
	}
	if err := Pin(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	for _, k := range req.Kinds {
		if nsInode(t, dir+"/"+string(k)) == nsInode(t, "/proc/self/ns/"+string(k)) {
			t.Errorf("%s is the namespace of the test", k)
		}
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", st.Mode(), err)
	}
	if err := Pin(context.Background(), req); !errs.Is(err, errs.KindAlreadyExists) {
		t.Errorf("second Pin: %v", err)
	}
	if n := mountsBelow(t, dir); n != 4 {
		t.Errorf("%d mounts after the refused Pin", n)
	}
	check(t, dir, UTS, "/proc/sys/kernel/hostname", "pod-1")
	check(t, dir, Net, "/proc/sys/net/ipv4/ip_forward", "1")
	check(t, dir, IPC, "/proc/sys/kernel/shm_rmid_forced", "1")
	check(t, dir, IPC, "/proc/sys/fs/mqueue/msg_max", "17")
	if err := Do(dir+"/net", Net, func() error {
		ifs, err := net.Interfaces()
		if err != nil || len(ifs) == 0 || ifs[0].Flags&net.FlagUp != 0 {
			return fmt.Errorf("interfaces: %v %v", ifs, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := Unpin(dir); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(dir)
	if len(left) != 0 || err != nil || mountsBelow(t, dir) != 0 {
		t.Errorf("left after Unpin: %v %v", left, err)
	}
	if err := Unpin(dir + "/absent"); err != nil {
		t.Error(err)
	}
	if err := Do(dir+"/net", Net, func() error { return nil }); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("Do without a pin: %v", err)
	}
}

func check(t *testing.T, dir string, k Kind, file, want string) {
	t.Helper()
	err := Do(dir+"/"+string(k), k, func() error {
		got, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(got)) != want {
			err = fmt.Errorf("%s is %q, not %q", file, got, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPinUser(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "pod")
	ids := []Mapping{{0, 100000, 65536}}
	req := PinRequest{
		Kinds: []Kind{Net, IPC, UTS, User}, Dir: dir, Hostname: "inner", UserMap: &UserMap{UIDs: ids, GIDs: ids},
		Sysctls: map[string]string{"net.ipv4.ping_group_range": "0 10", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "17"},
	}
	if err := Pin(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	check(t, dir, UTS, "/proc/sys/kernel/hostname", "inner")
	check(t, dir, IPC, "/proc/sys/kernel/shm_rmid_forced", "1")
	for _, k := range []Kind{Net, IPC, UTS} {
		if owner(t, dir+"/"+string(k)) != nsInode(t, dir+"/user") {
			t.Errorf("%s is not owned by the new user namespace", k)
		}
	}
	out, err := exec.Command("nsenter", "--user="+dir+"/user", "cat", "/proc/self/uid_map").CombinedOutput()
	if got := strings.Fields(string(out)); err != nil || strings.Join(got, " ") != "0 100000 65536" {
		t.Errorf("uid_map %q %v", out, err)
	}
	if err := Unpin(dir); err != nil || mountsBelow(t, dir) != 0 {
		t.Error(err)
	}
	req.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
	if err := Pin(context.Background(), req); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("unknown sysctl: %v", err)
	}
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil || mountsBelow(t, dir) != 0 {
		t.Errorf("left after a failed Pin: %v %v", left, err)
	}
}

// owner returns the identity of the user namespace that owns another.
func owner(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return nsInode(t, fdPath(fd))
}

func TestPinRefuses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	ids := []Mapping{{0, 100000, 10}}
	for name, c := range map[string]struct {
		req  PinRequest
		kind errs.Kind
	}{
		"nothing":        {PinRequest{}, errs.KindInvalid},
		"pid":            {PinRequest{Kinds: []Kind{PID}}, errs.KindUnimplemented},
		"path as kind":   {PinRequest{Kinds: []Kind{"../net"}}, errs.KindUnimplemented},
		"twice":          {PinRequest{Kinds: []Kind{Net, Net}}, errs.KindInvalid},
		"no map":         {PinRequest{Kinds: []Kind{User}}, errs.KindInvalid},
		"map alone":      {PinRequest{Kinds: []Kind{Net}, UserMap: &UserMap{ids, ids}}, errs.KindInvalid},
		"no root mapped": {PinRequest{Kinds: []Kind{User}, UserMap: &UserMap{ids, []Mapping{{1, 5, 5}}}}, errs.KindInvalid},
		"host's name":    {PinRequest{Kinds: []Kind{Net}, Hostname: "x"}, errs.KindInvalid},
		"long name":      {PinRequest{Kinds: []Kind{UTS}, Hostname: strings.Repeat("x", 65)}, errs.KindInvalid},
		"host's sysctl":  {PinRequest{Kinds: []Kind{IPC}, Sysctls: map[string]string{"net.core.somaxconn": "1"}}, errs.KindInvalid},
	} {
		c.req.Dir = dir
		if err := Pin(context.Background(), c.req); !errs.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(dir); err == nil {
		t.Error("a refused request left a folder")
	}
}

func TestPinFollowsNoLink(t *testing.T) {
	needRoot(t)
	tmp := t.TempDir()
	victim := filepath.Join(tmp, "victim")
	if err := os.WriteFile(victim, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tmp, "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, dir+"/net"); err != nil {
		t.Fatal(err)
	}
	if err := Pin(context.Background(), PinRequest{Kinds: []Kind{Net}, Dir: dir}); err == nil {
		t.Error("a pin was made on a link")
	}
	if err := os.Symlink(dir, tmp+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := Pin(context.Background(), PinRequest{Kinds: []Kind{IPC}, Dir: tmp + "/link"}); err == nil {
		t.Error("a pin was made through a link")
	}
	if mountsBelow(t, tmp) != 0 {
		t.Error("a mount is left")
	}
}

func TestCheckSysctls(t *testing.T) {
	all := []Kind{Net, IPC, UTS}
	for _, c := range []struct {
		name, value string
		owned       []Kind
		ok          bool
	}{
		{"net.ipv4.ip_forward", "1", all, true},
		{"net.ipv4.conf.eth0/100.arp_notify", "1", all, true},
		{"net.ipv4.ping_group_range", "0\t10", all, true},
		{"kernel.shmmax", "1", []Kind{IPC}, true},
		{"kernel.msgmax", "1", []Kind{Net}, false},
		{"fs.mqueue.msg_max", "1", []Kind{Net}, false},
		{"net.core.somaxconn", "1", []Kind{IPC, UTS}, false},
		{"kernel.hostname", "x", all, false},
		{"kernel.domainname", "x", all, false},
		{"kernel.panic", "1", all, false},
		{"vm.swappiness", "1", all, false},
		{"net/ipv4/ip_forward", "1", all, false},
		{"net.ipv4+kernel.panic", "1", all, false},
		{"net.ipv4.x=1 y", "1", all, false},
		{"net..ipv4", "1", all, false},
		{"net.//kernel", "1", all, false},
		{"net.a/", "1", all, false},
		{"net.", "1", all, false},
		{"", "1", all, false},
		{"net.ipv4.ip_forward\n", "1", all, false},
		{"net.ipv4.ip_forward", "1\nkernel.panic=1", all, false},
		{"net.ipv4.ip_forward", "1\x00", all, false},
	} {
		err := CheckSysctls(map[string]string{c.name: c.value}, c.owned)
		if (err == nil) != c.ok || err != nil && !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%q=%q with %v: %v", c.name, c.value, c.owned, err)
		}
	}
	if got := sysctlPath("net.ipv4.conf.eth0/100.arp_notify"); got != "/proc/sys/net/ipv4/conf/eth0.100/arp_notify" {
		t.Error(got)
	}
}

func BenchmarkPinUnpin(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("making namespaces needs root")
	}
	dir := filepath.Join(b.TempDir(), "pod")
	for b.Loop() {
		if err := Pin(b.Context(), PinRequest{Kinds: []Kind{Net, IPC, UTS}, Dir: dir, Hostname: "x"}); err != nil {
			b.Fatal(err)
		}
		if err := Unpin(dir); err != nil {
			b.Fatal(err)
		}
	}
}
