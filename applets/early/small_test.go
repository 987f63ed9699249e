package early_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPauseIsProcess1(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", filepath.Join(dir, "pause"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := 0
		eventually(t, "pause", func() bool {
			kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
			fmt.Sscan(string(kids), &pid)
			return pid > 0 && waiting(pid)
		})
		// An orphan in its namespace becomes its child and must not stay a zombie.
		enter := exec.Command("nsenter", "--pid=/proc/"+fmt.Sprint(pid)+"/ns/pid", "sh", "-c", "(sleep 0.05 &)")
		if out, err := enter.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		eventually(t, "the orphan to be reaped", func() bool {
			kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
			return err == nil && len(strings.TrimSpace(string(kids))) == 0
		})
		unix.Kill(pid, sig)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}

func inode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Dev, ":", st.Ino)
}

func TestPinns(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	for _, c := range []struct {
		name string
		args []string
		made []string // new kinds
		host []string
	}{
		{"plain", []string{"--ipc", "--uts", "--net", "-s", "net.ipv4.ip_forward=1", "--sysctl=kernel.shm_rmid_forced=1"}, []string{"ipc", "uts", "net"}, nil},
		{"short", []string{"-i", "-u", "-n", "-c"}, []string{"ipc", "uts", "net", "cgroup"}, nil},
		{"host", []string{"--ipc", "--net=host"}, []string{"ipc"}, []string{"net"}},
		{"mnt", []string{"--mnt", "--uts"}, []string{"mnt", "uts"}, nil},
		{"user", []string{"--user", "--ipc", "--net", "--uts", "--uid-mapping=0-100000-1000@1000-200000-5", "--gid-mapping=0-100000-65536", "-s", "kernel.shm_rmid_forced=1"}, []string{"user", "ipc", "net", "uts"}, nil},
	} {
		at := t.TempDir()
		args := append([]string{"-d", at, "-f", "name"}, c.args...)
		out, err := applet("pinns", args...).CombinedOutput()
		// Linux 6.18 numbers namespaces per CPU and refuses to pin a mount namespace
		// whose number is lower than the caller's; the caller's CPU gives a higher one.
		for cpu := 0; c.name == "mnt" && err != nil && cpu < runtime.NumCPU(); cpu++ {
			unix.Unmount(filepath.Join(at, "mntns"), unix.MNT_DETACH)
			unix.Unmount(filepath.Join(at, "utsns", "name"), unix.MNT_DETACH)
			out, err = exec.Command("taskset", append([]string{"-c", strconv.Itoa(cpu), filepath.Join(dir, "pinns")}, args...)...).CombinedOutput()
		}
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v %s", c.name, err, out)
			continue
		}
		pin := func(kind string) string { return filepath.Join(at, kind+"ns", "name") }
		for _, kind := range c.made {
			if inode(t, pin(kind)) == inode(t, "/proc/self/ns/"+kind) {
				t.Errorf("%s: %s is not new", c.name, kind)
			}
		}
		for _, kind := range c.host {
			if inode(t, pin(kind)) != inode(t, "/proc/self/ns/"+kind) {
				t.Errorf("%s: %s is not the caller's", c.name, kind)
			}
		}
		if strings.Contains(strings.Join(c.args, " "), "shm_rmid_forced") {
			out, err := exec.Command("nsenter", "--ipc="+pin("ipc"), "cat", "/proc/sys/kernel/shm_rmid_forced").CombinedOutput()
			if err != nil || string(out) != "1\n" {
				t.Errorf("%s: sysctl %q %v", c.name, out, err)
			}
		}
		if c.name == "user" {
			out, err := exec.Command("nsenter", "--user="+pin("user"), "cat", "/proc/self/uid_map").CombinedOutput()
			if got := strings.Fields(string(out)); err != nil || strings.Join(got, " ") != "0 100000 1000 1000 200000 5" {
				t.Errorf("uid_map %q %v", out, err)
			}
		}
		for _, kind := range append(c.made, c.host...) {
			if err := unix.Unmount(pin(kind), unix.MNT_DETACH); err != nil {
				t.Errorf("%s: %s: %v", c.name, kind, err)
			}
		}
		unix.Unmount(filepath.Join(at, "mntns"), unix.MNT_DETACH)
	}
}

func TestPinnsRefuses(t *testing.T) {
	at := t.TempDir()
	for _, c := range []struct{ args, want string }{
		{"--help", "usage"},
		{"--nonsense", "usage"},
		{"-f x --ipc", "--dir"},
		{"-d DIR --ipc", "--filename"},
		{"-d DIR -f ../x --ipc", "../x"},
		{"-d DIR -f x", "no namespace"},
		{"-d DIR -f x --user", "--uid-mapping"},
		{"-d DIR -f x --ipc --uid-mapping=0-0-1 --gid-mapping=0-0-1", "--user"},
		{"-d DIR -f x --user --uid-mapping=0-0-1", "--gid-mapping"},
		{"-d DIR -f x --ipc -s novalue", "novalue"},
		{"-d DIR -f x --net -s net.no.such=1", "/proc/sys/net/no/such"},
		{"-d DIR -f x --net -s ../../DIR/victim=1", "cannot write"},
		{"-d DIR -f x --user --uid-mapping=0-0-x --gid-mapping=0-0-1", "0-0-x"},
	} {
		if strings.Contains(c.want, "/proc") && os.Geteuid() != 0 {
			continue
		}
		out, err := applet("pinns", strings.Fields(strings.ReplaceAll(c.args, "DIR", at))...).CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "[pinns:e]: ") || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %q %v", c.args, out, err)
		}
	}
	if left, _ := filepath.Glob(at + "/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
