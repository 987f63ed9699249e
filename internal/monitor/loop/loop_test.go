package loop

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/monocrio/monocrio/internal/monitor/contract"
)

func TestNumbers(t *testing.T) {
	for line, ok := range map[string]bool{"1 24 80": true, " 2  0\t0 ": true, "1 2": false, "1 2 3 4": false, "1 -2 3": false, "1 1001 3": false, "": false, "a b c": false} {
		if _, got := numbers(line, 3); got != ok {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestMemoryCgroup(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	v1 := file("v1", "9:pids:/a/b\n4:cpu,memory:/a/b:c\n0::/other\n")
	v2 := file("v2", "0::/kube/pod\n")
	none := file("none", "0::/\n")
	file("usual/memory/a/b:c/memory.oom_control", "")
	file("usual2/kube/pod/memory.events", "")
	file("odd/b:c/memory.oom_control", "")
	file("odd2/pod/memory.events", "")
	mounts := file("mounts", strings.Repeat("25 1 8:1 / / rw - ext4 /dev/root rw\n", 3000)+
		"30 25 0:26 /x /wrong rw shared:9 - cgroup cgroup rw,cpu\n"+
		"31 25 0:27 /a "+dir+"/odd rw,nosuid shared:10 master:3 - cgroup cgroup rw,memory\n"+
		"32 25 0:28 /kube "+dir+"/odd2 rw - cgroup2 cgroup2 rw\n")
	for _, c := range []struct {
		cgroups, usual, want string
		v2                   bool
	}{
		{v1, dir + "/usual", dir + "/usual/memory/a/b:c", false},
		{v1, dir + "/absent", dir + "/odd/b:c", false},
		{v2, dir + "/usual2", dir + "/usual2/kube/pod", true},
		{v2, dir + "/absent", dir + "/odd2/pod", true},
		{none, dir + "/usual2", "", true},
	} {
		got, v2, err := memoryCgroup(c.cgroups, mounts, c.usual, make([]byte, 4096))
		if err != nil || got != c.want || v2 != c.v2 {
			t.Errorf("%s, %s: %q %v %v", c.cgroups, c.usual, got, v2, err)
		}
	}
	if _, _, err := memoryCgroup(dir+"/gone", mounts, dir, make([]byte, 4096)); err == nil {
		t.Error("a process that is gone")
	}
}

// TestOOMVersion2 follows the counters of memory.events without a kernel.
func TestOOMVersion2(t *testing.T) {
	dir := t.TempDir()
	events := filepath.Join(dir, memoryEvents)
	write := func(text string) {
		if err := os.WriteFile(events, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n")
	m := &monitor{o: &Options{Bundle: dir}, syslog: -1, in: make([]byte, inSize)}
	w := &oomWatch{fd: -1, v2: true, counter: events}
	if err := w.watchV2(); err != nil {
		t.Fatal(err)
	}
	w.base, _ = w.count(events, m.in)
	mark := filepath.Join(dir, contract.OOMFile)
	write("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
	w.event(m)
	if _, err := os.Stat(mark); err == nil {
		t.Error("marked without a kill")
	}
	write("low 0\nhigh 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n")
	w.event(m)
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
}

// TestOOMVersion2Removed: the cgroup is gone before anybody reads its counter; the
// parent has counted, but only a change of our own file makes that kill ours.
func TestOOMVersion2Removed(t *testing.T) {
	for _, ours := range []bool{true, false} {
		dir := t.TempDir()
		events, above := filepath.Join(dir, "pod", "ctr", memoryEvents), filepath.Join(dir, "pod", memoryEvents)
		if err := os.MkdirAll(filepath.Dir(events), 0o755); err != nil {
			t.Fatal(err)
		}
		write := func(path string, kills int) {
			if err := os.WriteFile(path, fmt.Appendf(nil, "oom %d\noom_kill %d\n", kills, kills), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(events, 0)
		write(above, 3)
		m := &monitor{o: &Options{Bundle: dir}, syslog: -1, in: make([]byte, inSize)}
		w := &oomWatch{fd: -1, v2: true, counter: events, above: above}
		w.aboveWas, _ = w.count(above, m.in)
		if err := w.watchV2(); err != nil {
			t.Fatal(err)
		}
		if ours {
			write(events, 1)
		}
		write(above, 4)
		if err := os.RemoveAll(filepath.Dir(events)); err != nil {
			t.Fatal(err)
		}
		w.check(m)
		if _, err := os.Stat(filepath.Join(dir, contract.OOMFile)); (err == nil) != ours {
			t.Errorf("our file changed: %v; mark: %v", ours, err)
		}
	}
}

// TestSyslog: own messages go there as syslog(3) writes them, if they are grave enough.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m := &monitor{o: &Options{ID: "0123456789abcdef0123456789abcdef", Level: LevelWarn}, syslog: -1}
	m.openSyslog(path + ".absent") // a machine without one
	m.openSyslog(path)
	defer syscall.Close(m.syslog)
	m.note(levelInfo, "not this")
	m.warn("words")
	buf := make([]byte, 1000)
	n, err := c.Read(buf)
	if want := fmt.Sprintf("<28>conmon[%d]: conmon 0123456789abcdef0123: words", os.Getpid()); err != nil || string(buf[:n]) != want {
		t.Errorf("%q %v, not %q", buf[:n], err, want)
	}
}
