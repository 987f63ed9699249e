package journal

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen plays the journal.
func listen(t *testing.T) (*net.UnixConn, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, path
}

// receive returns the fields of one message, and whether it came in a file.
func receive(t *testing.T, c *net.UnixConn) (map[string]string, bool) {
	t.Helper()
	buf, oob := make([]byte, 1<<20), make([]byte, 256)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, m, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	if m == 0 {
		return parse(t, buf[:n]), false
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil || n != 0 {
		t.Fatal(n, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "memory")
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE; err != nil || seals != want {
		t.Errorf("seals %x, %v", seals, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, data), true
}

// parse reads the protocol's two forms of a field.
func parse(t *testing.T, b []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	for len(b) > 0 {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			t.Fatalf("the message ends in %q", line)
		}
		name, value, ok := bytes.Cut(line, []byte("="))
		if !ok {
			n := binary.LittleEndian.Uint64(rest)
			value, rest = rest[8:8+n], rest[8+n+1:]
		}
		if _, twice := out[string(name)]; twice {
			t.Errorf("%s stands there twice", name)
		}
		out[string(name)] = string(value)
		b = rest
	}
	return out
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
		if got, _ := receive(t, conn); !reflect.DeepEqual(got, c.more) {
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
			got, _ := receive(t, conn)
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
	got, file := receive(t, conn)
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
		if got, _ := receive(t, c); got["MESSAGE"] != "found" {
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
	receive(t, conn)
	j.Send('6', false, []byte("again"))
	if j.lost || !j.waits {
		t.Error("it does not go on when the journal reads again")
	}
	for {
		got, _ := receive(t, conn)
		if got["MESSAGE"] == "again" {
			break
		}
	}
}
