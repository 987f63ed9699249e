// Package pause is the row of the applet table for pause, whose work is done in C
// before Go begins: see package ctor.
package pause

import (
	"fmt"
	"os"
	"syscall"

	"github.com/monocrio/monocrio/internal/version"
)

// Main prints the version for -v. Else it executes the file again under the plain
// name, which the C start level knows.
func Main(args []string) int {
	if len(args) == 2 && (args[1] == "-v" || args[1] == "--version") {
		fmt.Printf("pause.c monocrio-%s\n", version.Version)
		return 0
	}
	if len(args) > 1 {
		fmt.Fprintln(os.Stderr, "usage: pause [-v]\nreaps orphans until TERM or INT")
		return 2
	}
	err := error(syscall.ENOSYS)
	if os.Getenv("_MONOCRIO_AGAIN") == "" {
		err = syscall.Exec("/proc/self/exe", []string{"pause"}, append(os.Environ(), "_MONOCRIO_AGAIN=1"))
	}
	fmt.Fprintf(os.Stderr, "pause: cannot execute own file again: %v\n", err)
	return 1
}
