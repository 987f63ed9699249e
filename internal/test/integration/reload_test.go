package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func setFile(t *testing.T, path, text string) {
	t.Helper()
	replace(t, path, []byte(text))
}

// logged waits for a line of the daemon's log after the first from bytes.
func logged(w *world.World, from int, parts ...string) {
	w.T.Helper()
	w.Eventually(strings.Join(parts, " ")+" in the log", func() bool {
		for line := range strings.Lines(w.Log()[from:]) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// A changed file counts at once; what is not live stays and is told; what is wrong
// changes nothing at all, neither at SIGHUP nor by itself.
//
// Options: crio.runtime.default_env, crio.runtime.log_level
func TestReload(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	base := w.ConfText()
	pod := w.Pod("reload", nil)
	env := func(name string) string {
		out, _ := w.Output(pod, name, "echo \"$A\"", nil)
		return strings.TrimSpace(out)
	}
	at := len(w.Log())
	setFile(t, w.Conf, base+"[crio.runtime]\ndefault_env = [\"A=1\"]\npids_limit = 77\ndisable_hostport_mapping = true\n")
	logged(w, at, "configuration reloaded", "changed=\"crio.runtime.default_env crio.runtime.pids_limit\"", "needRestart=crio.runtime.disable_hostport_mapping")
	if got := env("one"); got != "1" {
		t.Errorf("A=%q after the reload", got)
	}

	at = len(w.Log())
	profile := filepath.Join(w.Dir, "profile")
	if err := os.Mkdir(profile, 0o700); err != nil { // a folder is no profile
		t.Fatal(err)
	}
	bad := base + "[crio.runtime]\ndefault_env = [\"A=2\"]\nlog_level = \"debug\"\nseccomp_profile = \"" + profile + "\"\n"
	setFile(t, w.Conf, bad)
	logged(w, at, "the present one stays", "seccomp_profile")
	at = len(w.Log())
	setFile(t, w.Conf, base+"[crio.runtime]\ndefault_env = [\"A=2\"]\nlog_level = \"loud\"\n")
	logged(w, at, "the present one stays", w.Conf+":", "log_level", "loud", "allowed are")
	if got := env("two"); got != "1" || strings.Contains(w.Log()[at:], "level=DEBUG") {
		t.Errorf("A=%q after a reload that was refused", got)
	}

	at = len(w.Log())
	w.Signal(syscall.SIGHUP)
	logged(w, at, "the present one stays", "loud")
	at = len(w.Log())
	setFile(t, w.Conf, base+"[crio.runtime]\ndefault_env = [\"A=3\"]\nlog_level = \"debug\"\n")
	w.Signal(syscall.SIGHUP)
	logged(w, at, "configuration reloaded", "default_env", "log_level")
	if got := env("three"); got != "3" || !strings.Contains(w.Log()[at:], "level=DEBUG") {
		t.Errorf("A=%q after SIGHUP", got)
	}
}

// Drop-ins come and go while the daemon runs, in folders that come too.
func TestReloadDropIns(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	drop := filepath.Join(w.Dir, "drop")
	w.Args = []string{"-d", drop}
	w.Start()
	w.Pull()
	pod := w.Pod("drop", nil)
	for _, c := range []struct{ file, text, want string }{
		{"50-a", "[crio.runtime]\ndefault_env = [\"A=1\"]\n", "1"}, {"later/x", "[crio.runtime]\ndefault_env = [\"A=2\"]\n", "2"},
		{"50-a", "", "2"}, {"later/x", "", ""},
	} {
		at, path := len(w.Log()), filepath.Join(drop, c.file)
		if c.text == "" {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		} else {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			setFile(t, path, c.text)
		}
		if c.file != "50-a" || c.text != "" { // the other file still wins
			logged(w, at, "configuration reloaded", "default_env")
		}
		if out, _ := w.Output(pod, "c-"+strings.ReplaceAll(c.file, "/", "-")+c.want, "echo \"$A\"", nil); strings.TrimSpace(out) != c.want {
			t.Errorf("%s = %q: A=%q, want %q", c.file, c.text, out, c.want)
		}
	}
}

// Handlers come and go; one that pods use cannot go, as nobody could end them.
//
// Options: crio.runtime.default_runtime, crio.runtime.runtimes.NAME.runtime_root
func TestReloadHandlers(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	base := w.ConfText()
	second := "[crio.runtime.runtimes.second]\nruntime_path = \"" + filepath.Join(w.Dir, "run/bin/runc") + "\"\n"
	at := len(w.Log())
	setFile(t, w.Conf, base+second+"[crio.runtime]\ndefault_runtime = \"second\"\n")
	logged(w, at, "configuration reloaded", "crio.runtime.runtimes.second", "crio.runtime.default_runtime")
	pod := w.Pod("second", nil)
	st, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil || st.GetStatus().GetRuntimeHandler() != "second" {
		t.Fatal(st, err)
	}
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)

	at = len(w.Log())
	setFile(t, w.Conf, base)
	logged(w, at, "the present one stays", "runtimes.second", "1 pods use it")
	at = len(w.Log())
	setFile(t, w.Conf, base+second+"runtime_root = \""+w.Dir+"/elsewhere\"\n")
	logged(w, at, "the present one stays", "runtimes.second", "runtime_root")
	if out, _ := w.Exec(ctr, "echo alive"); out != "alive" {
		t.Errorf("the container of a handler that was to go says %q", out)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	at = len(w.Log())
	setFile(t, w.Conf, base)
	w.Signal(syscall.SIGHUP)
	logged(w, at, "configuration reloaded", "crio.runtime.runtimes.second")
	if _, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("gone"), RuntimeHandler: "second"}); err == nil {
		t.Error("a handler that is gone still makes pods")
	}
}

// registries.conf and its drop-ins count at once; a broken one does not.
//
// Options: crio.image.registries_conf, crio.image.registries_conf_dir, crio.image.pinned_images
func TestReloadRegistries(t *testing.T) {
	w := world.New(t, world.Options{})
	path := filepath.Join(w.Dir, "registries.conf")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pull := func() error {
		_, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Image}})
		return err
	}
	at := len(w.Log())
	setFile(t, path, string(good)+"blocked = true\n")
	logged(w, at, "configuration reloaded", "registries.conf")
	if err := pull(); err == nil || !strings.Contains(err.Error(), "registries.conf blocks") {
		t.Errorf("a registry that is blocked now: %v", err)
	}
	at = len(w.Log())
	setFile(t, path, "[[registry]]\nlocation = 5\n")
	logged(w, at, "the present one stays", "registries.conf")
	if err := pull(); err == nil || !strings.Contains(err.Error(), "registries.conf blocks") {
		t.Errorf("after a broken file: %v", err)
	}
	at = len(w.Log())
	setFile(t, path, string(good))
	logged(w, at, "configuration reloaded", "registries.conf")
	if err := pull(); err != nil {
		t.Error(err)
	}
	at = len(w.Log())
	setFile(t, w.Conf, strings.Replace(w.ConfText(), "[crio.image]\n", "[crio.image]\npinned_images = [\"*busybox*\"]\n", 1))
	logged(w, at, "configuration reloaded", "pinned_images")
	st, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: w.Image}})
	if err != nil || !st.GetImage().GetPinned() {
		t.Errorf("after the reload the image is not pinned: %v, %v", st, err)
	}
}
