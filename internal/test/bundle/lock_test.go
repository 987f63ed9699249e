package bundle

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// unpack puts a release's tree where its install can be run from.
func (r *rig) unpack(version string) string {
	r.t.Helper()
	dir := filepath.Join(r.dir, "unpacked-"+version)
	r.sh(`mkdir -p "$2"; tar -xzf "$1" -C "$2"`, filepath.Join(r.site, "download", version, "monocrio."+r.arch+"."+version+".tar.gz"), dir)
	return filepath.Join(dir, "monocrio")
}

// stopping makes a PATH whose cp tells that it was called and waits until it may go on.
func (r *rig) stopping() (path, called, goOn string) {
	r.t.Helper()
	r.mkdir("tools-that-stop")
	path = filepath.Join(r.dir, "tools-that-stop")
	called, goOn = filepath.Join(r.dir, "called"), filepath.Join(r.dir, "go-on")
	for _, f := range []string{called, goOn} {
		if err := syscall.Mkfifo(f, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	cp, err := exec.LookPath("cp")
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(filepath.Join(path, "cp"), fmt.Appendf(nil, "#!/bin/sh\nif [ -e %[1]s ]; then echo >%[1]s; read -r l <%[2]s; fi\nexec %[3]s \"$@\"\n", called, goOn, cp))
	if err := os.Chmod(filepath.Join(path, "cp"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path, called, goOn
}

// While one is at work others say so and change nothing; it goes on as if they had not
// been there. One that was killed keeps nobody out.
func TestOneAtATime(t *testing.T) {
	r := newRig(t)
	r.mkdir("machine/usr/lib")
	before := tree(t, r.file(""))
	r.release("v1")
	r.release("v2")
	v1, v2 := r.unpack("v1"), r.unpack("v2")
	path, called, goOn := r.stopping()
	start := func() (*exec.Cmd, *bytes.Buffer) {
		t.Helper()
		cmd := exec.Command("sh", filepath.Join(v2, "install"))
		cmd.Env = append(r.env(), "PATH="+path+":"+r.path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(called); err != nil { // until it is in the middle
			t.Fatal(err)
		}
		return cmd, &out
	}
	if out, code := r.run(nil, filepath.Join(v1, "install")); code != 0 {
		t.Fatalf("install: status %d: %s", code, out)
	}

	one, said := start()
	during := tree(t, r.file(""))
	for _, script := range []string{"install", "rollback", "uninstall"} {
		out, code := r.run(nil, filepath.Join(v1, script))
		if code != 6 || !strings.Contains(out, "process "+strconv.Itoa(one.Process.Pid)+")") || strings.Count(out, "\n") != 1 {
			t.Errorf("%s beside another: status %d: %s", script, code, out)
		}
		r.same(script+" beside another", during)
	}
	r.fails("get beside another", 5, "at work", nil, "-t", "v1")
	if out, code := r.run(nil, filepath.Join(v1, "install"), "--dry-run"); code != 0 {
		t.Errorf("--dry-run beside another: status %d: %s", code, out)
	}
	os.Remove(called)
	r.put(goOn, []byte("\n"))
	if err := one.Wait(); err != nil {
		t.Fatalf("the first: %v\n%s", err, said)
	}
	if v := r.version(); v != "v2" {
		t.Errorf("installed is %s", v)
	}

	if err := syscall.Mkfifo(called, 0o600); err != nil {
		t.Fatal(err)
	}
	two, _ := start()
	syscall.Kill(-two.Process.Pid, syscall.SIGKILL)
	two.Wait()
	os.Remove(called)
	if to, err := os.Readlink(r.file("usr/lib/monocrio.lock")); err != nil || !strings.HasPrefix(to, strconv.Itoa(two.Process.Pid)+"-") {
		t.Errorf("the one that was killed has left %q, %v", to, err)
	}
	for _, script := range []string{"rollback", "uninstall"} {
		if out, code := r.run(nil, filepath.Join(v2, script)); code != 0 {
			t.Errorf("%s after one that was killed: status %d: %s", script, code, out)
		}
	}
	r.same("uninstall", before)
}

// Many at once, over the locks that killed ones have left: never two are at work, and
// what they leave is whole.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	r.mkdir("machine/usr/lib", "tools-that-watch")
	before := tree(t, r.file(""))
	r.release("v1")
	r.release("v2")
	dirs := []string{r.unpack("v1"), r.unpack("v2")}
	mv, err := exec.LookPath("mv")
	if err != nil {
		t.Fatal(err)
	}
	watch := filepath.Join(r.dir, "tools-that-watch")
	r.put(filepath.Join(watch, "mv"), fmt.Appendf(nil, "#!/bin/sh\nmkdir %[1]s/inside || echo two >>%[1]s/two\n%[2]s \"$@\"\ncode=$?\nrmdir %[1]s/inside\nexit $code\n", r.dir, mv))
	if err := os.Chmod(filepath.Join(watch, "mv"), 0o755); err != nil {
		t.Fatal(err)
	}
	lock := r.file("usr/lib/monocrio.lock")
	done := 0
	for round := range 6 {
		// Process 2^22 + 1 cannot be; of the second there is no such heir either.
		for _, l := range [][2]string{{"4194305-1", lock}, {"4194305-2", lock + ".4194305-1"}, {"4194305-3", lock + ".4194305-9"}}[:round%4] {
			if err := os.Symlink(l[0], l[1]); err != nil {
				t.Fatal(err)
			}
		}
		var all []*exec.Cmd
		outs := make([]bytes.Buffer, 6)
		for i := range outs {
			cmd := exec.Command("sh", filepath.Join(dirs[i%2], "install"))
			cmd.Env = append(r.env(), "PATH="+watch+":"+r.path)
			cmd.Stdout, cmd.Stderr = &outs[i], &outs[i]
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			all = append(all, cmd)
		}
		won := 0
		for i, cmd := range all {
			cmd.Wait()
			switch code := cmd.ProcessState.ExitCode(); code {
			case 0:
				won++
			case 6:
			default:
				t.Errorf("round %d: status %d: %s", round, code, &outs[i])
			}
		}
		if won == 0 {
			t.Errorf("round %d: nobody was let in: %s", round, &outs[0])
		}
		done += won
		if exists(filepath.Join(r.dir, "two")) {
			t.Fatalf("round %d: two were at work", round)
		}
		if left, _ := filepath.Glob(lock + "*"); len(left) > 0 {
			t.Errorf("round %d: left are %v", round, left)
		}
		r.version()
	}
	t.Logf("%d of 36 installed", done)
	r.installed("uninstall")
	r.same("uninstall", before)
}
