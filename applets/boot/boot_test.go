package boot

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for line, want := range map[string]params{
		"":                           {},
		"quiet console=ttyS0 run=no": {},
		"monocrio.run=localhost/a:1 monocrio.data=/dev/vda:xfs\n":      {run: "localhost/a:1", data: "/dev/vda", dataType: "xfs"},
		"monocrio.data=/dev/disk monocrio.hostname=box":                {data: "/dev/disk", hostname: "box"},
		"monocrio.run=registry:5000/a@sha256:12 root=/dev/sda":         {run: "registry:5000/a@sha256:12"},
		"monocrio.colour=green monocrio. monocrio.run":                 {unknown: []string{"monocrio.colour=green", "monocrio."}},
		"notmonocrio.run=x -monocrio.run=y monocrio.hostname=a=b -- q": {hostname: "a=b"},
	} {
		if got := parse(line); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", line, got, want)
		}
	}
}

func TestCopyLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	seen := copyLog(&out, path, 0)
	if seen != 0 || out.Len() > 0 {
		t.Errorf("of no file: %d, %q", seen, &out)
	}
	write("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P two, \n2026-01-01T00:00:00Z std")
	seen = copyLog(&out, path, 0)
	write("err F three\n2026-01-01T00:00:00Z stdout F \nnonsense\n")
	seen += copyLog(&out, path, seen)
	if want := "one\ntwo, three\n\n"; out.String() != want {
		t.Errorf("%q, want %q", &out, want)
	}
	if fi, err := os.Stat(path); err != nil || seen != fi.Size() {
		t.Errorf("%d of %d bytes are told", seen, fi.Size())
	}
}

func TestWaitKey(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		b := make([]byte, eventSize)
		binary.NativeEndian.PutUint16(b[eventSize-8:], kind)
		binary.NativeEndian.PutUint16(b[eventSize-6:], code)
		binary.NativeEndian.PutUint32(b[eventSize-4:], value)
		return b
	}
	others := bytes.Join([][]byte{event(0, 0, 0), event(evKey, 28, 1), event(evKey, keyPower, 0), event(3, keyPower, 1)}, nil)
	if waitKey(bytes.NewReader(others)) {
		t.Error("other keys, and the button's release, end the machine")
	}
	r := bytes.NewReader(append(others, append(event(evKey, keyPower, 1), 1, 2, 3)...))
	if !waitKey(r) || r.Len() != 3 {
		t.Errorf("the button is not seen; %d bytes are left", r.Len())
	}
}

// Processes that were started here tell how they end, also those that end at once, and
// orphans of others do not disturb.
func TestChildren(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	c := &children{waits: map[int]chan unix.WaitStatus{}}
	go c.reap()
	for script, want := range map[string]string{
		"exit 7":                     "status 7",
		"(sleep 0.05 &); exit 0":     "status 0", // an orphan
		"kill -9 $$":                 "killed",
		"sleep 0.1; kill -TERM $$":   "terminated",
		"true & true & wait; exit 1": "status 1",
	} {
		ended, err := c.start("x", exec.Command("sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		if got := describe(<-ended); got != want {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
		if c.pid("x") != 0 {
			t.Errorf("%s: it is still known", script)
		}
	}
	if _, err := c.start("x", exec.Command("/no/such/program")); err == nil {
		t.Error("a program that is not there starts")
	}
}

func TestNotFirst(t *testing.T) {
	if os.Getpid() == 1 {
		t.Skip("this is process 1")
	}
	if code := Main([]string{"init"}); code != 1 {
		t.Errorf("as an ordinary process: status %d", code)
	}
}

func TestDevices(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"pci0/a/modalias": "pci:v1d2\n", "pci0/b/modalias": "", "virtio/modalias": "virtio:d2v3\n", "virtio/uevent": "x"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(devices(dir), " "); got != "pci:v1d2 virtio:d2v3" {
		t.Errorf("%q", got)
	}
}

func TestOwnFile(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(exe, link); err != nil {
		t.Fatal(err)
	}
	if got, err := ownFile("/absent", "relative", "/etc/passwd", link, exe); err != nil || got != link {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := ownFile("/etc/passwd"); err == nil {
		t.Error("another file is taken for ours")
	}
}
