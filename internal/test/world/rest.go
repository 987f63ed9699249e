package world

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// Stacks makes the daemon write its goroutines' stacks: one text each.
func (w *World) Stacks() []string {
	w.T.Helper()
	pattern := filepath.Join(w.Dir, "crio-goroutine-stacks-*")
	written := func() (text []byte) {
		found, _ := filepath.Glob(pattern)
		for _, f := range found {
			text, _ = os.ReadFile(f)
		}
		return text
	}
	old, _ := filepath.Glob(pattern)
	for _, f := range old {
		os.Remove(f)
	}
	w.Signal(syscall.SIGUSR1)
	var text []byte
	w.Eventually("the stacks are written", func() bool {
		text = written()
		return bytes.HasSuffix(text, []byte("\n"))
	})
	return strings.Split(strings.TrimSpace(string(text)), "\n\n")
}

// resident finds a goroutine that runs as long as the daemon does, by the function that
// is its own or that started it.
var resident = regexp.MustCompile(`^goroutine 1 ` +
	`|pprof\.writeGoroutineStacks` + // the one that writes this
	`|os/signal\.(loop|signal_recv|Notify)` +
	`|created by google\.golang\.org/grpc/internal/transport\.NewServerTransport` + // of the test's connection
	`|created by google\.golang\.org/grpc\.\(\*Server\)\.handleRawConn` +
	`|created by github\.com/monocrio/monocrio/internal/(daemon\.(\(\*parts\)\.serve|\(\*reloader\)\.watch|Run)|cni\.New|telemetry/metric\.\(\*Server\)\.Serve)` +
	`|pod\.\(\*Manager\)\.sweeper` +
	`|notifier\.\(\*Notifier\)\.accept` +
	`|preload\.\(\*Keeper\)\.(run|watch)` +
	`|created by github\.com/(coreos/go-systemd/v22/dbus|godbus/dbus/v5)\.` + // of the one connection to systemd that the systemd driver keeps
	`|adaptation\.\(\*Adaptation\)\.acceptPluginConnections`)

// residue lists what a daemon without pods holds in itself that was theirs: goroutines,
// and descriptors of namespaces and of files in this world. Process descriptors are not
// looked at, because the collector closes those of the libraries, nor are cgroups, which
// the statistics keep open for a minute.
func (w *World) residue() (list []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		list = list[:0]
		for _, g := range w.Stacks() {
			if !resident.MatchString(g) {
				list = append(list, g)
			}
		}
		dir := fmt.Sprintf("/proc/%d/fd", w.Pid())
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			link, _ := os.Readlink(filepath.Join(dir, e.Name()))
			if heldForPods(link, w.Dir) {
				list = append(list, "descriptor of "+link)
			}
		}
		if len(list) == 0 || time.Now().After(end) {
			return list
		}
	}
}

// heldForPods tells of an open file whether it cannot be the daemon's own.
func heldForPods(link, dir string) bool {
	switch {
	case link == filepath.Join(dir, "state/lock"), strings.HasPrefix(link, filepath.Join(dir, "crio-goroutine-stacks-")):
		return false
	}
	for _, start := range []string{dir + "/", "/proc/", "net:[", "ipc:[", "uts:[", "user:[", "mnt:[", "pid:["} {
		if strings.HasPrefix(link, start) {
			return true
		}
	}
	return false
}
