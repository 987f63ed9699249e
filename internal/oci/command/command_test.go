package command_test

import (
	"os/exec"
	"testing"

	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/command"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
)

func TestContractRunc(t *testing.T) { contract(t, "runc") }

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
