package monitor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/monocrio/monocrio/internal/monitor/monitortest"
)

// ours is the real executable.
var ours string

func TestMain(m *testing.M) {
	monitortest.Engine()
	ours = os.Getenv("MONOCRIO_BIN")
	dir := ""
	if ours == "" && os.Geteuid() == 0 {
		var err error
		if dir, err = os.MkdirTemp("", "monocrio-bin-"); err == nil {
			ours = filepath.Join(dir, "monocrio")
			cmd := exec.Command("../../scripts/build", "-o", ours)
			cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
			err = cmd.Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot build the executable:", err)
			os.Exit(1)
		}
	}
	status := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(status)
}

func TestOurs(t *testing.T) {
	monitortest.Suite(t, &monitortest.Rig{Path: ours, Argv0: "conmon", Runtime: "/usr/sbin/runc"})
}

func TestForeign(t *testing.T) {
	monitortest.Suite(t, &monitortest.Rig{Path: "/usr/bin/conmon", Runtime: "/usr/sbin/runc", Foreign: true})
}

func BenchmarkMonitor(b *testing.B) {
	for name, rig := range map[string]*monitortest.Rig{
		"ours":    {Path: ours, Argv0: "conmon", Runtime: "/usr/sbin/runc"},
		"foreign": {Path: "/usr/bin/conmon", Runtime: "/usr/sbin/runc", Foreign: true},
	} {
		b.Run(name+"/Create", func(b *testing.B) { monitortest.BenchmarkCreate(b, rig) })
		b.Run(name+"/Exec", func(b *testing.B) { monitortest.BenchmarkExec(b, rig) })
		b.Run(name+"/Log", func(b *testing.B) { monitortest.BenchmarkLog(b, rig, 0) })
		b.Run(name+"/LogAttached", func(b *testing.B) { monitortest.BenchmarkLog(b, rig, 1) })
	}
}
