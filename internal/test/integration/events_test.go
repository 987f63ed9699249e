package integration

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// subscribe returns the events of a daemon as they come, and how the stream ended.
func subscribe(t *testing.T, w *world.World) (<-chan *cri.ContainerEventResponse, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s, err := w.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	events, ended := make(chan *cri.ContainerEventResponse, 1000), make(chan error, 1)
	go func() {
		defer close(events)
		for {
			e, err := s.Recv()
			if err != nil {
				ended <- err
				return
			}
			events <- e
		}
	}()
	return events, ended
}

// TestEvents: the whole life of a pod, in order, each event with the state that can
// be queried when it arrives.
func TestEvents(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	first, ended := subscribe(t, w)
	second, _ := subscribe(t, w)
	// A stream begins when the daemon has seen it: a pod whose event arrives is proof.
	probe := w.Pod("probe", nil)
	for _, s := range []<-chan *cri.ContainerEventResponse{first, second} {
		if e := <-s; e.GetContainerId() != probe {
			t.Fatalf("the first event is %v", e)
		}
		<-s
	}
	pod := w.Pod("events", nil)
	ctr := w.Ctr(pod, "main", "exit 3", nil)
	w.WaitExit(ctr)
	for _, call := range []func() error{
		func() error {
			_, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr})
			return err
		},
		func() error {
			_, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		},
		func() error {
			_, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		},
	} {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	const created, started, stopped, deleted = cri.ContainerEventType_CONTAINER_CREATED_EVENT, cri.ContainerEventType_CONTAINER_STARTED_EVENT,
		cri.ContainerEventType_CONTAINER_STOPPED_EVENT, cri.ContainerEventType_CONTAINER_DELETED_EVENT
	want := []struct {
		id  string
		typ cri.ContainerEventType
	}{{pod, created}, {pod, started}, {ctr, created}, {ctr, started}, {ctr, stopped}, {ctr, deleted}, {pod, stopped}, {pod, deleted}}
	for name, s := range map[string]<-chan *cri.ContainerEventResponse{"first": first, "second": second} {
		for i, x := range want {
			e := <-s
			if e.GetContainerId() != x.id || e.GetContainerEventType() != x.typ || e.GetCreatedAt() == 0 {
				t.Fatalf("%s subscriber, event %d is %v", name, i, e)
			}
			if e.GetPodSandboxStatus().GetMetadata().GetUid() != "uid-events" {
				t.Errorf("%s subscriber, event %d does not tell its pod: %v", name, i, e)
			}
		}
	}
	w.Kill()
	if err := <-ended; err == nil || err == io.EOF {
		t.Errorf("the stream of a killed daemon ended with %v", err)
	}
	w.Start()
}

// TestEventStatuses: a subscriber that keeps up finds in each event the container's
// own state, and a daemon that ends tells its subscribers so, at once.
func TestEventStatuses(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("statuses", nil)
	events, ended := subscribe(t, w)
	w.Pod("probe", nil)
	<-events
	<-events
	next := func(state cri.ContainerState, id string) {
		t.Helper()
		e := <-events
		i := slices.IndexFunc(e.GetContainersStatuses(), func(s *cri.ContainerStatus) bool { return s.GetId() == id })
		if i < 0 || e.GetContainersStatuses()[i].GetState() != state || e.GetPodSandboxStatus().GetState() != cri.PodSandboxState_SANDBOX_READY {
			t.Errorf("instead of %s: %v", state, e)
		}
	}
	ctr := w.Create(pod, "main", "exec sleep 1000", nil)
	next(cri.ContainerState_CONTAINER_CREATED, ctr)
	if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	next(cri.ContainerState_CONTAINER_RUNNING, ctr)
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	next(cri.ContainerState_CONTAINER_EXITED, ctr)
	w.Stop()
	if err := <-ended; status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "ending") {
		t.Errorf("the stream of a daemon that ends: %v", err)
	}
	w.Start()
}
