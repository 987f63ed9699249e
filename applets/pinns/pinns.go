// Package pinns is the row of the applet table for pinns, whose work is done in C
// before Go begins, on one thread: see package ctor.
package pinns

import (
	"fmt"
	"os"
	"syscall"
)

// Main executes the file again under the plain name, which the C start level
// knows; it runs only where that level did not know the name.
func Main(args []string) int {
	err := error(syscall.ENOSYS)
	if os.Getenv("_MONOCRIO_AGAIN") == "" {
		err = syscall.Exec("/proc/self/exe", append([]string{"pinns"}, args[1:]...), append(os.Environ(), "_MONOCRIO_AGAIN=1"))
	}
	fmt.Fprintf(os.Stderr, "[pinns:e]: cannot execute own file again: %v\n", err)
	return 1
}
