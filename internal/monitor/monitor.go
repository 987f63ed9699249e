// Package monitor is the engine's side of a monitor: it starts one per container
// and talks to it by conmon's contract only (package contract), so that any program
// that keeps the contract will do, also one of an older release.
//
// The monitor goes into the background and has a session of its own. It is no
// child of the engine afterwards and needs nothing of it: an engine may end at any
// time, and another one find the monitor by its pid file.
//
// The package imports the standard library, x/sys, linux/proc and ground; it knows
// no pods.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// Alive tells whether a monitor still runs.
func Alive(id proc.ID) bool { return id.Alive() }

// Exit is how a container ended.
type Exit struct {
	Code int       // exit status, 128+n after signal n
	At   time.Time // when the monitor recorded it
	OOM  bool      // the kernel killed in it for lack of memory
}

// ReadExit returns what a monitor has recorded of the end of a container; false if
// it has recorded nothing yet. Either folder may be empty.
func ReadExit(exitDir, persistDir, id string) (Exit, bool, error) {
	if !plain(id) {
		return Exit{}, false, errs.Invalid("cannot read exit of container %q: this is no file name", id)
	}
	var paths []string
	if exitDir != "" {
		paths = append(paths, filepath.Join(exitDir, id))
	}
	if persistDir != "" {
		paths = append(paths, filepath.Join(persistDir, contract.ExitFile))
	}
	for _, path := range paths {
		e, err := readExitFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Exit{}, false, fmt.Errorf("cannot read exit of container %s: %w", id, err)
		}
		if persistDir != "" {
			_, err := os.Lstat(filepath.Join(persistDir, contract.OOMFile))
			e.OOM = err == nil
		}
		return e, true, nil
	}
	return Exit{}, false, nil
}

func readExitFile(path string) (Exit, error) {
	f, err := os.Open(path)
	if err != nil {
		return Exit{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Exit{}, err
	}
	buf := make([]byte, 16)
	n, err := f.Read(buf)
	if err != nil {
		return Exit{}, fmt.Errorf("%s: %w", path, err)
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return Exit{}, fmt.Errorf("%s does not hold a number", path)
	}
	return Exit{Code: code, At: st.ModTime()}, nil
}

// plain tells whether an id may become a file name and a word of a command line.
func plain(id string) bool {
	return id != "" && id != "." && id != ".." && id[0] != '-' && len(id) <= 255 &&
		!strings.ContainsFunc(id, func(r rune) bool { return r == '/' || r < ' ' })
}

// Reopen asks the monitor of a bundle to begin a new log file. It returns when
// the request is written; ReopenWait also waits for the file. A monitor that is
// gone is an error of kind NotFound.
func Reopen(ctx context.Context, bundle string) error {
	return control(ctx, bundle, fmt.Sprintf("%d 0 0\n", contract.CtlReopen))
}

// ReopenWait asks for a new log file and returns when there is a file at logPath.
// The old one is expected to have been moved away.
func ReopenWait(ctx context.Context, bundle, logPath string) error {
	if err := Reopen(ctx, bundle); err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if _, err := os.Lstat(logPath); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot see new log file %s: %w", logPath, ctx.Err())
		case <-time.After(wait):
		}
		// A monitor whose container ended meanwhile will not do it any more.
		if err := control(ctx, bundle, ""); err != nil {
			if _, there := os.Lstat(logPath); there == nil {
				return nil
			}
			return err
		}
	}
}

// Resize sets the size of the container's terminal, in characters. The contract
// allows up to 1000 of each.
func Resize(ctx context.Context, bundle string, height, width uint16) error {
	return control(ctx, bundle, fmt.Sprintf("%d %d %d\n", contract.CtlResize, min(height, 1000), min(width, 1000)))
}

// control writes one line to the monitor's fifo. Lines of this length are written
// whole or not at all, whoever else writes (pipe(7), PIPE_BUF).
func control(ctx context.Context, bundle, line string) error {
	path := filepath.Join(bundle, contract.CtlFile)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
		return errs.NotFound("monitor at", path)
	}
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path) // non-blocking, so that deadlines work
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
		return errs.Invalid("cannot control the monitor: %s is not a fifo", path)
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if line == "" {
		return nil // it was a question whether anybody listens
	}
	if _, err := f.WriteString(line); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("cannot control the monitor by %s: %w", path, err)
	}
	return nil
}
