package cni

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// watch calls back when something in a folder may have changed: by one inotify
// instance that watches the folder and its parent, or, while the folder does not
// exist, the nearest folder above it that does. When the user's instances or
// watches are exhausted it looks every two seconds instead.
type watch struct {
	dir string
	log *slog.Logger
	fd  int
	f   *os.File // nil: poll
}

// settle is how long a folder must be quiet before it is read: files come in
// several writes.
const settle = 20 * time.Millisecond

// pollEvery is the period of the fallback.
const pollEvery = 2 * time.Second

// newWatch arms the watch, so that no change after its return is missed.
func newWatch(dir string, log *slog.Logger) *watch {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	w := &watch{dir: dir, log: log}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		w.fd, w.f = fd, os.NewFile(uintptr(fd), "inotify")
		err = w.arm()
	}
	if err != nil {
		w.giveUp(err)
	}
	return w
}

func (w *watch) giveUp(err error) {
	w.log.Warn("cannot watch the CNI configuration folder; looking at it every 2s (raise fs.inotify.max_user_instances and max_user_watches)", "dir", w.dir, "err", err)
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}

// run calls changed after each change until ctx ends.
func (w *watch) run(ctx context.Context, changed func()) {
	if f := w.f; f != nil {
		stop := context.AfterFunc(ctx, func() { f.Close() })
		defer stop()
		buf := make([]byte, 4096)
		for ctx.Err() == nil {
			if _, err := f.Read(buf); err != nil {
				if ctx.Err() != nil {
					return
				}
				w.giveUp(err)
				break
			}
			w.drain(f, buf)
			if err := w.arm(); err != nil && ctx.Err() == nil {
				w.giveUp(err)
				changed()
				break
			}
			changed()
		}
		if ctx.Err() != nil {
			return
		}
	}
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			changed()
		}
	}
}

// drain reads until the folder is quiet, but not for long: a busy folder is read
// all the same.
func (w *watch) drain(f *os.File, buf []byte) {
	for end := time.Now().Add(10 * settle); time.Now().Before(end); {
		if f.SetReadDeadline(time.Now().Add(settle)) != nil {
			return
		}
		if _, err := f.Read(buf); err != nil {
			break
		}
	}
	_ = f.SetReadDeadline(time.Time{})
}

// arm adds the watches, again and again if folders come meanwhile. Adding a watch
// that is there changes nothing.
func (w *watch) arm() error {
	const inside = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB
	const self = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	for {
		at, err := w.add(w.dir, inside|self)
		if err != nil {
			return err
		}
		if at == w.dir { // its replacement is an event of the folder above
			_, err = w.add(filepath.Dir(w.dir), unix.IN_CREATE|unix.IN_MOVED_TO|self)
			return err
		}
		// What is missing may have been made before the watch was there.
		if again, err := w.add(w.dir, inside|self); err != nil || again == at {
			return err
		}
	}
}

// add watches a folder or the nearest one above it that exists, and returns which.
func (w *watch) add(dir string, mask uint32) (string, error) {
	for {
		_, err := unix.InotifyAddWatch(w.fd, dir, mask)
		switch {
		case err == nil:
			return dir, nil
		case (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) && dir != "/":
			dir = filepath.Dir(dir)
		default:
			return "", err
		}
	}
}
