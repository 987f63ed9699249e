package flight

import (
	"context"
	"time"
)

// Again does something over and over: soon after it is woken, then less and less often.
type Again struct {
	first, most time.Duration
	wake        chan struct{}
}

// NewAgain makes one whose pauses begin with first and double up to most.
func NewAgain(first, most time.Duration) *Again {
	return &Again{first: first, most: most, wake: make(chan struct{}, 1)}
}

// Soon wakes it.
func (a *Again) Soon() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run calls do until ctx ends. do returns how much is left to do; with nothing left
// the next pause is the longest.
func (a *Again) Run(ctx context.Context, do func(context.Context) int) {
	wait := a.first
	for {
		select {
		case <-a.wake:
			wait = a.first
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if do(ctx) == 0 {
			wait = a.most
		} else {
			wait = min(2*wait, a.most)
		}
	}
}
