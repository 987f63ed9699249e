// Package proc knows processes the way the kernel does: by pid and start time,
// by pidfd, by /proc/PID.
//
// A pid alone may be another process by now; an ID is not. The package imports
// the standard library, x/sys and ground, and knows nothing of containers.
package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// ID names one process for as long as the machine runs.
type ID struct {
	Pid   int
	Start uint64 // clock ticks between boot and the start of the process, proc_pid_stat(5)
}

// Find returns the ID of the process that has a pid now. A zombie counts: it is
// still there to be waited for. Without such a process the kind is NotFound.
func Find(pid int) (ID, error) {
	st, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return ID{Pid: pid, Start: st.start}, nil
}

// Alive tells whether the process exists and is not a zombie.
func (id ID) Alive() bool {
	st, err := readStat(id.Pid)
	return err == nil && st.start == id.Start && st.state != 'Z' && st.state != 'X'
}

// String returns "PID@START", for logs.
func (id ID) String() string {
	return strconv.Itoa(id.Pid) + "@" + strconv.FormatUint(id.Start, 10)
}

type stat struct {
	state byte
	ppid  int
	start uint64
}

func readStat(pid int) (stat, error) {
	data, err := readFile(pid, "stat")
	if err != nil {
		return stat{}, err
	}
	st, ok := parseStat(string(data))
	if !ok {
		return stat{}, fmt.Errorf("cannot read state of process %d: /proc/%d/stat has an unknown form", pid, pid)
	}
	return st, nil
}

// parseStat takes apart /proc/PID/stat. The second field is the command in
// parentheses and may hold anything, also spaces and parentheses: the last
// closing one ends it.
func parseStat(s string) (stat, bool) {
	end := strings.LastIndexByte(s, ')')
	if end < 0 {
		return stat{}, false
	}
	f := strings.Fields(s[end+1:])
	const state, ppid, start = 0, 1, 19 // fields 3, 4 and 22 of proc_pid_stat(5)
	if len(f) <= start || len(f[state]) != 1 {
		return stat{}, false
	}
	parent, err1 := strconv.Atoi(f[ppid])
	ticks, err2 := strconv.ParseUint(f[start], 10, 64)
	return stat{state: f[state][0], ppid: parent, start: ticks}, err1 == nil && err2 == nil
}

// Parent returns the pid of a process's parent.
func Parent(pid int) (int, error) {
	st, err := readStat(pid)
	return st.ppid, err
}

// Cgroups returns the lines of /proc/PID/cgroup as a map from controller to path,
// with "" for the unified hierarchy (cgroups(7)). Paths are seen from the reader's
// cgroup namespace.
func Cgroups(pid int) (map[string]string, error) {
	data, err := readFile(pid, "cgroup")
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for name := range strings.SplitSeq(f[1], ",") {
			m[name] = f[2]
		}
	}
	return m, nil
}

// Status returns the fields of /proc/PID/status by name, values without the
// surrounding white space, for example Status(pid)["NSpid"].
func Status(pid int) (map[string]string, error) {
	data, err := readFile(pid, "status")
	if err != nil {
		return nil, err
	}
	m := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m, nil
}

func readFile(pid int, name string) ([]byte, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/" + name)
	if pid <= 0 || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, errs.NotFound("process", strconv.Itoa(pid))
	}
	return data, err
}

// BecomeSubreaper makes orphans among the descendants children of this process,
// which from now on has to wait for them: see Reap.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become subreaper: %w", err)
	}
	return nil
}

// Reap waits, without blocking, for one given child that nobody else waits for.
// It tells whether the child was there and had ended.
func Reap(pid int) bool {
	got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
	return err == nil && got == pid
}

// Self is the path under which this executable can be started again, also after
// its file was replaced or removed.
const Self = "/proc/self/exe"

// SelfPath returns where this executable lay when it was started, and whether
// that path still leads to the same file: it does not after an upgrade in place.
func SelfPath() (path string, current bool, err error) {
	path, err = os.Readlink(Self)
	if err != nil {
		return "", false, fmt.Errorf("cannot find own executable: %w", err)
	}
	if p, gone := strings.CutSuffix(path, " (deleted)"); gone {
		return p, false, nil
	}
	now, err1 := os.Stat(path)
	own, err2 := os.Stat(Self)
	return path, err1 == nil && err2 == nil && os.SameFile(now, own), nil
}

// SetOOMScore writes a process's oom_score_adj; a process that is gone is success.
// Lowering it below what the process has needs CAP_SYS_RESOURCE: EACCES.
func SetOOMScore(pid, score int) error {
	err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte(strconv.Itoa(score)), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
