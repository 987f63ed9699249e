package log

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/journaltest"
)

func read(t *testing.T, conn *net.UnixConn) map[string]string {
	t.Helper()
	fields, _ := journaltest.Receive(t, conn)
	return fields
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var fallback bytes.Buffer
	l, c, err := NewJournal(path, &fallback)
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("unheard")
	l.With("pod", "p1").Warn("call failed", "err", "two\nlines", "dur", "3ms", "req-id", 7)
	got := read(t, conn)
	want := map[string]string{"MESSAGE": `call failed pod=p1 err="two\nlines" dur=3ms req-id=7`, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "crio",
		"CRIO_POD": "p1", "CRIO_ERR": "two\nlines", "CRIO_DUR": "3ms", "CRIO_REQ_ID": "7"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	var none error
	l.Info("container ended", "err", none, "code", 0)
	if got := read(t, conn); got["MESSAGE"] != "container ended code=0" {
		t.Errorf("without an error: %v", got)
	}
	c.Set("trace", nil)
	for level, want := range map[slog.Level]string{LevelTrace: "7", slog.LevelDebug: "7", slog.LevelInfo: "6", slog.LevelError: "3"} {
		l.Log(t.Context(), level, "x")
		if got := read(t, conn); got["PRIORITY"] != want {
			t.Errorf("%v: priority %s", level, got["PRIORITY"])
		}
	}
	long := strings.Repeat("x", 1<<20)
	l.Info(long)
	if got := read(t, conn); got["MESSAGE"] != long {
		t.Errorf("a long message has %d bytes", len(got["MESSAGE"]))
	}
	conn.Close()
	os.Remove(path)
	l.Info("nobody there", "pod", "p2")
	if !strings.Contains(fallback.String(), "nobody there") || !strings.Contains(fallback.String(), "pod=p2") {
		t.Errorf("the fallback has %q", fallback.String())
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for env, want := range map[string]bool{"": false, "1:2": false, fmt.Sprintf("%d:%d", st.Dev, st.Ino): true} {
		if IsJournal(f, env) != want {
			t.Errorf("%q: %v", env, !want)
		}
	}
}
