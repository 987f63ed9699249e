package cgroup

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
)

// killPatience bounds KillAll when the context does not.
const killPatience = 10 * time.Second

// KillAll kills every process of a cgroup and below, also those that are born
// meanwhile, and waits until they are gone. Absence is success. Processes that
// do not die in time, for they wait for a device, are KindDeadline and named.
func KillAll(ctx context.Context, path string) error {
	path, err := clean(path)
	if err != nil {
		return err
	}
	var dirs []string
	if Unified() {
		dirs = []string{Root + path}
	} else {
		// One hierarchy would do if all agree, but an exec may have put a process
		// into one of them only. The freezer's comes first: it stops forks.
		if d := DirFor("freezer", path); d != "" {
			dirs = append(dirs, d)
		}
		for _, d := range Dirs(path) {
			if len(dirs) == 0 || d != dirs[0] {
				dirs = append(dirs, d)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	for _, dir := range dirs {
		if err := KillDir(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// KillDir is KillAll for one folder of a cgroup file system, given by its whole
// path.
func KillDir(ctx context.Context, dir string) error {
	if !strings.HasPrefix(dir, Root+"/") {
		return errs.Invalid("cannot kill cgroup %s: it is not below %s", dir, Root)
	}
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		if err := killOnce(dir); err != nil {
			return fmt.Errorf("cannot kill cgroup %s: %w", dir, err)
		}
		pids, err := alive(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot kill cgroup %s: still there: %s: %w", dir, describe(pids), ctx.Err())
		case <-time.After(delay):
		}
	}
}

// killOnce sends SIGKILL to all once: by the kernel where it can (Linux 5.14),
// else to a frozen, and therefore complete, list.
func killOnce(dir string) error {
	err := write(filepath.Join(dir, "cgroup.kill"), "1")
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		return ignoreGone(err)
	}
	// The freezer: version 1 has a word, version 2 a number. Whoever cannot freeze
	// is killed in rounds.
	frozen := write(filepath.Join(dir, "freezer.state"), "FROZEN") == nil
	frozen2 := !frozen && write(filepath.Join(dir, "cgroup.freeze"), "1") == nil
	pids, err := pidsBelow(dir)
	for _, pid := range pids {
		if pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	// Thawing delivers the signals.
	if frozen {
		_ = write(filepath.Join(dir, "freezer.state"), "THAWED")
	}
	if frozen2 {
		_ = write(filepath.Join(dir, "cgroup.freeze"), "0")
	}
	return ignoreGone(err)
}

// alive lists processes that are not zombies: those only wait for their parent.
func alive(dir string) ([]int, error) {
	pids, err := pidsBelow(dir)
	var left []int
	for _, pid := range pids {
		if s := state(pid); s != 0 && s != 'Z' && s != 'X' {
			left = append(left, pid)
		}
	}
	return left, err
}

// state is the letter of proc_pid_stat(5); 0 if the process is gone.
func state(pid int) byte {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	if !ok || rest == "" {
		return 0
	}
	return rest[0]
}

// describe names processes with their state and the kernel function they wait in.
func describe(pids []int) string {
	var b strings.Builder
	for _, pid := range pids[:min(len(pids), 5)] {
		wchan, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/wchan")
		fmt.Fprintf(&b, "process %d (state %c, waits in %q) ", pid, state(pid), wchan)
	}
	return strings.TrimSpace(b.String())
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// write writes to an existing control file; it never makes one.
func write(path, data string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(data)
	return err
}

func readDirNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// MoveAll moves the processes of one cgroup's folder into another's, both whole
// paths, and returns how many moved. Who vanishes meanwhile does not matter.
func MoveAll(from, to string) (moved int) {
	pids, _ := pidsBelow(from)
	for _, pid := range pids {
		if write(filepath.Join(to, "cgroup.procs"), strconv.Itoa(pid)) == nil {
			moved++
		}
	}
	return moved
}
