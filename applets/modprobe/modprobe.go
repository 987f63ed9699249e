// Package modprobe is the applet by which the kernel loads its modules on an appliance,
// when it meets a file system, kind of link or packet filter that it does not know.
package modprobe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/monocrio/monocrio/internal/linux/module"
)

// Main runs the applet: modprobe [-q] [--] NAME...
func Main(args []string) int {
	quiet, names := false, []string(nil)
	for _, a := range args[1:] {
		switch {
		case a == "-q":
			quiet = true
		case a == "--":
		case strings.HasPrefix(a, "-"):
			fmt.Fprintf(os.Stderr, "modprobe: there is no option %s; usage: modprobe [-q] NAME...\n", a)
			return 2
		default:
			names = append(names, a)
		}
	}
	tree, err := module.Running()
	if err != nil {
		fmt.Fprintln(os.Stderr, "modprobe:", err)
		return 1
	}
	status := 0
	for _, n := range names {
		err := tree.Load(n)
		if err == nil {
			continue
		}
		status = 1
		if !quiet || !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
		}
	}
	return status
}
