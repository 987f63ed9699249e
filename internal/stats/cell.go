package stats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/linux/netstat"
)

// cell is one thing that is read again and again, with its last value. At most one
// reading of it is in progress; whoever comes meanwhile waits for that one.
type cell[T any] struct {
	mu      sync.Mutex
	value   T
	at      time.Time     // when value was read; zero: there is none
	took    time.Duration // how long that took
	err     error         // why the last reading gave none
	reading *flight
}

var errNotRead = errors.New("it has not been read yet")

// get returns the last value and when it was read.
func (c *cell[T]) get() (T, time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.err
	if err == nil && c.at.IsZero() {
		err = errNotRead
	}
	return c.value, c.at, err
}

// thrift bounds what a reading that is spared may cost: one part in so many of a
// processor's time.
const thrift = 20

// round is one call's readings.
type round struct {
	log   *slog.Logger
	start time.Time
	// patience is how long a reading is waited for of which there is a last value, first
	// the same of one that there is none of.
	patience, first time.Duration
	jobs            []job
	waits           []*flight
}

// want adds the reading of a cell to a round, unless its value is younger than age.
// what and id name it in the log.
func want[T any](r *round, c *cell[T], age time.Duration, what, id string, read func(*netstat.Visitor) (T, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading != nil {
		r.waits = append(r.waits, c.reading)
		return
	}
	if !c.at.IsZero() && r.start.Sub(c.at) < age {
		return
	}
	c.reading = &flight{settled: make(chan struct{})}
	r.waits = append(r.waits, c.reading)
	log, patience := r.log, r.patience
	if c.at.IsZero() {
		patience = r.first
	}
	r.jobs = append(r.jobs, job{flight: c.reading, patience: patience,
		run: func(v *netstat.Visitor) { c.read(v, read) },
		late: func() {
			log.Warn("statistics: a reading does not end; until it does the last values are told", "what", what, "id", id)
		},
		back: func() { log.Info("statistics: a slow reading has ended", "what", what, "id", id) },
	})
}

// wantSpared is want for what may be expensive: it is not read so often that reading
// takes more than its share of a processor.
func wantSpared[T any](r *round, c *cell[T], age time.Duration, what, id string, read func(*netstat.Visitor) (T, error)) {
	c.mu.Lock()
	spared := thrift * c.took
	c.mu.Unlock()
	want(r, c, max(age, spared), what, id, read)
}

// wantBeside is wantSpared for what is not urgent besides: if there is a value, nobody
// waits for a new one.
func wantBeside[T any](r *round, c *cell[T], age time.Duration, what, id string, read func(*netstat.Visitor) (T, error)) {
	_, at, _ := c.get()
	waits := len(r.waits)
	wantSpared(r, c, age, what, id, read)
	if !at.IsZero() {
		r.waits = r.waits[:waits]
	}
}

// read does one reading and keeps the result. A failure leaves the last value.
func (c *cell[T]) read(v *netstat.Visitor, read func(*netstat.Visitor) (T, error)) {
	begin := time.Now()
	value, err := guarded(v, read)
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.reading
	c.reading, c.err = nil, err
	if err == nil {
		c.value, c.at, c.took = value, begin, time.Since(begin)
	}
	f.settle()
}

// guarded turns a panic into an error: nobody else would catch it here.
func guarded[T any](v *netstat.Visitor, read func(*netstat.Visitor) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading statistics panicked, please report this: %v\n%s", p, debug.Stack())
		}
	}()
	return read(v)
}

// do has the readings done and waits until all have ended or are late, at most for
// limit.
func (r *round) do(ctx context.Context, p *pool, limit time.Duration) error {
	p.submit(r.jobs)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, f := range r.waits {
		select {
		case <-f.settled:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// rate turns totals into a rate. It is used by one reading at a time.
type rate struct {
	at    time.Time
	total uint64 // microseconds
	cores *uint64
}

// A rate is taken over at least shortest, and over no more than longest: it would say
// nothing about the present.
const (
	shortest = time.Second
	longest  = 5 * time.Minute
)

// next takes a new total and returns the rate, nil while it is unknown.
func (r *rate) next(at time.Time, total uint64) *uint64 {
	since := at.Sub(r.at)
	switch {
	case r.at.IsZero() || since > longest || total < r.total:
		r.at, r.total, r.cores = at, total, nil
	case since >= shortest:
		v := uint64(float64(total-r.total) * 1e12 / float64(since)) // microseconds per nanosecond in billionths
		r.at, r.total, r.cores = at, total, &v
	}
	return r.cores
}
