package log

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// read receives one message as the journal does, and takes its fields apart.
func read(t *testing.T, conn *net.UnixConn) map[string]string {
	t.Helper()
	buf, oob := make([]byte, 1<<20), make([]byte, 100)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, on, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	data := buf[:n]
	if on > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil {
			t.Fatal(err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fds[0]), "message")
		defer f.Close()
		if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_WRITE == 0 {
			t.Errorf("seals %x, %v", seals, err)
		}
		if data, err = io.ReadAll(io.NewSectionReader(f, 0, 1<<30)); err != nil {
			t.Fatal(err)
		}
	}
	fields := map[string]string{}
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		if name, value, ok := strings.Cut(string(line), "="); ok {
			fields[name], data = value, rest
			continue
		}
		n := binary.LittleEndian.Uint64(rest)
		fields[string(line)], data = string(rest[8:8+n]), rest[8+n+1:]
	}
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
