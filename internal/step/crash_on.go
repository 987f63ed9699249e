//go:build crashpoints

package step

import (
	"os"
	"strings"
	"syscall"
)

// CrashPoint kills the daemon, as power or an operator would, when the environment
// names this point: MONOCRIO_CRASH=container.rootfs.after-up. A build with the tag
// crashpoints serves the tests of recovery.
func CrashPoint(kind, step, when string) {
	if os.Getenv("MONOCRIO_CRASH") == strings.Join([]string{kind, step, when}, ".") {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
