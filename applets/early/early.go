//go:build !nearly

// Package early is the vestibule: it runs the monitor before the executable's
// heavy packages are initialised, so that a monitor never pays for them.
//
// It imports nothing but lean rooms on package syscall, and scripts/order moves it,
// with what it imports, to the front of the order of initialisation. It may be
// deleted: the applet table lists the same function. The build tag nearly leaves
// it out, for the tests that show both.
package early

import (
	"syscall"

	"github.com/monocrio/monocrio/applets/conmon"
	"github.com/monocrio/monocrio/applets/early/ctor"
)

func init() {
	if args := ctor.Args(); args != nil {
		syscall.Exit(conmon.Main(args))
	}
}
