package journal

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/journaltest"
)

// listen plays the journal.
func listen(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	return journaltest.Listen(t, path), path
}

const id = "0123456789abcdef0123456789abcdef"

func open(t *testing.T, o Options) *Journal {
	t.Helper()
	if o.ID == "" {
		o.ID = id
	}
	j, err := Open(&o, func(s string) { t.Error(s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

func TestFields(t *testing.T) {
	common := map[string]string{"CONTAINER_ID": id[:12], "CONTAINER_ID_FULL": id, "PRIORITY": "6", "MESSAGE": "hello"}
	for _, c := range []struct {
		o    Options
		more map[string]string
	}{
		{Options{}, map[string]string{"SYSLOG_IDENTIFIER": id[:12]}},
		{Options{Name: "box"}, map[string]string{"CONTAINER_NAME": "box", "SYSLOG_IDENTIFIER": "box"}},
		{Options{Name: "box", Tag: "tag"}, map[string]string{"CONTAINER_NAME": "box", "CONTAINER_TAG": "tag", "SYSLOG_IDENTIFIER": "tag"}},
		{Options{Labels: []string{"A=b=c", "D=", "E=two\nlines"}}, map[string]string{"SYSLOG_IDENTIFIER": id[:12], "A": "b=c", "D": "", "E": "two\nlines"}},
	} {
		conn, path := listen(t)
		c.o.Socket = path
		open(t, c.o).Send('6', false, []byte("hello"))
		for k, v := range common {
			c.more[k] = v
		}
		if got, _ := journaltest.Receive(t, conn); !reflect.DeepEqual(got, c.more) {
			t.Errorf("%+v: %v", c.o, got)
		}
	}
}

func TestPartial(t *testing.T) {
	conn, path := listen(t)
	for _, no := range []bool{false, true} {
		j := open(t, Options{Socket: path, NoPartial: no})
		for _, partial := range []bool{true, false} {
			j.Send('3', partial, []byte("x"))
			got, _ := journaltest.Receive(t, conn)
			if (got["CONTAINER_PARTIAL_MESSAGE"] == "true") != (partial && !no) || got["PRIORITY"] != "3" {
				t.Errorf("partial %v, without the mark %v: %v", partial, no, got)
			}
		}
	}
}

// TestLarge: a message that no datagram holds comes in a sealed file.
func TestLarge(t *testing.T) {
	conn, path := listen(t)
	big := strings.Repeat("x", 120<<10)
	j := open(t, Options{Socket: path, Labels: []string{"A=" + big, "B=" + big, "C=" + big}})
	j.Send('6', false, bytes.Repeat([]byte("y"), 8192))
	got, file := journaltest.Receive(t, conn)
	if !file || got["C"] != big || got["MESSAGE"] != strings.Repeat("y", 8192) {
		t.Errorf("in a file: %v; %d fields", file, len(got))
	}
}

// TestAbsent: a journal that is not there loses messages and says so once; it may
// come, and go, and come again.
func TestAbsent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	warned := 0
	j, err := Open(&Options{ID: id, Socket: path}, func(string) { warned++ })
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for round := 1; round <= 2; round++ {
		j.Send('6', false, []byte("lost"))
		j.Send('6', false, []byte("lost"))
		if warned != round {
			t.Errorf("%d warnings", warned)
		}
		c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		j.Send('6', false, []byte("found"))
		if got, _ := journaltest.Receive(t, c); got["MESSAGE"] != "found" {
			t.Errorf("%v", got)
		}
		c.Close()
		os.Remove(path)
	}
}

func TestPriority(t *testing.T) {
	for line, want := range map[string]string{"<3>x": "3x", "<0>": "0", "<7><6>x": "7<6>x", "<8>x": "\x00<8>x", "<3": "\x00<3", "": "\x00", " <3>x": "\x00 <3>x"} {
		n, rest := Priority([]byte(line))
		if got := string(n) + string(rest); got != want {
			t.Errorf("%q: %q", line, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, o := range []Options{{ID: id[:12]}, {ID: id, Labels: []string{"x"}}, {ID: id, Labels: []string{"=x"}}, {ID: id, Labels: []string{"a\nMESSAGE=x"}}} {
		if o.Check() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestDoesNotAllocate: the collector may be off in a monitor.
func TestDoesNotAllocate(t *testing.T) {
	conn, path := listen(t)
	j := open(t, Options{Socket: path})
	buf, text := make([]byte, 1<<16), []byte("text")
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	raw.Control(func(f uintptr) { fd = int(f) })
	if n := testing.AllocsPerRun(100, func() {
		j.Send('6', false, text)
		unix.Read(fd, buf)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestStuck: a journal that does not read holds the container for a while, once.
func TestStuck(t *testing.T) {
	conn, path := listen(t)
	warned := 0
	j, err := Open(&Options{ID: id, Socket: path}, func(string) { warned++ })
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := unix.SetsockoptTimeval(j.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 20000}); err != nil {
		t.Fatal(err)
	}
	for range 5000 { // more than any queue holds
		j.Send('6', false, []byte("text"))
	}
	if warned != 1 || !j.lost || j.waits {
		t.Errorf("%d warnings, lost %v, waits %v", warned, j.lost, j.waits)
	}
	journaltest.Receive(t, conn)
	j.Send('6', false, []byte("again"))
	if j.lost || !j.waits {
		t.Error("it does not go on when the journal reads again")
	}
	for {
		got, _ := journaltest.Receive(t, conn)
		if got["MESSAGE"] == "again" {
			break
		}
	}
}
