package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// Spawn says which monitor to start, for which container.
type Spawn struct {
	Path  string // executable: "/proc/self/exe" for our own monitor
	Argv0 string // "conmon" for our own; empty: Path

	ID, UUID, Name string // UUID is ID if empty
	Bundle         string
	PidFile        string // of the container; default BUNDLE/pidfile
	MonitorPidFile string // default BUNDLE/conmon-pidfile
	ExitDir        string
	PersistDir     string
	SocketDir      string // holds a link UUID to the bundle; empty: no link
	LogPath        string // CRI log; empty: no log
	LogSizeMax     int64  // bytes; 0: no limit
	Journald       bool   // the output goes to the system's journal, too

	Runtime     string // OCI runtime executable
	RuntimeArgs []string
	RuntimeOpts []string // for its subcommand
	// Restore is the folder of images from which the container's processes come; it
	// runs when Start returns. Empty: it is created.
	Restore string

	Systemd, NoPivot, NoNewKeyring  bool
	Terminal, Stdin, LeaveStdinOpen bool
	NoSyncLog                       bool
	Env                             []string // of monitor and runtime, whole
	LogLevel                        string   // of the monitor's own messages; empty: its default

	// CgroupFD, if greater than 0, is a cgroup v2 folder in which the monitor is
	// born (clone3(2), CLONE_INTO_CGROUP).
	CgroupFD int
	// Place, if not nil, is called while the monitor waits and has no children:
	// the moment to move it to its cgroups.
	Place func(pid int) error
}

// Process is a container with its monitor.
type Process struct {
	Monitor   proc.ID
	Container int // pid
}

// args is the monitor's command line. Values are never joined with each other.
func (s *Spawn) args() []string {
	argv0 := s.Argv0
	if argv0 == "" {
		argv0 = s.Path
	}
	a := []string{argv0, "-b", s.Bundle, "-c", s.ID, "-u", s.UUID, "-r", s.Runtime,
		"-p", s.PidFile, "-P", s.MonitorPidFile}
	add := func(name, value string) {
		if value != "" {
			a = append(a, name, value)
		}
	}
	on := func(name string, b bool) {
		if b {
			a = append(a, name)
		}
	}
	add("-n", s.Name)
	add("--exit-dir", s.ExitDir)
	add("--persist-dir", s.PersistDir)
	if s.LogPath == "" {
		add("-l", "none")
	} else {
		add("-l", "k8s-file:"+s.LogPath)
	}
	if s.Journald {
		add("-l", "journald:")
	}
	if s.LogSizeMax > 0 {
		add("--log-size-max", strconv.FormatInt(s.LogSizeMax, 10))
	}
	add("--log-level", s.LogLevel)
	if s.SocketDir == "" {
		on("--full-attach", true)
	} else {
		add("--socket-dir-path", s.SocketDir)
	}
	for _, v := range s.RuntimeArgs {
		a = append(a, "--runtime-arg", v)
	}
	for _, v := range s.RuntimeOpts {
		a = append(a, "--runtime-opt", v)
	}
	add("--restore", s.Restore)
	on("-s", s.Systemd)
	on("--no-pivot", s.NoPivot)
	on("--no-new-keyring", s.NoNewKeyring)
	on("-t", s.Terminal)
	on("-i", s.Stdin)
	on("--leave-stdin-open", s.LeaveStdinOpen)
	on("--no-sync-log", s.NoSyncLog)
	return a
}

func (s *Spawn) complete() error {
	if s.UUID == "" {
		s.UUID = s.ID
	}
	if s.PidFile == "" {
		s.PidFile = filepath.Join(s.Bundle, "pidfile")
	}
	if s.MonitorPidFile == "" {
		s.MonitorPidFile = filepath.Join(s.Bundle, "conmon-pidfile")
	}
	for _, id := range []string{s.ID, s.UUID} {
		if !plain(id) {
			return errs.Invalid("cannot start a monitor for container %q: this is no file name", id)
		}
	}
	if !filepath.IsAbs(s.Bundle) {
		return errs.Invalid("cannot start a monitor for container %s: bundle %q is not an absolute path", s.ID, s.Bundle)
	}
	for _, v := range append(append([]string{s.Runtime}, s.RuntimeArgs...), s.RuntimeOpts...) {
		if v == "" || strings.ContainsRune(v, 0) {
			return errs.Invalid("cannot start a monitor for container %s: an argument of the runtime is empty or holds a zero byte", s.ID)
		}
	}
	return nil
}

// Start starts a monitor, which lets the runtime create the container, and returns
// when the container exists. Otherwise the error's text is what the runtime said.
// When ctx ends first, the half-made monitor and its runtime are killed and gone
// on return; what the runtime has made is the caller's to delete.
func Start(ctx context.Context, s Spawn) (Process, error) {
	if err := s.complete(); err != nil {
		return Process{}, err
	}
	p, err := start(ctx, &s)
	if err != nil {
		return Process{}, fmt.Errorf("cannot start container %s: %w", s.ID, err)
	}
	return p, nil
}

func start(ctx context.Context, s *Spawn) (p Process, err error) {
	os.Remove(s.MonitorPidFile) // the one we read must be this monitor's
	os.Remove(s.PidFile)
	syncR, syncW, err := os.Pipe()
	if err != nil {
		return p, err
	}
	defer syncR.Close()
	startR, startW, err := os.Pipe()
	if err != nil {
		syncW.Close()
		return p, err
	}
	defer startW.Close()
	said, err := quietFile()
	if err != nil {
		syncW.Close()
		startR.Close()
		return p, err
	}
	defer said.Close()
	first, err := launch(s, said, syncW, startR)
	syncW.Close() // else its end would never be seen
	startR.Close()
	if err != nil {
		return p, fmt.Errorf("cannot execute monitor %s: %w", s.Path, err)
	}
	if s.Place != nil {
		if err := s.Place(first.Pid); err != nil {
			first.Kill()
			first.Wait()
			return p, fmt.Errorf("cannot place monitor: %w", err)
		}
	}
	_, _ = startW.Write([]byte{0}) // a monitor that is gone already says why below
	startW.Close()
	if err := awaitBackground(ctx, first, said); err != nil {
		killMonitor(s)
		return p, err
	}
	p.Monitor, err = findMonitor(s.MonitorPidFile)
	if err == nil {
		p.Container, err = readSync(ctx, syncR, said)
	}
	if err != nil {
		killMonitor(s)
		return Process{}, err
	}
	return p, nil
}

// patience is how long a monitor may take for what should take milliseconds.
const patience = 5 * time.Second

// quietFile is memory that takes what a monitor says before it goes into the
// background; unlike a pipe it needs no reader and has no end to wait for.
func quietFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("monitor-stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	return os.NewFile(uintptr(fd), "monitor-stderr"), nil
}

func launch(s *Spawn, said, syncW, startR *os.File) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	attr := &os.ProcAttr{
		Env: append(append([]string{}, s.Env...),
			contract.SyncPipe+"=3", contract.StartPipe+"=4",
			// For our own monitor, which keeps them from the runtime: one thread's
			// worth of Go, and no collector where nothing is allocated.
			"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=16MiB"),
		Files: []*os.File{null, null, said, syncW, startR},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if s.CgroupFD > 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, s.CgroupFD
	}
	return os.StartProcess(s.Path, s.args(), attr)
}

// awaitBackground waits until the process we started has left the work to its
// child. It ends with an error when it found the options wrong.
func awaitBackground(ctx context.Context, first *os.Process, said *os.File) error {
	// Killed at once it would leave a child that nobody knows yet, and it is as
	// good as done anyway.
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(patience):
			first.Kill()
		}
	})
	st, err := first.Wait()
	close(done)
	stop()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("cannot wait for monitor: %w", err)
	case !st.Success():
		return fmt.Errorf("the monitor refused (%s): %s", st, whatWasSaid(said))
	}
	return nil
}

func findMonitor(pidFile string) (proc.ID, error) {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return proc.ID{}, fmt.Errorf("cannot find monitor: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 0 {
		return proc.ID{}, fmt.Errorf("cannot find monitor: %s does not hold a pid", pidFile)
	}
	id, err := proc.Find(pid)
	if err != nil {
		// It ended at once; its sync message says why.
		return proc.ID{Pid: pid}, nil
	}
	return id, nil
}

// readSync reads the monitor's one message: the container's pid, or why not.
func readSync(ctx context.Context, syncR, said *os.File) (int, error) {
	stop := context.AfterFunc(ctx, func() { syncR.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var line []byte
	buf := make([]byte, 4096)
	for {
		n, err := syncR.Read(buf)
		line = append(line, buf[:n]...)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i]
			break
		}
		if err == nil && len(line) < 1<<17 {
			continue
		}
		switch {
		case ctx.Err() != nil:
			return 0, ctx.Err()
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("the monitor ended without a message%s", colon(whatWasSaid(said)))
		}
		return 0, fmt.Errorf("cannot read the monitor's message: %w", err)
	}
	var msg struct {
		Pid     *int   `json:"pid"`
		Data    *int   `json:"data"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(line, &msg); err != nil {
		return 0, fmt.Errorf("cannot understand the monitor's message %q: %w", line, err)
	}
	pid := msg.Pid
	if pid == nil {
		pid = msg.Data
	}
	if pid == nil || *pid <= 0 {
		text := strings.TrimSpace(msg.Message)
		if text == "" {
			text = "the runtime failed without a word"
		}
		return 0, errors.New(text)
	}
	return *pid, nil
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func whatWasSaid(said *os.File) string {
	buf := make([]byte, contract.MaxMessage)
	n, _ := said.ReadAt(buf, 0)
	return strings.TrimSpace(string(buf[:n]))
}

// killMonitor ends a monitor whose container is not wanted any more, if it still
// runs, and waits for its end. Its runtime dies with it (PR_SET_PDEATHSIG).
func killMonitor(s *Spawn) {
	id, err := findMonitor(s.MonitorPidFile)
	if err != nil || id.Start == 0 {
		return
	}
	p, err := proc.Open(id)
	if err != nil {
		return
	}
	defer p.Close()
	_ = p.Signal(unix.SIGKILL)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = p.Wait(ctx)
	proc.Reap(id.Pid) // ours if this process is a subreaper or process 1
}
