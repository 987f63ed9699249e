package pod

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// step is one row of a lifecycle table. Both halves must be safe to repeat; down
// works from the record alone and takes absence for success.
type step[T object] struct {
	name     string
	up, down func(T, context.Context) error // method expressions
}

// object is a pod or container, as the walks need it.
type object interface {
	kind() string
	ident() string
}

// undoTime bounds one down. Kernel and plugins get this long; then the object
// stays in its phase and a later walk tries again.
const undoTime = 2 * time.Minute

// climb runs the ups in order. If one fails it descends from there and returns the
// first error joined with those of the undoing; undone tells whether all downs
// succeeded.
func climb[T object](ctx context.Context, steps []step[T], o T) (undone bool, err error) {
	for i, s := range steps {
		crashPoint(o.kind(), s.name, "before-up")
		err := ctx.Err()
		if err == nil {
			err = s.up(o, ctx)
		}
		crashPoint(o.kind(), s.name, "after-up")
		if err == nil {
			continue
		}
		err = fmt.Errorf("cannot make %s %s: %s: %w", o.kind(), o.ident(), s.name, err)
		down := descend(ctx, steps[:i+1], o)
		return down == nil, errors.Join(err, down)
	}
	return true, nil
}

// descend runs the downs in reverse order, each one even if another failed. It does
// not end with the caller's context.
func descend[T object](ctx context.Context, steps []step[T], o T) (err error) {
	for i := len(steps) - 1; i >= 0; i-- {
		crashPoint(o.kind(), steps[i].name, "before-down")
		if e := undo(ctx, steps[i], o); e != nil {
			err = errors.Join(err, fmt.Errorf("cannot unmake %s %s: %s: %w", o.kind(), o.ident(), steps[i].name, e))
		}
		crashPoint(o.kind(), steps[i].name, "after-down")
	}
	return err
}

// undo runs one down behind a deadline: an unmount or plugin that hangs must not
// take the caller with it.
func undo[T object](ctx context.Context, s step[T], o T) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- s.down(o, ctx)
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
