package command_test

import (
	"os/exec"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/command"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
)

func TestContractRunc(t *testing.T) { contract(t, "runc") }

func TestContractCrun(t *testing.T) {
	if cgroup.Mode() == cgroup.Hybrid {
		t.Skip("crun refuses hosts with both cgroup versions; see TestContractCrunV1")
	}
	contract(t, "crun")
}

func contract(t *testing.T, name string) {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ocitest.Run(t, func(t *testing.T, root string) oci.Runtime {
		r, err := command.New(command.Options{Path: path, Name: name, Root: root, Temp: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}

func TestContractV2(t *testing.T) { ocitest.Again(t, ocitest.V2, "TestContractRunc") }

// TestContractCrunV1 makes a host that crun takes: version 1.8.1 refuses hybrid
// ones, and on version 2 it wants to raise RLIMIT_MEMLOCK.
func TestContractCrunV1(t *testing.T) { ocitest.Again(t, ocitest.V1, "TestContractCrun") }
