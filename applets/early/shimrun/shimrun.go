// Package shimrun starts the command line between monitors and shims before most of
// the executable is initialised.
//
// It runs twice for each container of a virtual machine, and once more for as long as
// the container does. Like package runc, after which it stands so that runc need not
// wait for more, it is deletable: the applet table lists the same function.
package shimrun

import (
	"os"
	"path/filepath"
	"strings"

	_ "github.com/monocrio/monocrio/applets/early/runc" // first
	"github.com/monocrio/monocrio/applets/shimrun"
)

func init() {
	args := os.Args
	if len(args) > 1 && strings.HasPrefix(filepath.Base(args[0]), "monocrio") {
		args = args[1:]
	}
	if len(args) > 0 && filepath.Base(args[0]) == "shimrun" {
		os.Exit(shimrun.Main(args))
	}
}
