package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods go on while the daemon that runs them is upgraded twice, restarted, rolled back
// and uninstalled: its monitors keep the file that they run from.
func TestRunningPods(t *testing.T) {
	r := newRig(t)
	tarball, unpacked := realBundle(t)
	w := world.New(t, world.Options{Late: true})
	current := r.file("usr/lib/monocrio/current/bin/monocrio")
	upgrade := func(version string) {
		t.Helper()
		dir := filepath.Join(r.dir, version)
		r.sh(`cp -a "$1" "$2"; cd "$2"; echo "$3" >VERSION; sed -i '/ VERSION$/d' SHA256SUMS; sha256sum VERSION >>SHA256SUMS`, unpacked, dir, version)
		if out, code := r.run(nil, filepath.Join(dir, "install")); code != 0 {
			t.Fatalf("install %s: status %d: %s", version, code, out)
		}
	}
	exists := func(version string) bool {
		_, err := os.Stat(r.file("usr/lib/monocrio/" + version))
		return err == nil
	}

	r.get("--file", tarball)
	w.StartAs(current)
	w.Pull()
	pod := w.Pod("stays", nil)
	ctr := w.Ctr(pod, "main", "trap 'exit 7' TERM; while :; do sleep 0.1; done", nil)
	born := func(id string) string {
		t.Helper()
		out, code := w.Exec(id, "cut -d' ' -f22 /proc/1/stat")
		if code != 0 || strings.TrimSpace(out) == "" {
			t.Errorf("exec: status %d, %q", code, out)
		}
		return out
	}
	since := born(ctr)
	check := func(what string) {
		t.Helper()
		if st := w.Status(ctr); st.GetState() != cri.ContainerState_CONTAINER_RUNNING || born(ctr) != since {
			t.Errorf("%s: the container is not the one that ran: %v", what, st)
		}
	}

	upgrade("v2")
	upgrade("v3")
	check("after two upgrades without a restart")
	second := w.Ctr(pod, "second", "exec sleep 1000", nil) // by the old daemon, from the old version
	if !exists("v1") {
		t.Error("v1 is gone while its daemon runs")
	}
	w.Stop()
	w.StartAs(current)
	check("as v3")
	born(second)
	w.Stop()
	r.installed("rollback")
	w.StartAs(current)
	check("as v2 again")
	w.Stop()
	r.installed("uninstall")
	w.Start() // from elsewhere
	check("after uninstall")
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 60}); err != nil {
		t.Error(err)
	}
	if st := w.Status(ctr); st.GetState() != cri.ContainerState_CONTAINER_EXITED || st.GetExitCode() != 7 {
		t.Errorf("the monitor, whose file is gone, reports %v", st)
	}
}
