package monitortest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/monitor"
)

// Suite runs the whole contract against a monitor.
func Suite(t *testing.T, r *Rig) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *Rig)
	}{
		{"ExitCodes", exitCodes}, {"Records", records}, {"Files", files},
		{"PartialLines", partialLines}, {"Reopens", reopens}, {"PromptReopen", promptReopen},
		{"SizeLimit", sizeLimit}, {"NoLog", noLog}, {"FullDisk", fullDisk},
		{"HalfClose", halfClose}, {"LeaveOpen", leaveOpen}, {"OnlyListening", onlyListening}, {"LastInput", lastInput}, {"BulkInput", bulkInput},
		{"StuckClient", stuckClient}, {"AttachLeaks", attachLeaks},
		{"Terminal", terminal}, {"Winsz", winsz}, {"HangUp", hangUp},
		{"Failures", failures}, {"Chatty", chatty}, {"Abandoned", abandoned},
		{"Placed", placed}, {"StartPipeEnds", startPipeEnds}, {"SignalForwarded", signalForwarded},
		{"CleanProcess", cleanProcess}, {"Orphans", orphans}, {"BackgroundWriter", backgroundWriter},
		{"OutOfMemory", outOfMemory}, {"EngineDies", engineDies},
		{"Foreground", foreground}, {"ExitCommand", exitCommand}, {"TimeLimit", timeLimit}, {"ListenPid", listenPid},
		{"Born", born},
		{"Journald", journald}, {"Passthrough", passthrough}, {"Rotation", rotation}, {"Notifications", notifications},
		{"CommandLines", commandLines},
		{"Exec", execModes}, {"ExecFails", execFails}, {"ExecTimeout", execTimeout}, {"ExecBackground", execBackground},
		{"ExecAttached", execAttached}, {"ExecTerminal", execTerminal}, {"ExecLimit", execLimit}, {"ExecEnds", execEnds},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, r) })
	}
}

func exitCodes(t *testing.T, r *Rig) {
	for _, c := range []struct {
		script string
		signal unix.Signal
		want   int
	}{
		{"true", 0, 0},
		{"exit 1", 0, 1},
		{"exit 255", 0, 255},
		{"sleep 100", unix.SIGKILL, 137},
		{"trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done", unix.SIGTERM, 7},
	} {
		b := r.Box(t, c.script)
		b.Run()
		if c.signal != 0 {
			if strings.Contains(c.script, "echo up") {
				b.WaitLog("up")
			}
			if err := unix.Kill(b.Proc.Container, c.signal); err != nil {
				t.Fatal(err)
			}
		}
		e := b.WaitExit()
		if e.Code != c.want || e.OOM {
			t.Errorf("%q: exit %+v, not %d", c.script, e, c.want)
		}
		data, err := os.ReadFile(filepath.Join(b.Spawn.PersistDir, "exit"))
		if err != nil || string(data) != fmt.Sprint(c.want) {
			t.Errorf("%q: persist-dir/exit is %q, %v", c.script, data, err)
		}
	}
}

func records(t *testing.T, r *Rig) {
	for _, c := range []struct {
		script string
		want   []string
	}{
		{"echo hello; sleep 0.1; echo oops >&2", []string{"stdout F hello\n", "stderr F oops\n"}},
		{"echo; echo ' a  b '", []string{"stdout F \n", "stdout F  a  b \n"}},
		{"true", nil},
	} {
		b := r.Box(t, c.script)
		b.Run()
		b.WaitExit()
		if got := b.Records(); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, not %q", c.script, got, c.want)
		}
	}
}

func files(t *testing.T, r *Rig) {
	b := r.Box(t, "sleep 100")
	b.Run()
	link := filepath.Join(b.Spawn.SocketDir, b.Spawn.UUID)
	for path, mode := range map[string]os.FileMode{
		filepath.Join(b.Spawn.Bundle, "ctl"):    os.ModeNamedPipe | 0o660,
		filepath.Join(b.Spawn.Bundle, "winsz"):  os.ModeNamedPipe | 0o660,
		filepath.Join(b.Spawn.Bundle, "attach"): os.ModeSocket | 0o700,
		filepath.Join(link, "attach"):           os.ModeSocket | 0o700,
	} {
		st, err := os.Stat(path)
		if r.Foreign && err == nil { // older releases differ in the permissions
			mode = mode.Type() | st.Mode().Perm()
		}
		if err != nil || st.Mode() != mode {
			t.Errorf("%s: %v %v", path, st, err)
		}
	}
	if !monitor.Alive(b.Proc.Monitor) {
		t.Error("the monitor does not run")
	}
	if err := unix.Kill(b.Proc.Container, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.WaitExit()
	if _, err := os.Lstat(link); err == nil && !r.Foreign {
		t.Error("the link to the bundle is left")
	}
}
