package pod

import (
	"context"
	"fmt"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ExecRequest is a command to be run in a container. Process is filled in.
type ExecRequest struct {
	oci.ExecRequest
	Command  []string
	Terminal bool
	Size     oci.Size // of the terminal at the beginning; zero: unknown
}

// running finds a container that runs; verb is for the error.
func (m *Manager) running(id, verb string) (*Container, error) {
	c, err := m.ctrIndex.Find(id)
	if err == nil && c.view().Status.State() != cri.ContainerState_CONTAINER_RUNNING {
		return nil, errs.Precondition("cannot %s container %s: it is not running", verb, c.id)
	}
	return c, err
}

// Exec runs a command in a running container and returns its exit code. When ctx ends
// the command is killed.
func (m *Manager) Exec(ctx context.Context, id string, r ExecRequest) (int, error) {
	c, err := m.running(id, "exec in")
	if err != nil {
		return 0, err
	}
	h, err := m.Handlers.Handler(c.req.Handler)
	if err != nil {
		return 0, err
	}
	if r.Process, err = oci.ExecProcess(c.bundle(), r.Command, r.Terminal, r.Size); err != nil {
		return 0, fmt.Errorf("cannot exec in container %s: %w", c.id, err)
	}
	return h.Runtime.Exec(ctx, c.id, r.ExecRequest)
}

// Attach connects streams to a running container's own process until its output or
// the context ends; s.TTY is filled in. What the end of the input means was said when
// the container was made (stdin_once).
func (m *Manager) Attach(ctx context.Context, id string, s monitor.AttachStreams) error {
	c, err := m.running(id, "attach to")
	if err != nil {
		return err
	}
	s.TTY = c.req.Config.GetTty()
	if err := m.Monitors.Attach(ctx, c.bundle(), s); err != nil {
		return fmt.Errorf("cannot attach to container %s: %w", c.id, err)
	}
	return nil
}

// NetNS tells where the ports of a ready pod are: in the network namespace pinned at
// path, or in the host's if path is empty. The channel is closed when the pod stops.
func (m *Manager) NetNS(id string) (path string, stopped <-chan struct{}, err error) {
	p, err := m.podIndex.Find(id)
	if err != nil {
		return "", nil, err
	}
	if v := p.view(); v.Status.Phase != state.Ready {
		return "", nil, errs.Precondition("cannot reach the ports of pod %s: it is %s", p.id, v.Status.Phase)
	}
	if !p.req.HostNetwork() {
		path = m.NamespacePath(p.id, "net")
	}
	return path, p.life.Done(), nil
}
