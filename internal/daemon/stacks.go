package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"
)

// dumpStacks writes the stacks of all goroutines to a file of the temporary folder
// and returns its name.
func dumpStacks() (string, error) {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("crio-goroutine-stacks-%s.log", time.Now().UTC().Format("2006-01-02T150405Z")))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return path, err
	}
	defer f.Close()
	return path, pprof.Lookup("goroutine").WriteTo(f, 2)
}
