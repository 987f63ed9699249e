// Command monocrio turns a Linux machine into a Kubernetes node runtime.
//
// It is one executable with many applets: crio, conmon, pinns, runc, the CNI
// plugins, ... Which one runs is decided by the table in package applets.
package main

import (
	"os"

	_ "github.com/opencontainers/runc/libcontainer/nsenter" // C: runs first when libcontainer starts us as "init"

	"github.com/monocrio/monocrio/applets"
	_ "github.com/monocrio/monocrio/applets/early"           // the monitor, before all else
	_ "github.com/monocrio/monocrio/applets/early/initstage" // libcontainer's child
	_ "github.com/monocrio/monocrio/applets/early/runc"      // the OCI runtime
	_ "github.com/monocrio/monocrio/applets/early/shimrun"   // the one over shims
)

func main() { os.Exit(applets.Main(os.Args)) }
