package libct_test

import (
	"os"
	"runtime"
	"testing"

	_ "github.com/opencontainers/runc/libcontainer/nsenter"

	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/libct"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
)

// TestMain is the start of a program that hosts the runtime.
func TestMain(m *testing.M) {
	if libct.IsInit(os.Args) {
		libct.Init()
	}
	runtime.LockOSThread() // see the package's comment
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	ocitest.Run(t, func(_ *testing.T, root string) oci.Runtime {
		return libct.New(libct.Options{Root: root})
	})
}

func TestContractV2(t *testing.T) { ocitest.Again(t, ocitest.V2, "TestContract") }
