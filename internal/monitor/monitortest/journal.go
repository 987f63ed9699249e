package monitortest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/journaltest"
)

// entry is what the journal has of one message.
type entry = map[string]string

// entries reads until a message with the text last.
func entries(t *testing.T, c *net.UnixConn, last string) []entry {
	t.Helper()
	var out []entry
	for {
		e, _ := journaltest.Receive(t, c)
		e["MESSAGE"] = strings.TrimSuffix(e["MESSAGE"], "\n") // 2.1.6 leaves it there
		out = append(out, e)
		if e["MESSAGE"] == last {
			return out
		}
	}
}

const longID = "0123456789abcdef0123456789abcdef"

func journald(t *testing.T, r *Rig) {
	r.need(t)
	long := strings.Repeat("y", 20000)
	const program = "sleep 0.1; echo plain; sleep 0.1; echo oops >&2; sleep 0.1; printf %20000s | tr ' ' y; echo; sleep 0.1; echo '<4>grave'; echo; echo end; sleep 0.1"
	for _, c := range []struct {
		args []string
		want entry
	}{
		{nil, entry{"SYSLOG_IDENTIFIER": "name"}},
		{[]string{"--log-tag", "tag"}, entry{"SYSLOG_IDENTIFIER": "tag", "CONTAINER_TAG": "tag"}},
		{[]string{"--log-label", "A=b", "--log-label", "C=d=e", "--no-container-partial-message"}, entry{"A": "b", "C": "d=e"}},
	} {
		if r.Foreign && len(c.args) > 2 {
			continue // conmon 2.1.6 does not know these two
		}
		conn := journaltest.ListenSystem(t)
		dir, _, stderr := direct(t, r, program, nil, append(c.args, "-c", longID, "-l", "journald:")...)
		got := entries(t, conn, "end")
		c.want["CONTAINER_ID"], c.want["CONTAINER_ID_FULL"], c.want["CONTAINER_NAME"] = longID[:12], longID, "name"
		var text strings.Builder
		for _, e := range got {
			for k, v := range c.want {
				if e[k] != v {
					t.Errorf("%v: %s is %q in %v; %s", c.args, k, e[k], e, stderr)
				}
			}
			priority := map[string]string{"oops": "3", "grave": "4"}[e["MESSAGE"]]
			if priority == "" {
				priority = "6"
			}
			marked := strings.HasSuffix(e["MESSAGE"], "grave") // which 2.1.6 does not understand
			if e["PRIORITY"] != priority && (!r.Foreign || !marked) {
				t.Errorf("%v: priority %s of %.30q", c.args, e["PRIORITY"], e["MESSAGE"])
			}
			text.WriteString(e["MESSAGE"])
			if e["CONTAINER_PARTIAL_MESSAGE"] != "true" {
				text.WriteString("\n")
			}
		}
		want := "plain\noops\n" + long + "\ngrave\n\nend\n"
		joined := strings.ReplaceAll(text.String(), "<4>", "") // which 2.1.6 does not take off
		if len(c.args) > 2 {                                   // pieces are not marked
			want, joined = strings.ReplaceAll(want, "\n", ""), strings.ReplaceAll(joined, "\n", "")
		}
		if joined != want {
			t.Errorf("%v: %d bytes, not %d: %.60q ... %.60q", c.args, len(joined), len(want), joined, joined[max(0, len(joined)-60):])
		}
		// The file beside it has the same.
		if log := read(t, dir, "log"); !strings.Contains(log, "stdout F plain\n") || !strings.Contains(log, "stderr F oops\n") {
			t.Errorf("%v: the file has %.200q", c.args, log)
		}
	}
	if _, status, stderr := direct(t, r, "true", nil, "-c", "short", "-l", "journald:"); status == 0 || stderr == "" {
		t.Errorf("a short id: status %d, %q", status, stderr)
	}
}

// passthrough gives the container the monitor's own descriptors.
func passthrough(t *testing.T, r *Rig) {
	r.need(t)
	dir := t.TempDir()
	rt := script(t, `while [ $# -gt 0 ]; do case $1 in --pid-file) f=$2; shift;; esac; shift; done
exec 5<&0
sh -c "while [ -e /proc/$$ ]; do sleep 0.01; done; read line; echo got \$line; echo err >&2; sleep 0.1; exit 4" <&5 & echo $! >$f`)
	var out, errs bytes.Buffer
	cmd := exec.Cmd{Path: r.Path, Args: []string{"conmon", "--sync", "-b", dir, "-c", "id", "-u", "id", "-n", "name", "-r", rt,
		"-l", "passthrough", "-p", dir + "/pid", "--exit-dir", dir, "--full-attach"},
		Env:   append([]string{"PATH=/usr/bin:/bin"}, r.Env...),
		Stdin: strings.NewReader("word\n"), Stdout: &out, Stderr: &errs}
	err := cmd.Run()
	if out.String() != "got word\n" || !strings.Contains(errs.String(), "err\n") || read(t, dir, "id") != "4" {
		t.Errorf("%v: stdout %q, stderr %q, exit file %q", err, out.String(), errs.String(), read(t, dir, "id"))
	}
	for _, name := range []string{"attach", "ctl", "winsz"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("there is a file %s", name)
		}
	}
}

// rotation keeps backups of a log.
func rotation(t *testing.T, r *Rig) {
	if r.Foreign {
		t.Skip("conmon 2.1.6 has no --log-rotate")
	}
	dir, _, stderr := direct(t, r, "seq 100000 100099; sleep 0.1", nil, "--log-size-max", "1500", "--log-rotate", "--log-max-files", "2", "--log-allowlist-dir", "/")
	all := ""
	for _, name := range []string{"log.2", "log.1", "log"} {
		text := read(t, dir, name)
		if len(text) > 1500 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		all += text
	}
	lines := strings.Split(strings.TrimSpace(all), "\n")
	for i, line := range lines {
		if f := strings.Fields(line); len(f) != 4 || f[3] != strconv.Itoa(100100-len(lines)+i) {
			t.Fatalf("%q is line %d of %d; %s", line, i, len(lines), stderr)
		}
	}
	if left, _ := filepath.Glob(dir + "/log*"); len(left) != 3 || len(lines) < 40 {
		t.Errorf("%d lines in %v", len(lines), left)
	}
	dir, status, stderr := direct(t, r, "true", nil, "--log-allowlist-dir", "/no/such")
	if status != 1 || !strings.Contains(stderr, "--log-allowlist-dir") {
		t.Errorf("a log in %s, which is not allowed: status %d, %q", dir, status, stderr)
	}
}

// notifications passes on what the container may say to a service manager.
func notifications(t *testing.T, r *Rig) {
	r.need(t)
	path := filepath.Join(t.TempDir(), "manager")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	dir, mark := t.TempDir(), filepath.Join(t.TempDir(), "mark")
	rt := script(t, `while [ $# -gt 0 ]; do case $1 in --pid-file) f=$2; shift;; esac; shift; done
sh -c "while [ ! -e `+mark+` ]; do sleep 0.01; done" </dev/null & echo $! >$f`)
	if err := os.MkdirAll(dir+"/notify", 0o755); err != nil { // as podman does
		t.Fatal(err)
	}
	cmd := exec.Cmd{Path: r.Path, Args: []string{"conmon", "-b", dir, "-c", "id", "-u", "id", "-n", "name", "-r", rt,
		"-l", "none", "-p", dir + "/pid", "--exit-dir", dir, "--full-attach", "--sdnotify-socket", path},
		Env: append([]string{"PATH=/usr/bin:/bin"}, r.Env...)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrUnix{Name: filepath.Join(dir, "notify/notify.sock")}
	buf := make([]byte, 4096)
	for msg, want := range map[string]string{"MAINPID=1\nREADY=1": "READY=1", "STATUS=half done\nERRNO=2": "STATUS=half done\nERRNO=2", "FDSTORE=1\nSTOPPING=1": "STOPPING=1"} {
		if r.Foreign { // 2.1.6 passes READY=1 only
			msg, want = "MAINPID=1\nREADY=1", "READY=1"
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			if err = unix.Sendto(fd, []byte(msg), 0, to); err == nil || time.Now().After(deadline) {
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := manager.Read(buf)
		if err != nil || strings.TrimSpace(string(buf[:n])) != want {
			t.Errorf("%q arrived as %q, %v", msg, buf[:n], err)
		}
	}
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(dir + "/id"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no exit file")
		}
	}
}
