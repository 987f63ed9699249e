package bundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// From nothing to nothing, over each of the two programs that fetch, and with a small
// system's tools.
func TestLife(t *testing.T) {
	for _, tools := range []struct{ use, not string }{{"curl", "wget"}, {"wget", "curl"}, {"busybox", ""}} {
		t.Run(tools.use, func(t *testing.T) {
			if _, err := exec.LookPath(tools.use); err != nil {
				t.Skipf("this machine lacks %s", tools.use)
			}
			r := newRig(t)
			if r.without(tools.not); tools.not == "" {
				r.busybox()
			}
			r.write("etc/hosts", "127.0.0.1 localhost\n")
			before := tree(t, r.file(""))
			r.release("v1")
			if out := r.get("--dry-run"); !strings.Contains(out, "download/v1/monocrio."+r.arch+".v1.tar.gz") {
				t.Errorf("--dry-run says %q", out)
			}
			r.same("--dry-run", before)
			r.get()
			if v := r.version(); v != "v1" {
				t.Errorf("installed is %s", v)
			}
			if unit := r.read("usr/lib/systemd/system/crio.service"); !strings.Contains(unit, "\nExecStart="+r.file("usr/bin/crio")+" ") || strings.Contains(unit, "@") {
				t.Errorf("the unit does not start what is installed:\n%s", unit)
			}
			if _, err := os.Lstat(r.file("opt")); err == nil {
				t.Error("links for CNI plugins are there, and nobody asked")
			}
			r.release("v2")
			r.get("--cni")
			r.release("v3")
			if r.get("-t", "v3"); r.version() != "v3" {
				t.Errorf("after the upgrade: %s", r.version())
			}
			if _, err := os.Stat(r.file("usr/lib/monocrio/v1")); err == nil {
				t.Error("the version before the one before is still there")
			}
			if to, err := os.Readlink(r.file("opt/cni/bin/bridge")); err != nil || to != r.file("usr/lib/monocrio/current/bin/monocrio") {
				t.Errorf("the CNI plugin leads to %q, %v", to, err)
			}
			if r.installed("rollback"); r.version() != "v2" {
				t.Errorf("after the rollback: %s", r.version())
			}
			if r.installed("rollback"); r.version() != "v3" {
				t.Errorf("after the second rollback: %s", r.version())
			}
			r.installed("uninstall")
			r.same("uninstall", before)
		})
	}
}

// A file that somebody has changed stays, whatever comes and goes.
func TestChangedConfig(t *testing.T) {
	r := newRig(t)
	before := tree(t, r.file(""))
	r.release("v1")
	r.get()
	pristine := r.read("etc/crio/crio.conf")
	mine := "# mine\n" + pristine
	r.write("etc/crio/crio.conf", mine)
	r.release("v2", `echo "# of v2" >>etc/crio.conf; echo "# of v2" >>systemd/crio.service`)
	if out := r.get(); !strings.Contains(out, "crio.conf.new") {
		t.Errorf("the upgrade says %q", out)
	}
	if r.read("etc/crio/crio.conf") != mine {
		t.Error("the changed file was overwritten")
	}
	if r.read("etc/crio/crio.conf.new") != pristine+"# of v2\n" {
		t.Error("the file beside it is not the new version's")
	}
	if !strings.HasSuffix(r.read("usr/lib/systemd/system/crio.service"), "# of v2\n") {
		t.Error("the unit, which nobody has changed, is still the old one")
	}
	r.installed("rollback")
	if strings.HasSuffix(r.read("usr/lib/systemd/system/crio.service"), "# of v2\n") {
		t.Error("after the rollback the unit is still the new one")
	}
	if out := r.installed("uninstall"); !strings.Contains(out, "left: "+r.file("etc/crio/crio.conf")) {
		t.Errorf("uninstall does not say what it leaves: %q", out)
	}
	if r.read("etc/crio/crio.conf") != mine {
		t.Error("uninstall touched a changed file")
	}
	if err := os.RemoveAll(r.file("etc/crio")); err != nil {
		t.Fatal(err)
	}
	r.same("uninstall", before)
}

// Files that were there before belong to somebody else: they stay as they are, and after
// uninstall too.
func TestForeignConfig(t *testing.T) {
	r := newRig(t)
	r.write("etc/crio/crio.conf", "[crio]\n")
	r.write("etc/crictl.yaml", "timeout: 1\n")
	before := tree(t, r.file(""))
	r.release("v1")
	r.get()
	if r.read("etc/crio/crio.conf") != "[crio]\n" || r.read("etc/crictl.yaml") != "timeout: 1\n" {
		t.Error("a foreign file was overwritten")
	}
	if _, err := os.Stat(r.file("etc/crictl.yaml.new")); err == nil {
		t.Error("crictl.yaml, which is another program's, has one beside it")
	}
	r.read("etc/crio/crio.conf.new")
	r.get()
	r.installed("uninstall")
	r.same("uninstall", before)
}

func TestForeignProgram(t *testing.T) {
	r := newRig(t)
	r.write("usr/bin/conmon", "somebody's")
	r.release("v1")
	r.fails("a foreign conmon", 5, r.file("usr/bin/conmon"), nil)
}

// A version from which something runs is not removed: a daemon that was not restarted
// since two upgrades starts monitors from its own file.
func TestVersionInUse(t *testing.T) {
	r := newRig(t)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if sleep, err = filepath.EvalSymlinks(sleep); err != nil {
		t.Fatal(err)
	}
	r.release("v1", "cp "+sleep+" bin/monocrio")
	r.get()
	cmd := exec.Command(r.file("usr/lib/monocrio/v1/bin/monocrio"), "1000")
	cmd.Args[0] = "sleep"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for _, v := range []string{"v2", "v3", "v4"} {
		r.release(v)
		if out := r.get(); v != "v2" && !strings.Contains(out, "kept: version v1") {
			t.Errorf("the upgrade to %s says %q", v, out)
		}
	}
	if _, err := os.Stat(r.file("usr/lib/monocrio/v1/bin/monocrio")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(r.file("usr/lib/monocrio/v2")); err == nil {
		t.Error("v2, which nobody uses, is still there")
	}
	cmd.Process.Kill()
	cmd.Wait()
	r.get()
	if _, err := os.Stat(r.file("usr/lib/monocrio/v1")); err == nil {
		t.Error("v1 is there though nothing runs from it any more")
	}
}

// What an install that was killed has left does not hinder the next, nor outlive it.
func TestLeftovers(t *testing.T) {
	r := newRig(t)
	before := tree(t, r.file(""))
	r.release("v1")
	r.get()
	r.write("usr/lib/monocrio/.new.1/bin/monocrio", "half")
	if err := os.Truncate(r.file("usr/lib/monocrio/v1/bin/monocrio"), 3); err != nil {
		t.Fatal(err)
	}
	if r.get(); r.version() != "v1" {
		t.Errorf("a damaged version was not mended: %s", r.version())
	}
	r.installed("uninstall")
	r.same("uninstall", before)
}

// Killed before any of the programs that it calls, an install is gone on with by the
// next one; before that the version that was there works, and what is left is undone.
func TestKilled(t *testing.T) {
	for _, c := range []struct {
		name string
		step int
	}{{"first install", 7}, {"upgrade", 3}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.mkdir("machine/usr/lib")
			before := tree(t, r.file(""))
			r.release("v1")
			bundle := func(version string) string {
				dir := filepath.Join(r.dir, "unpacked-"+version)
				r.sh(`mkdir -p "$2"; tar -xzf "$1" -C "$2"`, filepath.Join(r.site, "download", version, "monocrio."+r.arch+"."+version+".tar.gz"), dir)
				return filepath.Join(dir, "monocrio")
			}
			r.release("v2", "echo '# of v2' >>etc/crio.conf; echo '# of v2' >>systemd/crio.service")
			v1, v2 := bundle("v1"), bundle("v2")
			run := func(script string) {
				t.Helper()
				if out, code := r.run(nil, script); code != 0 {
					t.Fatalf("%s: status %d: %s", script, code, out)
				}
			}
			finished := false
			for n := 2; !finished; n += c.step {
				if c.name == "upgrade" {
					run(filepath.Join(v1, "install"))
				}
				r.killing(n)
				cmd := exec.Command("sh", "-c", `echo $$ >"$1"/pid; exec sh "$2"/install`, "sh", r.dir, v2)
				cmd.Env = append(r.env(), "PATH="+filepath.Join(r.dir, "tools-that-kill")+":"+r.path)
				finished = cmd.Run() == nil
				if _, err := os.Lstat(r.file("usr/bin/crio")); err == nil || c.name == "upgrade" {
					if v := r.version(); v != "v1" && v != "v2" {
						t.Errorf("killed at call %d: %s", n, v)
					}
				}
				if n%2 == 0 { // gone on with, else undone as it is
					run(filepath.Join(v2, "install"))
					if v := r.version(); v != "v2" || !strings.HasSuffix(r.read("etc/crio/crio.conf"), "# of v2\n") {
						t.Errorf("killed at call %d and gone on with: %s", n, v)
					}
				}
				if _, err := os.Stat(r.file("usr/lib/monocrio/manifest")); err == nil {
					run(filepath.Join(v2, "uninstall"))
				} else { // killed before it had begun
					r.sh(`rm -rf "$1" "$1.lock"`, r.file("usr/lib/monocrio"))
				}
				if r.same("killed and uninstalled", before); t.Failed() {
					t.Fatalf("killed at call %d", n)
				}
			}
		})
	}
}

// fails runs get, which must end with the status, say one line with the text, and have
// changed nothing.
func (r *rig) fails(what string, status int, text string, as *syscall.Credential, args ...string) {
	r.t.Helper()
	before := tree(r.t, r.file(""))
	out, code := r.run(as, filepath.Join(root, "scripts/get"), args...)
	if code != status || strings.Count(strings.TrimSpace(out), "\n") != 0 || !strings.Contains(out, text) {
		r.t.Errorf("%s: status %d, want %d and one line with %q:\n%s", what, code, status, text, out)
	}
	r.same(what, before)
}

func TestFailures(t *testing.T) {
	for _, not := range []string{"wget", "curl"} {
		t.Run("without "+not, func(t *testing.T) {
			r := newRig(t)
			r.without(not)
			r.fails("no release", 3, "there is no release", nil)
			r.release("v1")
			r.get()
			file := r.release("v2")
			r.cut = true
			r.fails("a cut download", 1, "v2.tar.gz", nil)
			r.cut = false
			r.fails("an unknown tag", 3, "there is no release v9", nil, "-t", "v9")
			other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[r.arch]
			r.fails("a missing architecture", 3, "no bundle for "+other, nil, "-a", other)
			r.fails("a wrong architecture", 2, "m68k", nil, "-a", "m68k")
			r.fails("a tag that is a path", 2, "../v1", nil, "-t", "../v1")
			r.fails("an option without value", 2, "-t needs a value", nil, "-t")
			r.fails("an unknown option", 2, "--fast", nil, "--fast")
			r.fails("no server", 1, "127.0.0.1:1", nil, "--base-url", "http://127.0.0.1:1")
			r.fails("no file", 2, "/nowhere", nil, "--file", "/nowhere")
			sum := file + ".sha256sum"
			r.sh(`sed -i 's/^..../0000/' "$1"`, sum)
			r.fails("a wrong checksum", 4, "0000", nil)
			r.fails("a wrong checksum beside a file", 4, "0000", nil, "--file", file)
			r.sh(`echo hm >"$1"`, sum)
			r.fails("no checksum in the file", 4, "holds no checksum", nil)
			r.sh(`rm "$1"`, sum)
			r.fails("no checksum", 4, "copy it too", nil, "--file", file)
			r.sh(`cd "${1%/*}" && head -c 3000 <"$1" >cut && mv cut "$1" && sha256sum "${1##*/}" >"$1.sha256sum"`, file)
			r.fails("a damaged tarball", 4, "cannot unpack", nil)
			r.without("tar")
			r.fails("no tar", 1, "tar, which is not installed", nil)
			if v := r.version(); v != "v1" {
				t.Errorf("after all that: %s", v)
			}
		})
	}
}

// By a copied file, and by a pipe that breaks.
func TestFileAndPipe(t *testing.T) {
	r := newRig(t)
	before := tree(t, r.file(""))
	file := r.release("v1")
	if err := os.RemoveAll(filepath.Join(r.site, "latest")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(r.dir, "copied")
	r.get("-t", "v1", "-d", out)
	r.same("-d", before)
	r.without("curl")
	if err := os.Remove(filepath.Join(r.path, "wget")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if r.get("--file", filepath.Join(out, filepath.Base(file))); r.version() != "v1" {
		t.Errorf("installed is %s", r.version())
	}
	r.installed("uninstall")
	r.same("uninstall", before)
	script, err := os.ReadFile(filepath.Join(root, "scripts/get"))
	if err != nil {
		t.Fatal(err)
	}
	for _, shell := range []string{"sh", "bash"} {
		for n := len(script) / 10; n < len(script)-len("main \"$@\"\nexit\n"); n += len(script) / 10 {
			cmd := exec.Command(shell, "-s", "--", "--file", file)
			cmd.Env, cmd.Stdin = r.env(), strings.NewReader(string(script[:n]))
			_ = cmd.Run() // half a script may be a syntax error
			r.same("half a script", before)
		}
		cmd := exec.Command(shell, "-s", "--", "--file", file)
		cmd.Env, cmd.Stdin = r.env(), strings.NewReader(string(script))
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("| %s: %v\n%s", shell, err, text)
		}
		r.installed("uninstall")
		r.same("uninstall", before)
	}
}

// mount puts a small file system on a folder of the rig.
func (r *rig) mount(dir, size string) {
	r.t.Helper()
	if os.Geteuid() != 0 {
		r.t.Skip("mounts need root")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func TestFullDisk(t *testing.T) {
	big := "head -c 4000000 /dev/zero >bin/monocrio"
	t.Run("temporary files", func(t *testing.T) {
		r := newRig(t)
		r.release("v1", "head -c 4000000 /dev/urandom >bin/monocrio")
		r.mount(filepath.Join(r.dir, "tmp"), "1m")
		r.fails("a full disk", 5, "full", nil)
	})
	t.Run("unpacking", func(t *testing.T) {
		r := newRig(t)
		r.release("v1", big)
		r.mount(filepath.Join(r.dir, "tmp"), "1m")
		r.fails("a full disk", 5, "full", nil)
	})
	for name, size := range map[string]string{"first": "1m", "second": "5m"} {
		t.Run(name+" version", func(t *testing.T) {
			r := newRig(t)
			r.mount(r.file("usr"), size)
			if name == "second" {
				r.release("v1", big)
				r.get()
			}
			r.release("v2", big)
			r.fails("a full disk", 5, "No space left", nil)
		})
	}
	t.Run("configuration", func(t *testing.T) {
		r := newRig(t)
		r.release("v1")
		r.mount(r.file("etc"), "8k")
		r.fails("a full disk", 5, "No space left", nil)
	})
}

func TestReadOnly(t *testing.T) {
	for _, dir := range []string{"usr", "etc"} {
		r := newRig(t)
		r.release("v1")
		r.mount(r.file(dir), "1m")
		if err := unix.Mount("", r.file(dir), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		r.fails("a read-only "+dir, 5, "read-only", nil)
	}
}

func TestNotRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("another user is taken by root only")
	}
	r := newRig(t)
	r.release("v1")
	for dir := r.dir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script, err := os.ReadFile(filepath.Join(root, "scripts/get"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "get"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	before := tree(t, r.file(""))
	out, code := r.run(&syscall.Credential{Uid: 65534, Gid: 65534}, filepath.Join(r.dir, "get"))
	if code != 5 || !strings.Contains(out, "not root") || strings.Count(strings.TrimSpace(out), "\n") != 0 {
		t.Errorf("status %d: %s", code, out)
	}
	r.same("not root", before)
}
