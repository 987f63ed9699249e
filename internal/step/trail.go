package step

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Trail is what is known of one life since this daemon began: what was done, how long
// it took, how it failed last, what it waits for. Each thing is there once, however
// often it was tried, so a trail stays small. The zero value is ready, a nil one keeps
// nothing.
type Trail struct {
	mu   sync.Mutex
	list []*Entry
}

// Verb is the kind of thing that was done.
type Verb string

// The verbs. A walk's are Up and Down; a call is what the owner of the life was asked
// for; a phase is reached and takes no time.
const (
	Up      Verb = "up"
	Down    Verb = "down"
	Call    Verb = "call"
	Reached Verb = "reached"
)

// Entry is one thing that was done, or is being done.
type Entry struct {
	What  string
	Verb  Verb
	Began time.Time
	Took  time.Duration // so far, while Running
	// Running says that it goes on, Waits for what.
	Running bool
	Waits   string
	// Tries counts how often it was begun. Err is how it ended last, empty for well;
	// while it runs, how the try before ended.
	Tries int
	Err   string
}

// Bounds of a trail.
const (
	trailMost  = 64
	errorBytes = 1000
)

// Begin notes that something is being done. The context it returns carries the entry
// for Waits; end must be called once.
func (t *Trail) Begin(ctx context.Context, v Verb, what string) (_ context.Context, end func(error)) {
	ctx, told := observe(ctx, v, what)
	if t == nil {
		return ctx, told
	}
	e := t.add(v, what, true)
	return context.WithValue(ctx, trailKey{}, mark{t, e}), func(err error) {
		told(err)
		t.mu.Lock()
		defer t.mu.Unlock()
		e.Running, e.Took, e.Err = false, time.Since(e.Began), ""
		if err != nil {
			e.Err = clip(cmp.Or(err.Error(), "it failed without a word"))
		}
	}
}

// Now is what is being done to an object, which may not be there yet.
func Now(o Object, there bool) string {
	what := "beginning"
	if there {
		for _, e := range o.Trail().Entries() {
			if e.Running {
				what = e.What
			}
		}
	}
	return what
}

// Observer is told of what is begun, and by the function that it returns of its end.
// The context is what the thing is done with.
type Observer func(ctx context.Context, v Verb, what string) (context.Context, func(error))

type observerKey struct{}

// Subject is whose life a thing belongs to that an Observer hears of.
type Subject struct{ Kind, ID string }

type subjectKey struct{}

// SubjectOf finds it in the context of a step; the zero value if there is none.
func SubjectOf(ctx context.Context) Subject {
	s, _ := ctx.Value(subjectKey{}).(Subject)
	return s
}

// of notes whose life it is, if somebody wants to know.
func of(ctx context.Context, o Object) context.Context {
	if ctx.Value(observerKey{}) == nil {
		return ctx
	}
	return context.WithValue(ctx, subjectKey{}, Subject{o.Kind(), o.Ident()})
}

// WithObserver lets an observer hear of all that is done with the context.
func WithObserver(ctx context.Context, o Observer) context.Context {
	if o == nil {
		return ctx
	}
	return context.WithValue(ctx, observerKey{}, o)
}

func observe(ctx context.Context, v Verb, what string) (context.Context, func(error)) {
	if o, ok := ctx.Value(observerKey{}).(Observer); ok {
		return o(ctx, v, what)
	}
	return ctx, func(error) {}
}

// Reach notes a phase.
func (t *Trail) Reach(phase string) {
	if t != nil {
		t.add(Reached, phase, false)
	}
}

func (t *Trail) add(v Verb, what string, running bool) *Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &Entry{What: what, Verb: v, Began: time.Now(), Running: running, Tries: 1}
	if i := slices.IndexFunc(t.list, func(o *Entry) bool { return o.Verb == v && o.What == what }); i >= 0 {
		e.Tries, e.Err = t.list[i].Tries+1, t.list[i].Err
		t.list = slices.Delete(t.list, i, i+1)
	}
	if len(t.list) >= trailMost {
		t.list = slices.Delete(t.list, 0, 1)
	}
	t.list = append(t.list, e)
	return e
}

// Entries returns a copy, oldest first.
func (t *Trail) Entries() []Entry {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Entry, len(t.list))
	for i, e := range t.list {
		out[i] = *e
		if e.Running {
			out[i].Took = time.Since(e.Began)
		}
	}
	return out
}

type trailKey struct{}

type mark struct {
	t *Trail
	e *Entry
}

// Waits says what the thing that is being done waits for now; empty: for nothing. Whoever works
// for a step calls it, and needs not know whose step that is.
func Waits(ctx context.Context, what string) {
	if m, ok := ctx.Value(trailKey{}).(mark); ok {
		m.t.mu.Lock()
		m.e.Waits = what
		m.t.mu.Unlock()
	}
}

// clip bounds a text; its end, where the cause stands, counts more than its middle.
func clip(s string) string {
	if len(s) <= errorBytes {
		return s
	}
	return s[:errorBytes/4] + " ... " + s[len(s)-errorBytes*3/4:]
}

// Loss is a life that failed before it began, or may yet.
type Loss struct {
	Kind string // as Object.Kind
	ID   string // empty: it had none yet
	// Name is whose life it was to be, for people; a second loss of the same name and
	// kind replaces the first and counts it.
	Name  string
	Owner string // id of what it was to belong to
	Times int
	At    time.Time
	Err   string
	Trail []Entry
}

// Losses keeps the last lives that failed before they began, and knows those that are
// to begin. The zero value is ready.
type Losses struct {
	mu      sync.Mutex
	list    []Loss
	pending map[*Trail]Loss
}

const lossesMost = 64

// Begin notes that a life is to begin, whose trail is t. end must be called once; with
// nil, the life has begun, and losses of that name are forgotten.
func (l *Losses) Begin(x Loss, t *Trail) (end func(error)) {
	x.At = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		l.pending = map[*Trail]Loss{}
	}
	l.pending[t] = x
	return func(err error) {
		l.mu.Lock()
		delete(l.pending, t)
		l.mu.Unlock()
		if err != nil {
			l.add(x, t, err)
			return
		}
		l.forget(x.Kind, x.Name)
	}
}

// Pending are the lives that are to begin.
func (l *Losses) Pending() (list []Loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for t, x := range l.pending {
		x.Trail = t.Entries()
		list = append(list, x)
	}
	return list
}

func (l *Losses) add(x Loss, t *Trail, err error) {
	x.Times, x.At, x.Err, x.Trail = 1, time.Now(), clip(err.Error()), t.Entries()
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.list, func(o Loss) bool { return o.Kind == x.Kind && o.Name == x.Name }); i >= 0 {
		x.Times += l.list[i].Times
		l.list = slices.Delete(l.list, i, i+1)
	}
	if len(l.list) >= lossesMost {
		l.list = slices.Delete(l.list, 0, 1)
	}
	l.list = append(l.list, x)
}

// forget drops what is known under a name.
func (l *Losses) forget(kind, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(o Loss) bool { return o.Kind == kind && o.Name == name })
}

// All returns them, oldest first.
func (l *Losses) All() []Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}
