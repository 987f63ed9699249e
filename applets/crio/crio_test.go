package crio

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the manual pages of docs/ anew")

func tree() *cobra.Command { return (&command{flags: config.Default()}).tree() }

// run is one command line, and what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := tree()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

// The manual pages in docs/ are those that the declarations give now.
func TestManualPages(t *testing.T) {
	for name, file := range map[string]string{"crio": "crio.8.md", "crio.conf": "crio.conf.5.md", "crio.conf.d": "crio.conf.d.5.md"} {
		got, err := run(t, "markdown", name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("../../docs", file)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != got {
			t.Errorf("%s is not what `crio markdown %s` prints (%v); go test ./applets/crio -update writes it", path, name, err)
		}
	}
}

// groff accepts the pages without a warning, and shows each flag and each option.
func TestManPages(t *testing.T) {
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("there is no groff on this machine")
	}
	texts := map[string]string{}
	for _, name := range pageNames {
		page, err := run(t, "man", name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("groff", "-man", "-Tascii", "-P-cbou", "-ww", "-rLL=200n")
		cmd.Stdin = strings.NewReader(page)
		var out, warnings bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &warnings
		if err := cmd.Run(); err != nil || warnings.Len() > 0 {
			t.Errorf("%s: %v: %s", name, err, warnings.String())
		}
		texts[name] = out.String()
	}
	for _, o := range config.All() {
		if o.Flag != "" && !strings.Contains(texts["crio"], "--"+o.Flag) {
			t.Errorf("crio(8) lacks --%s", o.Flag)
		}
		if o.Key != "" && !strings.Contains(texts["crio.conf"], o.Key+" = ") {
			t.Errorf("crio.conf(5) lacks %s", o.Name())
		}
	}
}

// Each shell accepts its script; those that are here are asked.
func TestCompletion(t *testing.T) {
	for shell, check := range map[string][]string{"bash": {"bash", "-n"}, "zsh": {"zsh", "-n"}, "fish": {"fish", "-n"}} {
		script, err := run(t, "completion", shell)
		if err != nil || !strings.Contains(script, "__complete") {
			t.Fatalf("%s: %v: %.100s", shell, err, script)
		}
		if _, err := exec.LookPath(check[0]); err != nil {
			continue
		}
		path := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(check[0], append(check[1:], path)...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", shell, err, out)
		}
	}
	if out, err := run(t, "__complete", "--log-l"); err != nil || !strings.Contains(out, "--log-level") {
		t.Errorf("completion of --log-l: %v: %s", err, out)
	}
	if _, err := run(t, "complete", "tcsh"); err == nil || !strings.Contains(err.Error(), "tcsh") {
		t.Errorf("a shell that we do not know: %v", err)
	}
}

func TestVersion(t *testing.T) {
	text, err := run(t, "version")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"Version:", "GitCommit:", "GitCommitDate:", "GitTreeState:", "BuildDate:", "GoVersion:", "Compiler:", "Platform:",
		"Linkmode:", "BuildTags:", "LDFlags:", "SeccompEnabled:", "AppArmorEnabled:"} {
		if !strings.Contains(text, key) {
			t.Errorf("no %s in\n%s", key, text)
		}
	}
	text, err = run(t, "version", "--json", "-v")
	var v map[string]any
	if err != nil || json.Unmarshal([]byte(text), &v) != nil || v["version"] == "" || v["goVersion"] == "" || v["linkmode"] == "" {
		t.Errorf("%v: %s", err, text)
	}
}

// A word too many is an error that names it.
func TestStrayWords(t *testing.T) {
	for _, args := range [][]string{{"serve"}, {"config", "now"}, {"version", "2"}} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), args[len(args)-1]) {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// Flags of the daemon stand before the command; one that stands behind it is told.
func TestMisplacedFlag(t *testing.T) {
	if _, err := run(t, "config", "--log-level", "debug"); err == nil || !strings.Contains(err.Error(), "before the command") {
		t.Error(err)
	}
	if _, err := run(t, "--log-levle", "debug"); err == nil || !strings.Contains(err.Error(), "--log-levle") {
		t.Error(err)
	}
}

// What storage.conf says counts where nothing else says it.
func TestStorageConf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("CONTAINERS_STORAGE_CONF", write("storage.conf", "[storage]\ndriver = \"vfs\"\ngraphroot = \"/g\"\nrunroot = \"/r\"\n[storage.options.overlay]\nmountopt = \"nodev\"\n"))
	text, err := run(t, "--runroot", "/mine", "config")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nroot = \"/g\"\n", "\nrunroot = \"/mine\"\n", "\nstorage_driver = \"vfs\"\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	write("storage.conf", "[storage]\ndriver = \"btrfs\"\n")
	if _, err := run(t, "config"); err == nil || !strings.Contains(err.Error(), "storage.conf: [crio] storage_driver = \"btrfs\"") {
		t.Errorf("a driver that is not built in: %v", err)
	}
	write("storage.conf", "[storage\n")
	if _, err := run(t, "config"); err == nil || !strings.Contains(err.Error(), "storage.conf") {
		t.Errorf("a broken file: %v", err)
	}
	t.Setenv("CONTAINERS_STORAGE_CONF", "/dev/null")
	if text, err := run(t, "config"); err != nil || strings.Contains(text, "\nroot = ") {
		t.Errorf("without: %v\n%s", err, text)
	}
}

// What `crio config` prints follows from file, environment and flags, in this order.
func TestConfigCommand(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "crio.conf")
	if err := os.WriteFile(conf, []byte("[crio.runtime]\nlog_level = \"debug\"\npids_limit = 5\n[crio.api]\nstream_port = \"7\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONTAINER_PIDS_LIMIT", "6")
	t.Setenv("CONTAINER_STREAM_PORT", "8")
	text, err := run(t, "-c", conf, "--stream-port", "9", "--tz=UTC", "config")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\nlog_level = \"debug\"\n", "\npids_limit = 6\n", "\nstream_port = \"9\"\n", "\ntimezone = \"UTC\"\n", "\n# root = "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if _, err := run(t, "-c", conf, "--pids-limit", "0", "config"); err == nil || !strings.Contains(err.Error(), "--pids-limit") {
		t.Errorf("a wrong flag: %v", err)
	}
	t.Setenv("CONTAINER_PIDS_LIMIT", "-7")
	if _, err := run(t, "-c", conf, "config"); err == nil || !strings.Contains(err.Error(), "CONTAINER_PIDS_LIMIT") {
		t.Errorf("a wrong variable: %v", err)
	}
	text, err = run(t, "config", "--default")
	if err != nil || strings.Contains(text, "\nlog_level") || !strings.Contains(text, "\n# log_level = \"info\"\n") {
		t.Errorf("the defaults: %v\n%s", err, text)
	}
}
