// Package runc starts the OCI runtime's command line before most of the executable
// is initialised.
//
// A runtime runs for each container that is created, as the monitor's child, and
// needs libcontainer and little else. Like package initstage, on which it waits
// because libcontainer's child may bear the runtime's name, it is deletable: the
// applet table lists the same function.
package runc

import (
	"os"
	"path/filepath"
	"strings"

	_ "github.com/monocrio/monocrio/applets/early/initstage" // decides first
	"github.com/monocrio/monocrio/applets/runc"
)

func init() {
	args := os.Args
	if len(args) > 1 && strings.HasPrefix(filepath.Base(args[0]), "monocrio") {
		args = args[1:]
	}
	if len(args) > 0 && filepath.Base(args[0]) == "runc" {
		os.Exit(runc.Main(args))
	}
}
