package structure

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestLinked: the packages of others in the executable, and all but the runtime's
// own in the smallest rooms.
func TestLinked(t *testing.T) {
	golden(t, "executable.txt", deps(t, ".", false))
	for _, r := range []string{"applets/conmon", "internal/monitor", "internal/linux/namespace"} {
		golden(t, strings.ReplaceAll(r, "/", "-")+".txt", deps(t, "./"+r, true))
	}
}

// deps lists what a package draws in. What is below internal/ and vendor/ of the
// standard library differs between versions of Go, so it is left out.
func deps(t *testing.T, of string, standard bool) []string {
	t.Helper()
	var out []string
	for _, l := range strings.Fields(string(goList(t, "-deps", "-f", "{{.ImportPath}}:{{.Standard}}", of))) {
		path, std, _ := strings.Cut(l, ":")
		switch {
		case std == "false" && (standard || !strings.HasPrefix(path, module)):
			out = append(out, path)
		case std == "true" && standard && !slices.Contains(strings.Split(path, "/"), "internal") && !strings.HasPrefix(path, "vendor/"):
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// atStart are our packages that may do something when they are linked; each stays
// below ownBytes.
var atStart = []string{
	"applets/early",           // runs the monitor
	"applets/early/initstage", // runs libcontainer's stage
	"applets/early/runc",      // runs the OCI runtime's command line
	"applets/early/shimrun",   // runs the one over shims
	"internal/config",         // values of errors
	"internal/linux/cgroup",
	"internal/daemon",
}

const (
	ownBytes   = 256
	bytesTotal = 2200 << 10 // of heap, by all packages, when main begins; prometheus takes 100, the messages of shims 77
	bytesNamed = 12500      // a package that takes more is in testdata/start.txt
)

// TestInit reads the runtime's trace of the executable's start.
func TestInit(t *testing.T) {
	cmd := exec.Command(executable(t), "--list")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace strings.Builder
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err, trace.String())
	}
	total, count := 0, 0
	var heavy []string
	for line := range strings.Lines(trace.String()) { // init PACKAGE @0.1 ms, 0.1 ms clock, 312 bytes, 7 allocs
		f := strings.Fields(line)
		if len(f) < 9 || f[0] != "init" {
			continue
		}
		n, err := strconv.Atoi(f[7])
		if err != nil {
			t.Fatal(line, err)
		}
		total += n
		count++
		name, own := strings.CutPrefix(f[1], module+"/")
		own = own || name == nested
		switch {
		case own && !slices.Contains(atStart, name):
			t.Errorf("%s does work when it is linked: %s", name, line)
		case own && n > ownBytes:
			t.Errorf("%s takes %d bytes when it is linked, limit %d", name, n, ownBytes)
		case !own && n > bytesNamed && strings.Contains(f[1], "."):
			heavy = append(heavy, f[1])
		}
	}
	slices.Sort(heavy)
	golden(t, "start.txt", heavy)
	t.Logf("%d packages, %d bytes", count, total)
	if count < 100 {
		t.Errorf("the trace names %d packages only", count)
	}
	if total > bytesTotal {
		t.Errorf("%d bytes of heap before main, limit %d", total, bytesTotal)
	}
}

const maxSize = 60 << 20

// TestSize: the executable stays small enough to be carried to every node.
func TestSize(t *testing.T) {
	fi, err := os.Stat(executable(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB", float64(fi.Size())/1e6)
	if fi.Size() > maxSize {
		t.Errorf("%d bytes, limit %d", fi.Size(), maxSize)
	}
}

// built is the executable of this test run.
var built string

func executable(t *testing.T) string {
	t.Helper()
	if b := os.Getenv("MONOCRIO_BIN"); b != "" {
		return b
	}
	if built == "" {
		built = filepath.Join(temp, "monocrio")
		cmd := exec.Command("scripts/build", "-o", built)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("scripts/build: %v\n%s", err, out)
		}
	}
	return built
}

var temp string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "monocrio-structure-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	temp = dir
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}
