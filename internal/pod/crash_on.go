//go:build crashpoints

package pod

import (
	"os"
	"strings"
	"syscall"
)

// crashPoint kills the daemon, as power or an operator would, when the environment
// names this point: MONOCRIO_CRASH=container.rootfs.after-up. A build with the tag
// crashpoints serves the tests of recovery.
func crashPoint(kind, step, when string) {
	if os.Getenv("MONOCRIO_CRASH") == strings.Join([]string{kind, step, when}, ".") {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
