package status

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the manual page of docs/ anew")

func run(t *testing.T, args ...string) string {
	t.Helper()
	root := tree()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out.String()
}

// TestManualPage: the page in docs/ is the one that the declarations give now, and
// groff accepts it.
func TestManualPage(t *testing.T) {
	const path = "../../docs/crio-status.8.md"
	got := run(t, "markdown")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || string(want) != got {
		t.Errorf("%s is not what `crio-status markdown` prints (%v); go test ./applets/status -update writes it", path, err)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("there is no groff on this machine")
	}
	cmd := exec.Command("groff", "-man", "-Tascii", "-P-cbou", "-ww", "-rLL=200n")
	cmd.Stdin = strings.NewReader(run(t, "man"))
	var out, warnings bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 || !strings.Contains(out.String(), "--socket") || !strings.Contains(out.String(), "why ID") {
		t.Errorf("%v: %s\n%s", err, warnings.String(), out.String())
	}
}

// TestNames: each command answers to the names that people know.
func TestNames(t *testing.T) {
	root := tree()
	for _, names := range []string{"config c", "containers container cs s", "info i", "goroutines g", "heap hp", "completion complete", "help h", "man", "markdown md", "pods", "why", "pulls"} {
		for _, n := range strings.Fields(names) {
			cmd, _, err := root.Find([]string{n})
			if err != nil || cmd.Name() != strings.Fields(names)[0] {
				t.Errorf("%s is %v, %v", n, cmd.Name(), err)
			}
		}
	}
	for _, shell := range []string{"bash", "fish", "zsh"} {
		if out := run(t, "complete", shell); !strings.Contains(out, name) {
			t.Errorf("%s: %.200s", shell, out)
		}
	}
}
