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
	if cgroup.Mode() != cgroup.V2 {
		// Version 1.8.1 says "hybrid hierarchies" are not supported and means it.
		t.Skipf("crun needs pure cgroup v2, this host has %s", cgroup.Mode())
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
