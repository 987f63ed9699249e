package monitortest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// commandLines looks at what the runtime is called with. The runtime fails, and the
// engine is told what it said.
func commandLines(t *testing.T, r *Rig) {
	r.need(t)
	for _, c := range []struct{ args, want string }{
		{"", "create --bundle DIR --pid-file DIR/pid id"},
		{"-s --no-pivot --no-new-keyring --runtime-arg --root=/x --runtime-arg --debug --runtime-opt --preserve-fds=3",
			"--systemd-cgroup --root=/x --debug create --bundle DIR --pid-file DIR/pid --no-pivot --no-new-keyring --preserve-fds=3 id"},
		{"--restore /images --runtime-opt --tcp-established --restore-arg --shell-job",
			"restore --detach --image-path /images --work-path DIR --bundle DIR --pid-file DIR/pid --tcp-established --shell-job id"},
		{"-e --exec-process-spec /etc/passwd -s --runtime-arg --root=/x --runtime-opt --tty",
			"--root=/x exec --pid-file DIR/pid --process /etc/passwd --detach --tty id"},
	} {
		for _, api := range []bool{false, true} {
			dir, told, err := recorded(t, r, api, strings.Fields(c.args))
			got := strings.Join(strings.Split(strings.TrimSuffix(read(t, dir, "args"), "\n"), "\n"), " ")
			want := strings.ReplaceAll(c.want, "DIR", dir)
			same := got == want
			if r.Foreign { // the order of options is nobody's business
				a, b := strings.Fields(got), strings.Fields(want)
				slices.Sort(a)
				slices.Sort(b)
				same = slices.Equal(a, b)
			}
			if !same {
				t.Errorf("%q: the runtime got\n%s, not\n%s", c.args, got, want)
			}
			key := map[bool]string{true: "exit_code", false: "pid"}[strings.HasPrefix(c.args, "-e")]
			if api {
				key = "data"
			}
			if err == nil || told.key != key || told.number != -1 || !strings.Contains(told.text, "no, thanks") {
				t.Errorf("%q, api %v: %+v, %v", c.args, api, told, err)
			}
		}
	}
}

// recorded runs a monitor whose runtime writes its arguments to a file and fails.
func recorded(t *testing.T, r *Rig, api bool, args []string) (dir string, told message, err error) {
	t.Helper()
	dir = t.TempDir()
	rt := script(t, `for a in "$@"; do echo "$a"; done >`+dir+`/args; echo "no, thanks" >&2; exit 1`)
	pipe, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if api {
		args = append(args, "--api-version")
	}
	cmd := exec.Cmd{Path: r.Path, ExtraFiles: []*os.File{theirs}, Env: append([]string{"PATH=/usr/bin:/bin", "_OCI_SYNCPIPE=3"}, r.Env...),
		Args: append([]string{"conmon", "--sync", "-b", dir, "-c", "id", "-u", "id", "-n", "name", "-r", rt,
			"-l", filepath.Join(dir, "log"), "-p", filepath.Join(dir, "pid"), "--full-attach"}, args...)}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10000)
	n, _ := pipe.Read(buf)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return dir, decode(t, string(buf[:n])), err
}

// execEnds: the container ends under a session; and an engine that hears nothing any
// more is no reason to forget the end.
func execEnds(t *testing.T, r *Rig) {
	b := sleeper(t, r)
	exits := t.TempDir()
	args := []string{"--api-version", "-u", "session", "--exit-dir", exits}
	s := b.exec("echo begun; sleep 1000", args...)
	s.release()
	if status := s.wait(); status != 0 {
		t.Fatalf("status %d: %s", status, s.said())
	}
	if line, err := s.sync.ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	deaf := b.exec("sleep 1000", append(args[:len(args)-1:len(args)-1], filepath.Join(exits, "deaf"))...)
	if err := os.Mkdir(filepath.Join(exits, "deaf"), 0o755); err != nil {
		t.Fatal(err)
	}
	deaf.release()
	deaf.wait()
	if line, err := deaf.sync.ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	deaf.syncPipe.Close()
	if err := unix.Kill(b.Proc.Container, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if told := s.told(); len(told) != 1 || told[0].number != 137 {
		t.Errorf("messages %+v", told)
	}
	for _, dir := range []string{exits, filepath.Join(exits, "deaf")} {
		b.Eventually("the exit file", func() bool { _, err := os.Stat(filepath.Join(dir, b.Spawn.ID)); return err == nil })
		if code := read(t, dir, b.Spawn.ID); code != "137" {
			t.Errorf("exit file %q", code)
		}
	}
	b.WaitExit()
}
