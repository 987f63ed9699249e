package monitor

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/linux/proc"
)

// Find looks for the monitor of a bundle by the pid file that it writes; false if it
// is gone. Pids are reused, and a pid file alone proves nothing: the process must
// have the bundle among its arguments.
func Find(bundle, pidFile string) (proc.ID, bool) {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return proc.ID{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return proc.ID{}, false
	}
	id, err := proc.Find(pid)
	if err != nil {
		return proc.ID{}, false
	}
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return id, err == nil && bytes.Contains(append([]byte{0}, args...), []byte("\x00"+bundle+"\x00"))
}
