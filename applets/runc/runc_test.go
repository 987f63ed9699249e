package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/command"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
)

// executable builds the real executable once and returns a link to it named runc.
var executable = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "runc-test-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("../../scripts/build", "-o", filepath.Join(dir, "monocrio")).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot build: %w\n%s", err, out)
	}
	link := filepath.Join(dir, "runc")
	return link, os.Symlink("monocrio", link)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := executable(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func built(t testing.TB) string {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	path, err := executable()
	if err != nil {
		t.Skip(err)
	}
	return path
}

func newRuntime(t *testing.T, root string) oci.Runtime {
	r, err := command.New(command.Options{Path: built(t), Name: "runc", Root: root, Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestContract holds the command line to what is asked of foreign runtimes.
func TestContract(t *testing.T) {
	built(t)
	ocitest.Run(t, newRuntime)
}

// TestSmallMemory: the init stage is this whole executable, inside the limit.
func TestSmallMemory(t *testing.T) {
	if !cgroup.Available().Has("memory") {
		t.Skip("the host has no memory controller")
	}
	built(t)
	w := ocitest.NewWorld(t, newRuntime)
	limit := int64(12 << 20)
	for range 3 {
		id, output := w.Start("echo runs", func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
		})
		w.AwaitStatus(id, oci.Stopped)
		if output() != "runs\n" {
			t.Errorf("output is %q", output())
		}
	}
}

// cli is a world and the means to call the command line in it.
type cli struct {
	*ocitest.World
	path, root string
}

func newCLI(t *testing.T) *cli {
	c := &cli{path: built(t)}
	c.World = ocitest.NewWorld(t, func(t *testing.T, root string) oci.Runtime {
		c.root = root
		return newRuntime(t, root)
	})
	return c
}

// call runs a command line and returns its output and status.
func (c *cli) call(args ...string) (stdout, stderr string, code int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Ctx, ocitest.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, append([]string{"--root", c.root}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = 300 * time.Millisecond // a detached process keeps the pipes
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// expect fails unless a command line has a status and prints a text.
func (c *cli) expect(code int, text string, args ...string) string {
	c.Helper()
	out, errOut, got := c.call(args...)
	if got != code || !strings.Contains(out+errOut, text) {
		c.Errorf("runc %q: status %d, output %q, errors %q; expected %d and %q", args, got, out, errOut, code, text)
	}
	return out
}

func TestCommandLine(t *testing.T) {
	c := newCLI(t)
	id, _ := c.Start("sleep 1000")
	c.expect(0, "runc version", "--version")
	c.expect(0, "create", "--help")
	c.expect(1, "unknown command", "frobnicate")
	c.expect(1, "unknown flag", "state", "--frob", id)
	c.expect(1, "one container id", "state")
	var s map[string]any
	if err := json.Unmarshal([]byte(c.expect(0, "", "state", id)), &s); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner", "annotations"} {
		if _, ok := s[key]; !ok {
			t.Errorf("state has no %s: %v", key, s)
		}
	}
	if _, err := time.Parse(time.RFC3339Nano, fmt.Sprint(s["created"])); err != nil {
		t.Error(err)
	}
	if got := c.expect(0, "", "list", "-q"); got != id+"\n" {
		t.Errorf("list -q: %q", got)
	}
	c.expect(0, "STATUS", "list")
	var list []map[string]any
	if err := json.Unmarshal([]byte(c.expect(0, "", "list", "-f", "json")), &list); err != nil || len(list) != 1 || list[0]["status"] != "running" {
		t.Errorf("list: %v, %v", list, err)
	}
	c.expect(1, "not known", "list", "-f", "xml")
	c.expect(0, "sleep 1000", "ps", id)
	c.expect(0, "[", "ps", "-f", "json", id)
	c.expect(0, `"type":"stats"`, "events", "--stats", id)
	c.expect(0, `"ociVersionMax"`, "features")
	c.expect(0, "", "update", "--pids-limit", "44", "--memory", "64M", id)
	if cgroup.Available().Has("pids") {
		u, err := c.RT.Stats(c.Ctx, id)
		if err != nil || u.Pids.Limit != 44 || u.Memory.Limit != 64<<20 {
			t.Errorf("%+v, %v", u, err)
		}
	}
	c.expect(1, "not a number", "update", "--memory", "much", id)
	c.expect(1, "running", "delete", id)
	c.expect(0, "", "pause", id)
	c.expect(255, "paused", "exec", id, "true")
	c.expect(0, "", "resume", id)
	c.expect(1, "running", "resume", id)
	c.expect(1, "no signal", "kill", id, "FROB")
	c.expect(0, "", "kill", id, "SIGKILL")
	c.AwaitStatus(id, oci.Stopped)
	c.expect(1, "not running", "kill", id, "TERM")
	c.expect(0, "", "delete", id)
	c.expect(1, "no container", "delete", id)
	c.expect(0, "", "delete", "--force", id)
}

func TestLog(t *testing.T) {
	c := newCLI(t)
	log := filepath.Join(c.Dir, "log")
	_, stderr, code := c.call("--log", log, "--log-format", "json", "state", "nobody")
	var entry struct{ Level, Msg, Time string }
	data, _ := os.ReadFile(log)
	if err := json.Unmarshal(data, &entry); err != nil || entry.Level != "error" || !strings.Contains(entry.Msg, "nobody") || entry.Time == "" {
		t.Errorf("%q, %v", data, err)
	}
	if code != 1 || !strings.Contains(stderr, "nobody") {
		t.Errorf("status %d, %q", code, stderr)
	}
	c.expect(1, "level=error", "state", "nobody")
	c.expect(1, `"level":"error"`, "--log-format", "json", "state", "nobody")
	c.expect(1, "not known", "--log-format", "xml", "list")
}

// TestExecTerminal: an exec's console socket has no name in the file system, so it
// needs no directory and leaves none behind when it is killed.
func TestExecTerminal(t *testing.T) {
	c := newCLI(t)
	id, _ := c.Start("sleep 1000")
	t.Setenv("TMPDIR", "/not-there")
	c.expect(7, "/dev/pts/", "exec", "--tty", id, "sh", "-c", "readlink /proc/self/fd/0; exit 7")
}

func TestExec(t *testing.T) {
	c := newCLI(t)
	id, _ := c.Start("sleep 1000")
	c.expect(5, "12:34:/tmp:x y", "exec", "--user", "12:34", "--cwd", "/tmp", "--env", "V=x y", id,
		"sh", "-c", `echo "$(id -u):$(id -g):$(pwd):$V"; exit 5`)
	c.expect(255, "not-there", "exec", id, "/not-there")
	c.expect(255, "no command", "exec", id)
	c.expect(255, "digits", "exec", "--user", "root", id, "true")
	c.expect(255, "--console-socket", "exec", "--detach", "--tty", id, "true")
	c.expect(255, "not open", "exec", "--preserve-fds", "9", id, "true")
	pidFile := filepath.Join(c.Dir, "exec.pid")
	c.expect(0, "", "exec", "--detach", "--pid-file", pidFile, id, "sleep", "1000")
	var pid int
	data, _ := os.ReadFile(pidFile)
	if _, err := fmt.Sscan(string(data), &pid); err != nil || unix.Kill(pid, 0) != nil {
		t.Errorf("pid file %q, %v", data, err)
	}
	process := filepath.Join(c.Dir, "process.json")
	p := ocitest.Process("/bin/sh", "-c", "echo by file; exit 8")
	if data, err := json.Marshal(p); err != nil || os.WriteFile(process, data, 0o600) != nil {
		t.Fatal(err)
	}
	c.expect(8, "by file", "exec", "--process", process, id)
	c.expect(255, "exclude", "exec", "--process", process, id, "true")
	c.expect(255, "cannot exec", "exec", "--cgroup", "absent", id, "true")
	c.expect(255, "below", "exec", "--cgroup", "../x", id, "true")
	c.expect(255, "stopped", "exec", "--env", "x=y", "--", func() string {
		stopped, _ := c.Start("true")
		c.AwaitStatus(stopped, oci.Stopped)
		return stopped
	}(), "true")
}

func TestRun(t *testing.T) {
	c := newCLI(t)
	id, dir := c.Bundle("echo from run; exit 6")
	c.expect(6, "from run", "run", "--bundle", dir, id)
	if got := c.expect(0, "", "list", "-q"); got != "" {
		t.Errorf("run left %q", got)
	}
	c.expect(6, "from run", "run", "--keep", "--bundle", dir, id)
	c.expect(0, "stopped", "state", id)
	c.expect(0, "", "delete", id)
	id, dir = c.Bundle("sleep 1000")
	pidFile := filepath.Join(c.Dir, "run.pid")
	cmd := exec.Command(c.path, "--root", c.root, "run", "--detach", "--pid-file", pidFile, "--bundle", dir, id)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	c.AwaitStatus(id, oci.Running)
	c.expect(0, "", "delete", "--force", id)
	// A signal to us is one to the container.
	id, dir = c.Bundle("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
	cmd = exec.Command(c.path, "--root", c.root, "run", "--bundle", dir, id)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Signal(unix.SIGTERM)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("%v", cmd.ProcessState)
	}
}

func TestSpec(t *testing.T) {
	c := newCLI(t)
	dir := t.TempDir()
	c.expect(0, "", "spec", "--bundle", dir)
	c.expect(1, "exists", "spec", "--bundle", dir)
	var s specs.Spec
	data, _ := os.ReadFile(filepath.Join(dir, "config.json"))
	if err := json.Unmarshal(data, &s); err != nil || s.Process == nil || s.Process.Args[0] != "sh" {
		t.Errorf("%s, %v", data, err)
	}
	c.expect(0, "", "spec", "--rootless", "--bundle", t.TempDir())
}

// TestConmon runs a container under somebody else's monitor.
func TestConmon(t *testing.T) {
	conmon, err := exec.LookPath("conmon")
	if err != nil {
		t.Skip("conmon is not installed")
	}
	c := newCLI(t)
	for _, tty := range []bool{false, true} {
		id, dir := c.Bundle("echo from conmon; exit 3", func(s *specs.Spec) { s.Process.Terminal = tty })
		message := c.underConmon(conmon, id, dir, tty)
		var answer struct{ Pid int }
		if err := json.Unmarshal([]byte(message), &answer); err != nil || answer.Pid <= 0 {
			t.Fatalf("the monitor says %q", message)
		}
		c.expect(0, "", "start", id)
		exit := filepath.Join(dir, "exits", id)
		c.Await("the exit file", func() bool { _, err := os.Stat(exit); return err == nil })
		if code, _ := os.ReadFile(exit); string(code) != "3" {
			t.Errorf("exit file has %q", code)
		}
		if log, _ := os.ReadFile(filepath.Join(dir, "log")); !strings.Contains(string(log), " F from conmon") {
			t.Errorf("the log has %q", log)
		}
		c.expect(0, "", "delete", id)
	}
	id, dir := c.Bundle("", func(s *specs.Spec) { s.Process.Args = []string{"/not-there"} })
	if message := c.underConmon(conmon, id, dir, false); !strings.Contains(message, "not-there") || !strings.Contains(message, `"pid": -1`) {
		t.Errorf("the monitor says %q", message)
	}
}

// underConmon creates a container and returns what the monitor writes to its
// sync pipe.
func (c *cli) underConmon(conmon, id, dir string, tty bool) string {
	c.Helper()
	for _, d := range []string{"exits", "sockets"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			c.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		c.Fatal(err)
	}
	defer r.Close()
	args := []string{
		"--cid", id, "--cuuid", id, "--name", id, "--runtime", c.path, "--runtime-arg", "--root=" + c.root,
		"--bundle", dir, "--container-pidfile", filepath.Join(dir, "pid"), "--log-path", "k8s-file:" + filepath.Join(dir, "log"),
		"--exit-dir", filepath.Join(dir, "exits"), "--socket-dir-path", filepath.Join(dir, "sockets"),
	}
	if tty {
		args = append(args, "--terminal")
	}
	cmd := exec.Command(conmon, args...)
	cmd.Env = append(os.Environ(), "_OCI_SYNCPIPE=3")
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.CombinedOutput()
	w.Close()
	if err != nil {
		c.Fatalf("conmon: %v\n%s", err, out)
	}
	_ = r.SetReadDeadline(time.Now().Add(ocitest.Patience))
	buf := make([]byte, 16<<10)
	n, err := r.Read(buf)
	if err != nil {
		c.Fatalf("conmon: %v\n%s", err, out)
	}
	return string(buf[:n])
}

func TestParse(t *testing.T) {
	for text, want := range map[string]unix.Signal{"9": 9, "KILL": 9, "SIGTERM": 15, "usr1": 10, "64": 64, "0": 0, "65": 0, "-1": 0, "": 0, "X": 0} {
		if got, err := parseSignal(text); got != want || (err == nil) != (want != 0) {
			t.Errorf("signal %q: %d, %v", text, got, err)
		}
	}
	for text, want := range map[string]int64{"5": 5, "-1": -1, "12M": 12 << 20, "1g": 1 << 30, "2KiB": 2 << 10, "3kb": 3 << 10, "x": 0, "": 0, "M": 0, "-5": 0, "99999999T": 0} {
		var n int64
		if err := newSize(&n).Set(text); n != want || (err == nil) != (want != 0) {
			t.Errorf("size %q: %d, %v", text, n, err)
		}
	}
	for text, want := range map[string]map[string]string{"a/b": {"": "a/b"}, "/": {"": ""}, "cpu,memory:x": {"cpu": "x", "memory": "x"}, "": nil, "../x": nil, "cpu:": nil} {
		if got, err := subCgroups([]string{text}); !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("cgroup %q: %v, %v", text, got, err)
		}
	}
}
