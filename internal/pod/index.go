package pod

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
)

// index finds objects by id, by the beginning of an id and by name, and knows which
// names are being made. It is never locked across I/O.
type index[T any] struct {
	kind string

	mu      sync.RWMutex
	byID    map[string]T
	byName  map[string]string  // name -> id
	flights map[string]*flight // name -> the call that makes it
}

// flight is a call in progress under a name. It outlives its caller: a later equal
// call joins it and gets its result.
type flight struct {
	done chan struct{}
	id   string
	err  error
}

func newIndex[T any](kind string) *index[T] {
	return &index[T]{kind: kind, byID: map[string]T{}, byName: map[string]string{}, flights: map[string]*flight{}}
}

// find returns the object with this id, or with an id that begins so if only one
// does.
func (x *index[T]) find(id string) (o T, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if o, ok := x.byID[id]; ok {
		return o, nil
	}
	if !ident.Prefix(id) {
		return o, errs.NotFound(x.kind, id)
	}
	n := 0
	for full, c := range x.byID {
		if strings.HasPrefix(full, id) {
			o, n = c, n+1
		}
	}
	switch n {
	case 0:
		return o, errs.NotFound(x.kind, id)
	case 1:
		return o, nil
	}
	var none T
	return none, errs.Invalid("cannot tell which %s is meant by %q: %d ids begin so", x.kind, id, n)
}

// all returns the objects in the order of their ids.
func (x *index[T]) all() []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	ids := make([]string, 0, len(x.byID))
	for id := range x.byID {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	list := make([]T, len(ids))
	for i, id := range ids {
		list[i] = x.byID[id]
	}
	return list
}

func (x *index[T]) add(name, id string, o T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id] = o
	if _, taken := x.byName[name]; !taken {
		x.byName[name] = id
	}
}

// freeName gives the name of an object away; the object itself stays.
func (x *index[T]) freeName(name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName[name] == id {
		delete(x.byName, name)
	}
}

func (x *index[T]) remove(name, id string) {
	x.freeName(name, id)
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// fly runs make for a name, once: a call for a name that is in flight waits for
// that flight. held is asked, under the lock, about an object that has the name
// already: it returns the id to answer with, or an error. A caller whose context
// ends goes away; the flight goes on.
func (x *index[T]) fly(ctx context.Context, name string, held func(T) error, make func() (string, error)) (string, error) {
	x.mu.Lock()
	f := x.flights[name]
	if f == nil {
		if id, ok := x.byName[name]; ok {
			o := x.byID[id]
			x.mu.Unlock()
			return id, held(o)
		}
		f = &flight{done: newSignal()}
		x.flights[name] = f
		go x.run(f, name, make)
	}
	x.mu.Unlock()
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("%s %s is still being made; ask again for the result: %w", x.kind, name, ctx.Err())
	}
}

func (x *index[T]) run(f *flight, name string, make func() (string, error)) {
	f.err = fmt.Errorf("making %s %s panicked; see the log", x.kind, name)
	defer func() {
		x.mu.Lock()
		delete(x.flights, name)
		x.mu.Unlock()
		close(f.done)
	}()
	f.id, f.err = make()
}

func newSignal() chan struct{} { return make(chan struct{}) }

// lock is a mutex that a caller can give up waiting for.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	default:
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another call works on it: %w", ctx.Err())
	}
}

func (l lock) release() { <-l }

// gate lets calls in until it is closed, and tells when the last one left.
type gate struct {
	mu     sync.Mutex
	closed bool
	n      int
	idle   chan struct{}
}

// enter tells whether the caller may go on; it must leave then.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// close lets nobody in any more and waits until all have left.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	if g.n == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.idle == nil {
		g.idle = newSignal()
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("containers are still being made in it: %w", ctx.Err())
	}
}

// closeNow lets nobody in any more and does not wait.
func (g *gate) closeNow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
