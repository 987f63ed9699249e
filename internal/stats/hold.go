package stats

import (
	"sync"

	"github.com/monocrio/monocrio/internal/linux/netstat"
)

// holder keeps a cgroup open between calls.
type holder struct {
	mu   sync.Mutex
	held Group
}

// hold opens the cgroup, the first time.
func (h *holder) hold(open func() (Group, error)) (Group, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		g, err := open()
		if err != nil {
			return nil, err
		}
		h.held = g
	}
	return h.held, nil
}

// rest lets the cgroup go until the next reading.
func (h *holder) rest() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		h.held.Rest()
	}
}

// let closes the cgroup.
func (h *holder) let() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held != nil {
		h.held.Close()
		h.held = nil
	}
}

// netns keeps a pod's network namespace between calls. It would outlive its pod: it is
// let go when the pod stops.
type netns struct {
	mu     sync.Mutex
	held   Network
	closed bool // the pod has stopped
}

// read reads the interfaces, through open the first time.
func (n *netns) read(open func() (Network, error)) ([]netstat.Interface, error) {
	n.mu.Lock()
	held := n.held
	n.mu.Unlock()
	if held != nil {
		return held.Read()
	}
	fresh, err := open() // with the lock free: it may hang
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	closed := n.closed
	if !closed {
		n.held = fresh
	}
	n.mu.Unlock()
	if closed {
		defer fresh.Close()
	}
	return fresh.Read()
}

// rest lets go until the next reading.
func (n *netns) rest() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held != nil {
		n.held.Close()
		n.held = nil
	}
}

// let lets go for ever.
func (n *netns) let() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.rest()
}
