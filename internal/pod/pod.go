package pod

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/flight"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pod is one pod sandbox.
type Pod struct {
	m   *Manager
	id  string
	req state.PodRequest

	// gate lets creates and starts in while the pod is ready; a stop closes it and
	// cancels life, so that what is being made gives up.
	gate flight.Gate
	life context.Context
	end  context.CancelFunc
	op   flight.Lock // lifecycle: climb, stop, remove

	trail  *step.Trail
	mu     sync.Mutex // guards what follows
	status state.PodStatus
	gone   bool // the record is deleted
}

func (m *Manager) newPod(id string, req state.PodRequest, st state.PodStatus) *Pod {
	p := &Pod{m: m, id: id, req: req, status: st, op: flight.NewLock(), trail: new(step.Trail)}
	p.life, p.end = context.WithCancel(m.ctx)
	if st.Phase != state.Creating && st.Phase != state.Ready {
		p.gate.CloseNow()
		p.end()
	}
	return p
}

// Kind implements step.Object.
func (p *Pod) Kind() string { return "pod" }

// Ident implements step.Object.
func (p *Pod) Ident() string { return p.id }

// Trail implements step.Object.
func (p *Pod) Trail() *step.Trail { return p.trail }

// runDir holds the pod's pinned namespaces and files.
func (p *Pod) runDir() string { return filepath.Join(p.m.RunDir, "pods", p.id) }

func (p *Pod) name() string { return state.PodName(p.req.Config.GetMetadata()) }

// view returns a consistent copy.
func (p *Pod) view() state.PodView {
	p.mu.Lock()
	defer p.mu.Unlock()
	return state.PodView{ID: p.id, Request: p.req, Status: p.status}
}

// transition is the only way in which a pod's status changes: the record first,
// then memory, then the event. change works on a copy.
func (p *Pod) transition(change func(*state.PodStatus)) error {
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return nil
	}
	next, was := p.status, p.status.Phase
	change(&next)
	if err := p.m.pods.Update(p.id, next); err != nil {
		p.mu.Unlock()
		return err
	}
	p.status = next
	p.mu.Unlock()
	if next.Phase != was {
		p.trail.Reach(string(next.Phase))
		p.m.Log.Info("pod is "+string(next.Phase), "pod", p.id, "name", p.req.Config.GetMetadata().GetName(), "namespace", p.req.Config.GetMetadata().GetNamespace())
		p.tell(next.Phase)
	}
	return nil
}

// tell publishes that a phase was reached. To the kubelet a pod is one more
// container: it is created and started at once.
func (p *Pod) tell(reached state.Phase) {
	switch at := time.Now(); reached {
	case state.Ready:
		p.m.publish(Event{Pod: p.id, Type: cri.ContainerEventType_CONTAINER_CREATED_EVENT, At: at})
		p.m.publish(Event{Pod: p.id, Type: cri.ContainerEventType_CONTAINER_STARTED_EVENT, At: at})
	case state.NotReady:
		p.m.publish(Event{Pod: p.id, Type: cri.ContainerEventType_CONTAINER_STOPPED_EVENT, At: at})
	}
}

// forget deletes the record of a pod of which nothing is left.
func (p *Pod) forget() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.m.pods.Delete(p.id); err != nil {
		return err
	}
	p.gone = true
	p.m.podIndex.Remove(p.name(), p.id)
	p.m.publish(Event{Pod: p.id, Type: cri.ContainerEventType_CONTAINER_DELETED_EVENT, At: time.Now(),
		Last: &state.PodView{ID: p.id, Request: p.req, Status: p.status}})
	return nil
}

// containers returns the pod's containers.
func (p *Pod) containers() (list []*Container) {
	for _, c := range p.m.ctrIndex.All() {
		if c.req.Pod == p.id {
			list = append(list, c)
		}
	}
	return list
}
