// Package flight finds objects by id and name, and knows the calls in progress under
// a name: a repeated call joins the one in flight instead of starting a second. It
// has the two locks that such calls need. It knows nothing of what it indexes.
package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sort"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
)

// Index finds objects by id, by the beginning of an id and by name, and knows which
// names are being made. It is never locked across I/O.
type Index[T any] struct {
	// Joined, if set before the first flight, hears of calls that join one, and of the
	// object that is being made, if it is listed already.
	Joined func(o T, there bool)

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

// NewIndex makes an empty index; kind names its objects in errors.
func NewIndex[T any](kind string) *Index[T] {
	return &Index[T]{kind: kind, byID: map[string]T{}, byName: map[string]string{}, flights: map[string]*flight{}}
}

// Find returns the object with this id, or with an id that begins so if only one
// does.
func (x *Index[T]) Find(id string) (o T, err error) {
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

// All returns the objects in the order of their ids.
func (x *Index[T]) All() []T {
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

// Add enters an object; a name that is taken stays with its holder.
func (x *Index[T]) Add(name, id string, o T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id] = o
	if _, taken := x.byName[name]; !taken {
		x.byName[name] = id
	}
}

// FreeName gives the name of an object away; the object itself stays.
func (x *Index[T]) FreeName(name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName[name] == id {
		delete(x.byName, name)
	}
}

// Remove forgets an object and its name.
func (x *Index[T]) Remove(name, id string) {
	x.FreeName(name, id)
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}

// Fly runs do for a name, once: a call for a name that is in flight waits for
// that flight. held is asked about an object that has the name already: nil means
// that its id is the answer. A caller whose context
// ends goes away; the flight goes on.
func (x *Index[T]) Fly(ctx context.Context, name string, held func(T) error, do func() (string, error)) (string, error) {
	x.mu.Lock()
	f := x.flights[name]
	if f != nil && x.Joined != nil {
		o, there := x.byID[x.byName[name]]
		defer x.Joined(o, there)
	}
	if f == nil {
		if id, ok := x.byName[name]; ok {
			o := x.byID[id]
			x.mu.Unlock()
			return id, held(o)
		}
		f = &flight{done: make(chan struct{})}
		x.flights[name] = f
		go x.run(f, name, do)
	}
	x.mu.Unlock()
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return "", fmt.Errorf("%s %s is still being made; ask again for the result: %w", x.kind, name, ctx.Err())
	}
}

func (x *Index[T]) run(f *flight, name string, do func() (string, error)) {
	defer func() {
		if p := recover(); p != nil { // one broken request must not end all others
			f.err = fmt.Errorf("making %s %s panicked; please report this: %v\n%s", x.kind, name, p, debug.Stack())
		}
		x.mu.Lock()
		delete(x.flights, name)
		x.mu.Unlock()
		close(f.done)
	}()
	f.id, f.err = do()
}

// Lock is a mutex that a caller can give up waiting for.
type Lock chan struct{}

// NewLock returns a free lock.
func NewLock() Lock { return make(Lock, 1) }

// Acquire takes the lock, or fails when ctx ends first.
func (l Lock) Acquire(ctx context.Context) error {
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

// Release gives the lock back.
func (l Lock) Release() { <-l }

// Gate lets calls in until it is closed, and tells when the last one left.
type Gate struct {
	mu     sync.Mutex
	closed bool
	n      int
	idle   chan struct{}
}

// Enter tells whether the caller may go on; it must leave then.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.n++
	return true
}

// Leave is called once for each Enter that was let in.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n--; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// Close lets nobody in any more and waits until all have left.
func (g *Gate) Close(ctx context.Context) error {
	g.mu.Lock()
	g.closed = true
	if g.n == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
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

// CloseNow lets nobody in any more and does not wait.
func (g *Gate) CloseNow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}
