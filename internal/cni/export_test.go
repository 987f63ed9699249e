package cni

import "time"

// Forget drops the last answer of Status, which counts for a moment.
func (n *Network) Forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status.at = time.Time{}
}
