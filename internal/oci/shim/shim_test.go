package shim_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/monocrio/monocrio/applets/shimrun"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
	"github.com/monocrio/monocrio/internal/oci/shim"
	"github.com/monocrio/monocrio/internal/test/fakeshim"
)

// TestMain is, besides the tests, the two executables that they need.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "shimrun" {
		os.Exit(shimrun.Main(os.Args))
	}
	if code, is := fakeshim.Main(os.Args); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// newRuntime is a runtime over the fake shim.
func newRuntime(t *testing.T, root string) oci.Runtime {
	bin := t.TempDir()
	path, err := fakeshim.Install(bin)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(bin, "shimrun"))
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := shim.New(shim.Options{Path: path, Name: "fake", Root: root, Self: filepath.Join(bin, "shimrun")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestContract(t *testing.T) {
	ocitest.Run(t, newRuntime,
		ocitest.Unfit{Case: "Descriptors", Reason: "no descriptor goes into a machine"},
		ocitest.Unfit{Case: "Stats", Reason: "it counts processes, and those in a machine are not ours"},
		ocitest.Unfit{Case: "ExecBackground", Reason: "as Stats; see TestBackground"},
	)
}
