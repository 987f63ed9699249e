package pod

import (
	"context"
	"errors"
	"testing"

	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stuckImages hang until release is closed, and then know no image.
type stuckImages struct{ asked, release chan struct{} }

func (s stuckImages) Resolve(context.Context, *cri.ImageSpec, string) (state.Image, error) {
	close(s.asked)
	<-s.release
	return state.Image{}, errors.New("no such image")
}

// TestLives: what is asked about an object that hangs is answered.
func TestLives(t *testing.T) {
	m := newManager(t, t.TempDir(), newNode(1))
	defer m.Close()
	images := stuckImages{asked: make(chan struct{}), release: make(chan struct{})}
	m.Images = images
	config := &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}, // without mounts:
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}}}}
	id, err := m.Run(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.podIndex.Find(id)
	if err != nil {
		t.Fatal(err)
	}
	pods, _ := m.Lives()
	var steps string
	for _, e := range pods[0].Trail {
		steps += string(e.Verb) + "-" + e.What + " "
	}
	want := "reached-creating "
	for _, s := range podSteps() {
		want += "up-" + s.Name + " "
	}
	if steps != want+"reached-ready " || pods[0].View.Status.Phase != state.Ready || pods[0].Busy {
		t.Errorf("%s %+v", steps, pods[0].View.Status)
	}
	p.mu.Lock() // as if a record were written to a disk that does not answer
	if pods, _ = m.Lives(); len(pods) != 1 || !pods[0].Busy || pods[0].View.ID != id || len(pods[0].Trail) == 0 {
		t.Errorf("%+v", pods)
	}
	p.mu.Unlock()

	// A container that is no object yet, because the image store does not answer.
	failed := make(chan error)
	go func() {
		_, err := m.Create(t.Context(), id, &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "x"}}, nil)
		failed <- err
	}()
	<-images.asked
	list := m.Pending()
	if len(list) != 1 || list[0].Name != "b/a/c" || list[0].Owner != id || len(list[0].Trail) != 1 || list[0].Trail[0].Waits != "the image store" || !list[0].Trail[0].Running {
		t.Errorf("%+v", list)
	}
	close(images.release)
	if err := <-failed; err == nil {
		t.Fatal("it is made")
	}
	if all := m.Losses(); len(m.Pending()) != 0 || len(all) != 1 || all[0].Name != "b/a/c" || all[0].Trail[0].Err != "no such image" {
		t.Errorf("%+v", all)
	}
	if err := m.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}
