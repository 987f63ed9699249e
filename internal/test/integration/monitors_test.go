package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/monocrio/monocrio/internal/test/journaltest"
	"github.com/monocrio/monocrio/internal/test/world"
)

// foreignConmon is Debian's.
const foreignConmon = "/usr/bin/conmon"

// TestForeignMonitor: the daemon asks of a monitor what the contract says and no more;
// the runtime is the embedded one or somebody else's.
func TestForeignMonitor(t *testing.T) {
	for _, path := range []string{"/usr/sbin/runc", foreignConmon} {
		if _, err := os.Stat(path); err != nil {
			t.Skip(err)
		}
	}
	for name, conf := range map[string]string{
		"embedded": "[crio.runtime]\nconmon = \"" + foreignConmon + "\"\n",
		"runc":     "[crio.runtime]\ndefault_runtime = \"peer\"\nconmon = \"" + foreignConmon + "\"\n[crio.runtime.runtimes.peer]\nruntime_path = \"/usr/sbin/runc\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := world.New(t, world.Options{Extra: conf})
			w.Pull()
			pod := w.Pod("pod", nil)
			id := w.Ctr(pod, "main", "trap 'echo asked; exit 7' TERM; echo up; echo oops >&2; while :; do sleep 0.1; done", nil)
			w.Eventually("the log", func() bool { return w.LogText(w.Status(id).GetLogPath()) == "up\noops\n" })
			execSync(t, w, id)
			old := w.Status(id).GetLogPath()
			if err := os.Rename(old, old+".1"); err != nil {
				t.Fatal(err)
			}
			if _, err := w.ReopenContainerLog(w.Ctx(), &cri.ReopenContainerLogRequest{ContainerId: id}); err != nil {
				t.Error(err)
			}
			w.Restart() // the container is adopted
			if st := w.Status(id).GetState(); st != cri.ContainerState_CONTAINER_RUNNING {
				t.Errorf("after a restart: %v", st)
			}
			if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
				t.Error(err)
			}
			if st := w.WaitExit(id); st.GetExitCode() != 7 || w.LogText(old) != "asked\n" {
				t.Errorf("exit %d, log %q", st.GetExitCode(), w.LogText(old))
			}
			if _, st := w.Output(pod, "killed", "kill -9 $$; sleep 0.2; exit 3", nil); st.GetExitCode() != 3 && st.GetExitCode() != 137 {
				t.Errorf("exit %d", st.GetExitCode())
			}
			long, _ := w.Output(pod, "long", "printf %20000d 7; echo", nil)
			if want := fmt.Sprintf("%20000d\n", 7); long != want {
				t.Errorf("a long line: %d bytes, not %d", len(long), len(want))
			}
		})
	}
}

// execSync asks for streams, codes, and the end of time.
func execSync(t *testing.T, w *world.World, id string) {
	t.Helper()
	for script, want := range map[string]int32{"true": 0, "exit 5": 5, "kill -9 $$": 137} {
		r, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; echo err >&2; " + script}})
		if err != nil || r.GetExitCode() != want || string(r.GetStdout()) != "out\n" || string(r.GetStderr()) != "err\n" {
			t.Errorf("%q: %v %v", script, r, err)
		}
	}
	r, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "yes | head -c 3000000"}})
	if err != nil || len(r.GetStdout()) != 3000000 {
		t.Errorf("%d bytes, %v", len(r.GetStdout()), err)
	}
	begin := time.Now()
	if _, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "1000"}, Timeout: 1}); err == nil || time.Since(begin) < time.Second {
		t.Errorf("a command that lasts: %v after %v", err, time.Since(begin))
	}
}

// TestLogToJournald has a socket of the test at the journal's place.
//
// Options: crio.runtime.log_to_journald
func TestLogToJournald(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	conn := journaltest.ListenSystem(t)
	w := world.New(t, world.Options{Extra: "[crio.runtime]\nlog_to_journald = true\n"})
	w.Pull()
	log, _ := w.Output(w.Pod("pod", nil), "main", "echo hello; echo oops >&2", func(c *cri.ContainerConfig) { c.Metadata.Attempt = 2 })
	if log != "hello\noops\n" {
		t.Errorf("log %q", log)
	}
	buf := make([]byte, 1<<16)
	for _, want := range []string{"PRIORITY=6\nMESSAGE=hello\n", "PRIORITY=3\nMESSAGE=oops\n"} {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := conn.Read(buf)
		got := string(buf[:n])
		if err != nil || !strings.Contains(got, want) || !strings.Contains(got, "CONTAINER_NAME=k8s_main_pod_default_uid-pod_2\n") {
			t.Errorf("%q: %q %v", want, got, err)
		}
	}
}
