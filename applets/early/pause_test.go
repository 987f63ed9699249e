package early_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPauseIsProcess1(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace needs root")
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", filepath.Join(dir, "pause"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := 0
		eventually(t, "pause", func() bool {
			kids, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
			fmt.Sscan(string(kids), &pid)
			return pid > 0 && waiting(pid)
		})
		// An orphan in its namespace becomes its child and must not stay a zombie.
		enter := exec.Command("nsenter", "--pid=/proc/"+fmt.Sprint(pid)+"/ns/pid", "sh", "-c", "(sleep 0.05 &)")
		if out, err := enter.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		eventually(t, "the orphan to be reaped", func() bool {
			kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
			return err == nil && len(strings.TrimSpace(string(kids))) == 0
		})
		unix.Kill(pid, sig)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", sig, err)
		}
	}
}
