// Package initstage runs libcontainer's second stage, the process that becomes the
// container's.
//
// libcontainer starts this executable again with "init" as the first argument and
// a pipe in the environment, and that process already counts against the
// container's memory limit. So the stage runs from an init function, as runc's own
// does, in a package that imports next to nothing else: it is ready as soon as
// libcontainer is, before most of the executable is initialised.
package initstage

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // C that runs before this
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		libcontainer.Init() // does not return
	}
}
