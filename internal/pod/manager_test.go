package pod

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRunDuringStop: a pod whose stop has begun, and did not come to its end, is no
// answer to a request for such a pod.
func TestRunDuringStop(t *testing.T) {
	dir, n := t.TempDir(), newNode(1)
	m := newManager(t, dir, n)
	defer m.Close()
	config := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}, // without mounts:
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}}}}
	id, err := m.Run(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := m.Run(t.Context(), config, ""); err != nil || again != id {
		t.Errorf("a repeated request: %s, %v", again, err)
	}
	p, err := m.podIndex.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	p.op <- struct{}{} // the stop gets no further than this
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.Stop(ctx, id); err == nil {
		t.Fatal("the stop came to an end")
	}
	_, err = m.Run(t.Context(), config, "")
	if !errs.Is(err, errs.KindAlreadyExists) || !strings.Contains(err.Error(), "being stopped") {
		t.Errorf("a request during a stop: %v", err)
	}
	p.op.Release()
	if err := m.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if again, err := m.Run(t.Context(), config, ""); err != nil || again == id {
		t.Errorf("after the removal: %s, %v", again, err)
	}
}
