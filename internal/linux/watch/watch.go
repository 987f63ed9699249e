// Package watch tells when files in folders may have changed, inotify(7).
package watch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Watch calls back when something in its folders may have changed: by one inotify
// instance that watches each folder and its parent, or, while a folder does not
// exist, the nearest one above it that does. When the user's instances or watches are
// exhausted it looks every two seconds instead.
type Watch struct {
	what string
	dirs func() []string
	log  *slog.Logger
	fd   int
	f    *os.File // nil: poll
}

// settle is how long a folder must be quiet before it is read: files come in
// several writes.
const settle = 20 * time.Millisecond

// pollEvery is the period of the fallback.
const pollEvery = 2 * time.Second

// New arms a watch, so that no change after its return is missed. What is watched is
// named for the log; dirs lists the folders and is asked again after each change.
func New(what string, dirs func() []string, log *slog.Logger) *Watch {
	w := &Watch{what: what, dirs: dirs, log: log}
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

// Dir is for a watch of one folder.
func Dir(dir string) func() []string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return func() []string { return []string{dir} }
}

func (w *Watch) giveUp(err error) {
	w.log.Warn("cannot watch "+w.what+"; looking at it every 2s (raise fs.inotify.max_user_instances and max_user_watches)", "dirs", w.dirs(), "err", err)
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}

// Run calls changed after each change until ctx ends.
func (w *Watch) Run(ctx context.Context, changed func()) {
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
func (w *Watch) drain(f *os.File, buf []byte) {
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
func (w *Watch) arm() error {
	for _, dir := range w.dirs() {
		if err := w.armDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watch) armDir(dir string) error {
	const inside = unix.IN_CREATE | unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ATTRIB
	const self = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	for {
		at, err := w.add(dir, inside|self)
		if err != nil {
			return err
		}
		if at == dir { // its replacement is an event of the folder above
			// The folder above may be one that is watched for its content.
			_, err = w.add(filepath.Dir(dir), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MASK_ADD|self)
			return err
		}
		// What is missing may have been made before the watch was there.
		if again, err := w.add(dir, inside|self); err != nil || again == at {
			return err
		}
	}
}

// add watches a folder or the nearest one above it that exists, and returns which.
func (w *Watch) add(dir string, mask uint32) (string, error) {
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
