// Package journaltest plays the system's journal for tests of what writes to it
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
package journaltest

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds the wait for a message.
const patience = 20 * time.Second

// System is where the system's journal listens.
const System = "/run/systemd/journal/socket"

// Listen listens at a path until the test ends.
func Listen(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ListenSystem takes the system's place in this mount namespace, by a /run of its own.
func ListenSystem(t *testing.T) *net.UnixConn {
	t.Helper()
	if err := unix.Mount("none", "/run", "tmpfs", 0, ""); err != nil {
		t.Skip("cannot mount a folder for the journal's socket: ", err)
	}
	t.Cleanup(func() { unix.Unmount("/run", unix.MNT_DETACH) })
	return Listen(t, System)
}

// Receive returns the fields of one message, and whether it came in a file, which must
// be sealed.
func Receive(t *testing.T, c *net.UnixConn) (fields map[string]string, file bool) {
	t.Helper()
	buf, oob := make([]byte, 1<<20), make([]byte, 256)
	c.SetReadDeadline(time.Now().Add(patience))
	n, m, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	if m == 0 {
		return Parse(t, buf[:n]), false
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
	return Parse(t, data), true
}

// Parse reads the protocol's two forms of a field.
func Parse(t *testing.T, b []byte) map[string]string {
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
