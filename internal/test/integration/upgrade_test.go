package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods stay when the daemon comes back as another version: by the marks of versions, and
// with MONOCRIO_OTHER, an executable of another version, truly: there and back.
func TestOtherVersion(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("stays", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	pid := factsOf(w, ctr).Pid
	check := func(what string) {
		t.Helper()
		if st := w.Status(ctr); st.GetState() != cri.ContainerState_CONTAINER_RUNNING || factsOf(w, ctr).Pid != pid || !isReady(w, pod) {
			t.Errorf("%s: %v, process %d, want %d", what, st, factsOf(w, ctr).Pid, pid)
		}
		if out, _ := w.Exec(ctr, "echo alive"); out != "alive" {
			t.Errorf("%s: the container says %q", what, out)
		}
	}
	for _, version := range []string{`"0.0.1"`, `"99.0.0+x"`, "nonsense", ""} {
		w.Stop()
		if err := os.WriteFile(filepath.Join(w.Dir, "run/version"), []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
		w.Start()
		check("after version " + version)
	}
	other := os.Getenv("MONOCRIO_OTHER")
	if other == "" {
		return
	}
	w.Stop()
	w.StartAs(other)
	check("as another version")
	second := w.Ctr(pod, "second", "exec sleep 1000", nil)
	w.Stop()
	w.Start()
	check("back again")
	if st := w.Status(second); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("what the other version has made is %v", st)
	}
}
