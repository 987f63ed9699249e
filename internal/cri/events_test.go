package cri

import (
	"fmt"
	"sync"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod"
)

// TestSlowSubscriber: one who does not read is dropped with a reason, holds nobody,
// and still gets what came before its gap.
func TestSlowSubscriber(t *testing.T) {
	e := NewEvents()
	slow, err := e.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	quick, err := e.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	n := 0
	wg.Go(func() {
		for ev := range quick.events {
			if ev.Pod != fmt.Sprint(n) {
				t.Errorf("event %d is %s", n, ev.Pod)
			}
			n++
		}
	})
	const all = eventBacklog + 100
	for i := range all {
		for len(quick.events) == cap(quick.events) { // the test's reader is to keep up
		}
		e.Publish(pod.Event{Pod: fmt.Sprint(i)})
	}
	got := 0
	for range slow.events {
		got++
	}
	if got != eventBacklog || !errs.Is(slow.why, errs.KindExhausted) {
		t.Errorf("the slow one got %d events, then %v", got, slow.why)
	}
	e.Close()
	wg.Wait()
	if n != all || !errs.Is(quick.why, errs.KindUnavailable) {
		t.Errorf("the quick one got %d events, then %v", n, quick.why)
	}
	if _, err := e.subscribe(); !errs.Is(err, errs.KindUnavailable) {
		t.Errorf("a subscription after the end: %v", err)
	}
	e.Publish(pod.Event{})
	e.unsubscribe(quick)
}
