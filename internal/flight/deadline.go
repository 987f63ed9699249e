package flight

import (
	"context"
	"sync"
	"time"
)

// Deadline is a point in time that calls can bring forward while others wait for it.
type Deadline struct {
	mu     *sync.Mutex
	at     *time.Time
	sooner chan struct{} // capacity 1
}

// NewDeadline returns a deadline.
func NewDeadline(at time.Time) Deadline {
	return Deadline{mu: &sync.Mutex{}, at: &at, sooner: make(chan struct{}, 1)}
}

// Shorten moves the deadline if that is sooner.
func (d Deadline) Shorten(at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at.Before(*d.at) {
		*d.at = at
		select {
		case d.sooner <- struct{}{}:
		default:
		}
	}
}

// Left is the time until then; zero or less when it has passed.
func (d Deadline) Left() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Until(*d.at)
}

// Wait returns true when the deadline passes, false when done is closed before. One
// caller waits at a time.
func (d Deadline) Wait(ctx context.Context, done <-chan struct{}) (over bool, err error) {
	for left := d.Left(); left > 0; left = d.Left() {
		timer := time.NewTimer(left)
		select {
		case <-done:
			timer.Stop()
			return false, nil
		case <-d.sooner:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false, ctx.Err()
		}
		timer.Stop()
	}
	return true, nil
}
