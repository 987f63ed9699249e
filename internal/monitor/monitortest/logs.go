package monitortest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/monitor"
)

// text puts the text of one stream together again from its records and counts the
// partial ones. The last record of a stream must be a full one.
func text(b *Box, stream string) (s string, partial int) {
	b.t.Helper()
	var out strings.Builder
	last := "F"
	for _, rec := range b.Records() {
		f := strings.SplitN(rec, " ", 3)
		if len(f) != 3 || f[0] != stream {
			continue
		}
		last = f[1]
		switch f[1] {
		case "F":
			out.WriteString(f[2])
		case "P":
			partial++
			out.WriteString(strings.TrimSuffix(f[2], "\n"))
		default:
			b.t.Errorf("tag %q", f[1])
		}
		if len(f[2]) > 8193 {
			b.t.Errorf("a record of %d bytes", len(f[2]))
		}
	}
	if last != "F" && !b.rig.Foreign {
		b.t.Errorf("the last record of %s is partial", stream)
	}
	return out.String(), partial
}

func partialLines(t *testing.T, r *Rig) {
	for _, c := range []struct {
		script  string
		want    string
		partial int // at least
	}{
		{"yes | head -c 20000 | busybox tr -d '\\n'; echo", strings.Repeat("y", 10000) + "\n", 1},
		{"printf abc", "abc\n", 0},
		{"printf abc; sleep 0.2", "abc\n", 1},
		{"printf abc; sleep 0.2; echo def", "abcdef\n", 1},
		{"echo a; printf b; sleep 0.1; printf c; sleep 0.1; echo; echo d", "a\nbc\nd\n", 2},
		{"yes abcdefg | head -c 8192 | busybox tr '\\n' x; echo; echo end", strings.Repeat("abcdefgx", 1024) + "\nend\n", 0},
	} {
		b := r.Box(t, c.script)
		b.Run()
		b.WaitExit()
		got, partial := text(b, "stdout")
		if r.Foreign { // older releases leave the last sequence open
			got = strings.TrimSuffix(got, "\n") + "\n"
		}
		if got != c.want || partial < c.partial {
			t.Errorf("%q: %d bytes, not %d; %d partial: %.60q", c.script, len(got), len(c.want), partial, got)
		}
	}
}

// reopens rotates the log again and again under a fast writer: no line may be
// lost, doubled, or cut in two files.
func reopens(t *testing.T, r *Rig) {
	lines := 1000000
	if testing.Short() || r.Foreign {
		lines = 100000
	}
	b := r.Box(t, "busybox seq 1 "+strconv.Itoa(lines))
	b.Run()
	begin := time.Now()
	files := 0
	for i := range 200 {
		moved := fmt.Sprintf("%s.%03d", b.Spawn.LogPath, i)
		if err := os.Rename(b.Spawn.LogPath, moved); err != nil {
			break // the monitor ended before it could make the next one
		}
		files++
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err := monitor.ReopenWait(ctx, b.Spawn.Bundle, b.Spawn.LogPath)
		cancel()
		if err != nil {
			if _, done, _ := monitor.ReadExit(b.Spawn.ExitDir, "", b.Spawn.ID); done || !monitor.Alive(b.Proc.Monitor) {
				break
			}
			t.Fatal(err)
		}
	}
	b.WaitExit()
	t.Logf("%d lines and %d reopens in %v", lines, files, time.Since(begin).Round(time.Millisecond))
	next, split := 1, 0
	for i := range files + 1 {
		path := fmt.Sprintf("%s.%03d", b.Spawn.LogPath, i)
		if i == files {
			path = b.Spawn.LogPath
		}
		data, err := os.ReadFile(path)
		if err != nil && i < files {
			t.Fatal(err)
		}
		var cut bool
		if next, cut = numbered(t, path, string(data), next, r.Foreign); cut {
			split++
		}
	}
	if !r.Foreign && (next != lines+1 || split != 0 || files < 20) {
		t.Errorf("%d of %d lines, %d lines in two files, %d reopens", next-1, lines, split, files)
	}
}

// numbered reads one log file of consecutive numbers and returns the next one, and
// whether the file ends inside a line. A foreign log is checked for torn records
// only.
func numbered(t *testing.T, path, log string, next int, foreign bool) (int, bool) {
	carry := ""
	for line := range strings.Lines(log) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || f[1] != "stdout" || !strings.HasSuffix(line, "\n") {
			t.Fatalf("%s: a torn record %q", path, line)
		}
		if f[2] == "P" {
			carry += f[3]
			continue
		}
		if !foreign && carry+f[3] != strconv.Itoa(next) {
			t.Fatalf("%s: %q where %d should be", path, carry+f[3], next)
		}
		carry = ""
		if !foreign {
			next++
		}
	}
	return next, carry != ""
}

// promptReopen asks for a new file while a line is incomplete and stays so.
func promptReopen(t *testing.T, r *Rig) {
	b := r.Box(t, "printf 'name: '; sleep 100")
	b.Run()
	b.WaitLog("name: ")
	if err := os.Rename(b.Spawn.LogPath, b.Spawn.LogPath+".old"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := monitor.ReopenWait(ctx, b.Spawn.Bundle, b.Spawn.LogPath); err != nil {
		t.Error(err)
	}
	unix.Kill(b.Proc.Container, unix.SIGKILL)
	b.WaitExit()
	if !r.Foreign && !strings.HasSuffix(b.Log(), " stdout F \n") {
		t.Errorf("the line was not closed: %q", b.Log())
	}
	b.Eventually("an error when a monitor that is gone is told to reopen", func() bool {
		return monitor.Reopen(ctx, b.Spawn.Bundle) != nil
	})
}

func sizeLimit(t *testing.T, r *Rig) {
	b := r.Box(t, "busybox seq 100000 100999")
	b.Spawn.LogSizeMax = 4096
	b.Run()
	b.WaitExit()
	recs := b.Records()
	if len(recs) == 0 || recs[len(recs)-1] != "stdout F 100999\n" {
		t.Errorf("the end is missing: %q", recs[max(0, len(recs)-2):])
	}
	if n := len(b.Log()); n > 4096 {
		t.Errorf("the log has %d bytes", n)
	}
	if left, _ := filepath.Glob(b.Spawn.LogPath + ".*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func noLog(t *testing.T, r *Rig) {
	b := r.Box(t, "echo x")
	path := b.Spawn.LogPath
	b.Spawn.LogPath = ""
	b.Run()
	b.WaitExit()
	if _, err := os.Lstat(path); err == nil {
		t.Error("a log was written")
	}
	b.Spawn.LogPath = path
}

// fullDisk gives the log a file system without room.
func fullDisk(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("other monitors may not find back to their log after a full disk")
	}
	b := r.Box(t, "busybox seq 100000 140000; echo end; echo > /tmp/done; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo after")
	dir := filepath.Join(b.Dir, "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("cannot mount a small file system: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	pad := filepath.Join(dir, "pad")
	if err := os.WriteFile(pad, make([]byte, 192<<10), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Spawn.LogPath = filepath.Join(dir, "log")
	b.Run()
	b.Eventually("a full disk", func() bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Bfree == 0
	})
	// The writer goes on although nothing can be kept; then there is room again, and
	// more of it than what a pipe still holds.
	b.Eventually("the end of the writer", func() bool {
		_, err := os.Stat(filepath.Join(b.Spawn.Bundle, "rootfs/tmp/done"))
		return err == nil
	})
	os.Remove(pad)
	if err := os.WriteFile(filepath.Join(b.Spawn.Bundle, "rootfs/tmp/go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.WaitLog("stdout F after\n")
	b.WaitExit()
	torn := 0
	for line := range strings.Lines(b.Log()) {
		if f := strings.SplitN(line, " ", 4); len(f) != 4 || len(f[0]) != 35 {
			torn++
		}
	}
	if torn > 1 {
		t.Errorf("%d torn records", torn)
	}
}
