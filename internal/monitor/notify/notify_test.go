package notify

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFilter(t *testing.T) {
	for msg, want := range map[string]string{
		"READY=1":                      "READY=1",
		"READY=1\n":                    "READY=1",
		"READY=0":                      "",
		"READY=11":                     "",
		"READY":                        "",
		"":                             "",
		"\n\n":                         "",
		"MAINPID=1\nREADY=1\nSTATUS=x": "READY=1\nSTATUS=x",
		"STATUS=\nFDSTORE=1\nERRNO=2\nBUSERROR=a.b\nMONOTONIC_USEC=5\n":  "STATUS=\nERRNO=2\nBUSERROR=a.b\nMONOTONIC_USEC=5",
		"RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger":          "RELOADING=1\nSTOPPING=1\nWATCHDOG=1\nWATCHDOG=trigger",
		"WATCHDOG=x\nNOTIFYACCESS=all\nBARRIER=1\nEXTEND_TIMEOUT_USEC=1": "",
	} {
		b := []byte(msg)
		if got := string(b[:filter(b)]); got != want {
			t.Errorf("%q: %q, not %q", msg, got, want)
		}
	}
}

// TestProxy sends a ready message with a barrier, as systemd-notify does.
func TestProxy(t *testing.T) {
	bundle := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{filepath.Join(t.TempDir(), "manager"), "@monocrio-test-" + filepath.Base(t.TempDir()) + filepath.Base(bundle[:20])} {
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: to, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer manager.Close()
		p, err := Open(bundle, to)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if st, err := os.Stat(filepath.Join(bundle, Folder, Socket)); err != nil || st.Mode().Perm() != 0o777 {
			t.Errorf("%v %v", st, err)
		}
		short := filepath.Join(t.TempDir(), "s")
		os.Symlink(filepath.Join(bundle, Folder), short)
		conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(conn)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for _, msg := range []string{"MAINPID=1\nREADY=1", "BARRIER=1", "STATUS=late"} {
			var oob []byte
			if msg == "BARRIER=1" {
				oob = unix.UnixRights(int(w.Fd()))
			}
			if err := unix.Sendmsg(conn, []byte(msg), oob, &unix.SockaddrUnix{Name: short + "/" + Socket}, 0); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		p.Pass(make([]byte, 64<<10))
		manager.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 1000)
		for _, want := range []string{"READY=1", "STATUS=late"} {
			n, err := manager.Read(buf)
			if err != nil || string(buf[:n]) != want {
				t.Errorf("%q %v, not %q", buf[:n], err, want)
			}
		}
		if n, err := r.Read(buf); n != 0 || err == nil {
			t.Error("the barrier's descriptor is still open")
		}
	}
}
