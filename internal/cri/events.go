package cri

import (
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventBacklog is how many events a subscriber may be behind. One that is further
// behind would hold memory without end, and one that is not told of its gap would
// wait for ever for what it missed: its stream ends, and it lists and asks again.
const eventBacklog = 4096

// Events passes the model's events on to subscribers: all of them, in order.
type Events struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
	// Dropped, if set before the first subscription, hears of each event that a
	// subscriber did not take.
	Dropped func()
}

type subscriber struct {
	events chan pod.Event
	why    error // valid once events is closed
}

// NewEvents returns events without subscribers.
func NewEvents() *Events { return &Events{subs: map[*subscriber]struct{}{}} }

// Publish hands an event to all subscribers; it never blocks.
func (e *Events) Publish(ev pod.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.subs {
		select {
		case s.events <- ev:
		default:
			if e.Dropped != nil {
				e.Dropped()
			}
			e.drop(s, errs.Errorf(errs.KindExhausted, "container events: the subscriber is %d events behind; list again, then subscribe again", eventBacklog))
		}
	}
}

// Close ends all subscriptions and refuses new ones.
func (e *Events) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for s := range e.subs {
		e.drop(s, errs.Unavailable("container events: the daemon is ending"))
	}
}

// drop ends a subscription; e.mu is held.
func (e *Events) drop(s *subscriber, why error) {
	delete(e.subs, s)
	s.why = why
	close(s.events)
}

func (e *Events) subscribe() (*subscriber, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errs.Unavailable("container events: the daemon is ending")
	}
	s := &subscriber{events: make(chan pod.Event, eventBacklog)}
	e.subs[s] = struct{}{}
	return s, nil
}

func (e *Events) unsubscribe(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.subs, s)
}

// GetContainerEvents tells every change of pods and containers from now on, until
// the caller goes away. Each event carries its pod and the pod's containers as they
// are when it is sent, which may be later than it.
func (s *Server) GetContainerEvents(_ *cri.GetEventsRequest, stream grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	sub, err := s.d.Events.subscribe()
	if err != nil {
		return err
	}
	defer s.d.Events.unsubscribe(sub)
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case ev, ok := <-sub.events:
			if !ok {
				return sub.why
			}
			if err := stream.Send(s.event(ev)); err != nil {
				return err
			}
		}
	}
}

// event adds what a subscriber wants to know of the pod. A pod that is gone is told
// as it was last, without containers: the kubelet finds whose it was.
func (s *Server) event(ev pod.Event) *cri.ContainerEventResponse {
	out := &cri.ContainerEventResponse{ContainerId: ev.Container, ContainerEventType: ev.Type, CreatedAt: ev.At.UnixNano()}
	if ev.Container == "" {
		out.ContainerId = ev.Pod
	}
	if ev.Last != nil {
		out.PodSandboxStatus = podStatus(ev.Last)
		return out
	}
	v, err := s.d.Pods.Pod(ev.Pod)
	if err != nil { // it went meanwhile; an event of its own tells
		return out
	}
	out.PodSandboxStatus = podStatus(&v)
	for _, c := range s.d.Pods.ContainersOf(v.ID) {
		out.ContainersStatuses = append(out.ContainersStatuses, containerStatus(&c))
	}
	return out
}
