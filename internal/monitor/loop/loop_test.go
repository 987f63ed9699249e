package loop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/monitor/contract"
)

func TestClock(t *testing.T) {
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("", 5*3600+45*60), time.FixedZone("", -3*3600-30*60)} {
		c := clock{offset: func(sec int64) int { _, off := time.Unix(sec, 0).In(zone).Zone(); return off }}
		for _, day := range []string{"1970-01-03", "1999-12-31", "2000-02-29", "2024-02-29", "2025-03-01", "2026-11-23", "2038-01-19", "2100-02-28", "2100-03-01"} {
			at, err := time.Parse("2006-01-02 15:04:05.000000000", day+" 23:59:58.000000123")
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				want := at.In(zone).Format("2006-01-02T15:04:05.000000000-07:00")
				if got := string(c.stamp(at.Unix(), int64(at.Nanosecond()))); got != want {
					t.Errorf("%s, not %s", got, want)
				}
				at = at.Add(700 * time.Millisecond)
			}
		}
	}
}

func TestClockFollowsSummerTime(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this machine lacks the time zones")
	}
	c := clock{offset: func(sec int64) int { _, off := time.Unix(sec, 0).In(zone).Zone(); return off }}
	for at := time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC); at.Second() != 2; at = at.Add(time.Second) {
		if got, want := string(c.stamp(at.Unix(), 0)), at.In(zone).Format("2006-01-02T15:04:05.000000000-07:00"); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestIndexNewline(t *testing.T) {
	buf := make([]byte, 40)
	for n := range 41 {
		for at := -1; at < n; at++ {
			for i := range buf {
				buf[i] = []byte{0, 'x', 9, 11, 0x8a, 0xff}[i%6]
			}
			if at >= 0 {
				buf[at] = '\n'
			}
			if got := indexNewline(buf[:n]); got != at {
				t.Fatalf("length %d: %d, not %d", n, got, at)
			}
		}
	}
}

func TestQuoteJSON(t *testing.T) {
	for _, s := range []string{"", "plain", "\"\\\n\r\t\x00\x1f\x7f", "grüße 世界", "a/b"} {
		var got string
		if err := json.Unmarshal([]byte(quoteJSON(s)), &got); err != nil || got != s {
			t.Errorf("%q became %q: %v", s, got, err)
		}
	}
	if !json.Valid([]byte(quoteJSON("\xff\xc3"))) {
		t.Error("broken UTF-8 makes broken JSON")
	}
}

func TestAtoi(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "12": 12, "2147483647": 2147483647, "": -1, "-1": -1, "1x": -1, "99999999999999999999": -1} {
		got, ok := atoi(s)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d %v", s, got, ok)
		}
	}
}

// newLog makes a log on a file, with buffers of odd sizes.
func newLog(t *testing.T, max int64) (*logFile, string) {
	path := filepath.Join(t.TempDir(), "log")
	l := &logFile{path: path, fd: -1, max: max, warn: func(s string) { t.Error(s) }}
	out, err := anonymous(outSize)
	if err != nil {
		t.Fatal(err)
	}
	l.out = out
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close(false) })
	return l, path
}

// plainText takes the times off and joins partial records.
func plainText(t *testing.T, path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 || len(f[0]) != 35 || f[1] != "stdout" {
			t.Fatalf("a torn record %q", line)
		}
		if f[2] == "P" {
			f[3] = strings.TrimSuffix(f[3], "\n")
		}
		out.WriteString(f[3])
	}
	return out.String()
}

// TestLines feeds a text in pieces of every kind, as reads from a pipe come.
func TestLines(t *testing.T) {
	var want bytes.Buffer
	for i := range 300 {
		want.WriteString(strings.Repeat("x", i*i%9001) + "\n")
	}
	for _, piece := range []int{1, 7, 100, 8191, 8192, 8193, 65536} {
		l, path := newLog(t, 0)
		s := &stream{name: "stdout"}
		stamp := l.clock.stamp(now())
		data := want.Bytes()
		if piece == 1 {
			data = data[:20000]
		}
		kept := []byte{}
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			kept = append(kept, rest[:n]...)
			rest = rest[n:]
			kept = kept[l.lines(s, kept, stamp, len(kept)%3 == 0):]
			if len(kept) >= contract.MaxOutput {
				t.Fatalf("%d bytes were kept back", len(kept))
			}
		}
		l.lines(s, kept, stamp, true)
		l.finish(s)
		l.flush()
		wanted := string(data)
		if !strings.HasSuffix(wanted, "\n") {
			wanted += "\n"
		}
		if got := plainText(t, path); got != wanted {
			t.Errorf("pieces of %d: %d bytes, not %d", piece, len(got), len(wanted))
		}
		if st, _ := os.Stat(path); st.Size() != l.size {
			t.Errorf("size %d, counted %d", st.Size(), l.size)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	l, path := newLog(t, 1000)
	s := &stream{name: "stdout"}
	for i := range 500 {
		l.lines(s, []byte(strings.Repeat("y", i)+"\n"), l.clock.stamp(now()), true)
		if i%7 == 0 {
			l.flush()
			if st, _ := os.Stat(path); st.Size() > 1000 {
				t.Fatalf("%d bytes", st.Size())
			}
		}
	}
	l.lines(s, []byte(strings.Repeat("z", 5000)+"\n"), l.clock.stamp(now()), true)
	l.flush()
	if got := plainText(t, path); got != strings.Repeat("z", 5000)+"\n" {
		t.Errorf("a record longer than the limit: %d bytes", len(got))
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	l, _ := newLog(t, 0)
	s := &stream{name: "stdout"}
	data := []byte(strings.Repeat("some text\n", 1000) + "rest")
	if n := testing.AllocsPerRun(20, func() {
		l.lines(s, data, l.clock.stamp(now()), true)
		l.flush()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

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

func BenchmarkLines(b *testing.B) {
	l := &logFile{fd: -1, path: "/dev/null", out: make([]byte, outSize), warn: func(string) {}}
	if err := l.open(); err != nil {
		b.Fatal(err)
	}
	s := &stream{name: "stdout"}
	data := bytes.Repeat([]byte("2026-01-01 INFO a line of about eighty bytes, as programs are wont to write them.\n"), 700)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		l.lines(s, data, l.clock.stamp(now()), true)
		l.flush()
	}
}
