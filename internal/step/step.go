// Package step is the walk through a life: a table of steps, each with an up and a
// down. Making climbs the ups in order, and whatever unmakes descends the downs, so
// undoing is written once. The package knows nothing of whose life it is.
package step

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Step is one row of a lifecycle table. Both halves must be safe to repeat; Down works
// from the record alone and takes absence for success.
type Step[T Object] struct {
	Name     string
	Up, Down func(T, context.Context) error // method expressions
}

// Table is a life, in the order of its making.
type Table[T Object] []Step[T]

// Object is what lives, as the walks need it: what it is called in errors, and where it
// is noted what was done (nil: nowhere).
type Object interface {
	Kind() string
	Ident() string
	Trail() *Trail
}

// UndoTime bounds one down. Kernel and plugins get this long; then the object
// stays in its phase and a later walk tries again.
const UndoTime = 2 * time.Minute

// Climb runs the ups in order. If one fails it descends from there and returns the
// first error joined with those of the undoing; undone tells whether all downs
// succeeded.
func (t Table[T]) Climb(ctx context.Context, o T) (undone bool, err error) {
	for i, s := range t {
		CrashPoint(o.Kind(), s.Name, "before-up")
		err := ctx.Err()
		if err == nil {
			here, end := o.Trail().Begin(of(ctx, o), Up, s.Name)
			err = s.Up(o, here)
			end(err)
		}
		CrashPoint(o.Kind(), s.Name, "after-up")
		if err == nil {
			continue
		}
		err = fmt.Errorf("cannot make %s %s: %s: %w", o.Kind(), o.Ident(), s.Name, err)
		down := t[:i+1].Descend(ctx, o)
		return down == nil, errors.Join(err, down)
	}
	return true, nil
}

// Descend runs the downs in reverse order, each one even if another failed. It does
// not end with the caller's context.
func (t Table[T]) Descend(ctx context.Context, o T) (err error) {
	for i := len(t) - 1; i >= 0; i-- {
		CrashPoint(o.Kind(), t[i].Name, "before-down")
		if e := undo(ctx, t[i], o); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot unmake %s %s: %s: %w", o.Kind(), o.Ident(), t[i].Name, e))
		}
		CrashPoint(o.Kind(), t[i].Name, "after-down")
	}
	return err
}

// undo runs one down behind a deadline: an unmount or plugin that hangs must not
// take the caller with it.
func undo[T Object](ctx context.Context, s Step[T], o T) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), UndoTime)
	ctx, end := o.Trail().Begin(of(ctx, o), Down, s.Name)
	defer func() { end(err) }()
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- s.Down(o, ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select {
		case err := <-done:
			return err
		default:
			return fmt.Errorf("it hangs in the kernel or in a plugin: %w", context.Cause(ctx))
		}
	}
}

// Named picks steps, in the order of the table.
func (t Table[T]) Named(names ...string) (some Table[T]) {
	for _, s := range t {
		if slices.Contains(names, s.Name) {
			some = append(some, s)
		}
	}
	return some
}
