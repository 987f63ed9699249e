package ending

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci"
)

// fake is a container that ends on the signals it heeds.
type fake struct {
	oci.Runtime
	mu     sync.Mutex
	heeds  map[syscall.Signal]bool
	frozen bool
	got    []syscall.Signal
	exited chan struct{}
}

func (f *fake) Kill(_ context.Context, _ string, sig syscall.Signal, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, sig)
	if f.frozen {
		return errors.New("it is frozen")
	}
	if f.heeds[sig] {
		select {
		case <-f.exited:
		default:
			close(f.exited)
		}
	}
	return nil
}

func (f *fake) Resume(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = false
	return nil
}

func (f *fake) subject(t *testing.T) Subject {
	return Subject{ID: "c", Life: t.Context(), Go: func(g func()) { go g() }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Exited: f.exited,
		Runtime: func() (oci.Runtime, error) { return f, nil }, Init: func() (proc.ID, bool) { return proc.ID{}, false },
		Signal: func() syscall.Signal { return syscall.SIGTERM }}
}

func newFake(heeds ...syscall.Signal) *fake {
	f := &fake{heeds: map[syscall.Signal]bool{}, exited: make(chan struct{})}
	for _, s := range heeds {
		f.heeds[s] = true
	}
	return f
}

func TestGrace(t *testing.T) {
	for name, c := range map[string]struct {
		heeds []syscall.Signal
		grace time.Duration
		takes time.Duration
		got   int
	}{
		"polite":      {[]syscall.Signal{syscall.SIGTERM}, time.Minute, 0, 1},
		"deaf":        {[]syscall.Signal{syscall.SIGKILL}, time.Minute, time.Minute, 2},
		"no grace":    {[]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}, 0, 0, 1},
		"in no hurry": {[]syscall.Signal{syscall.SIGKILL}, 24 * time.Hour, 24 * time.Hour, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, began := newFake(c.heeds...), time.Now()
			if err := new(Ending).Stop(t.Context(), f.subject(t), c.grace); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took != c.takes || len(f.got) != c.got {
				t.Errorf("%s: took %s, signals %v", name, took, f.got)
			}
		})
	}
}

// TestShorter: a later call with less patience shortens the first; one with more does
// not lengthen it, and one that goes away does not end it.
func TestShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, e, began := newFake(syscall.SIGKILL), new(Ending), time.Now()
		var wg sync.WaitGroup
		stop := func(ctx context.Context, grace time.Duration) {
			wg.Go(func() {
				if err := e.Stop(ctx, f.subject(t), grace); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			})
		}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		stop(hasty, time.Hour)
		time.Sleep(2 * time.Second)
		stop(t.Context(), 2*time.Hour)
		stop(t.Context(), 10*time.Second)
		wg.Wait()
		if took := time.Since(began); took != 12*time.Second || len(f.got) != 2 {
			t.Errorf("took %s, signals %v", took, f.got)
		}
	})
}

func TestFrozenAndStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(syscall.SIGKILL)
		f.frozen = true
		if err := new(Ending).Stop(t.Context(), f.subject(t), 0); err != nil {
			t.Errorf("a paused one: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f, e, began := newFake(), new(Ending), time.Now()
		err := e.Stop(t.Context(), f.subject(t), 0)
		if err == nil || !strings.Contains(err.Error(), "does not end 10s after SIGKILL") || time.Since(began) != KillTime {
			t.Errorf("one that does not die: %v after %s", err, time.Since(began))
		}
		f.heeds[syscall.SIGKILL] = true
		if err := e.Stop(t.Context(), f.subject(t), 0); err != nil {
			t.Errorf("the next try: %v", err)
		}
	})
}
