// Package process is a container's monitor and the first process that it watches: how
// they are started, found again, and made to go.
package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/ending"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/step"
)

// Monitors starts and asks the processes that watch containers (package monitor).
type Monitors interface {
	Start(context.Context, monitor.Spawn) (monitor.Process, error)
	// ReadExit tells how a container ended; false while there is no exit file.
	ReadExit(exitDir, persistDir, id string) (monitor.Exit, bool, error)
	// Reopen returns when the new log file is there.
	Reopen(ctx context.Context, bundle, log string) error
	// Attach connects streams until the container's output or the context ends; see
	// monitor.Attach.
	Attach(ctx context.Context, bundle string, s monitor.AttachStreams) error
	// Wait returns when the process is gone; at once if it is.
	Wait(context.Context, proc.ID) error
}

// Handler is a runtime handler that is ready for use.
type Handler struct {
	Name    string
	Runtime oci.Runtime
	// Monitor is the executable of the monitor, Argv0 its name, Env its
	// environment.
	Monitor, Argv0 string
	Env            []string
	MinMemory      int64 // bytes; smaller limits are refused
	// NoSyncLog does not force logs to the disk at their end.
	NoSyncLog bool
	// MakeTime bounds the making of one pod or container; 0: the node's.
	MakeTime time.Duration
	// MonitorCgroup is where monitors live: "" with the daemon, "pod" in their pod's
	// cgroup, or the name of a cgroup.
	MonitorCgroup string
}

// Patience is how long making something may take.
func (h *Handler) Patience(node time.Duration) time.Duration { return cmp.Or(h.MakeTime, node) }

// Host is where processes run, and how their monitors are told to watch them.
type Host struct {
	Monitors Monitors
	// Why tells the reason if somebody on this node had a container ended, else
	// nothing; it may be nil.
	Why func(id string) (reason, message string)
	// ExitsDir and AttachDir are where monitors leave exit codes and sockets.
	ExitsDir, AttachDir string
	// Places moves monitors to their cgroups.
	Places        Places
	Journald      bool  // what is logged goes to the journal, too
	LogSizeMax    int64 // bytes; 0 or less: no limit
	NoPivot       bool
	SystemdCgroup bool
}

// Spawn is what all monitors have in common.
func (o *Host) Spawn(h *Handler, id, bundle, log string) monitor.Spawn {
	path, _, args := h.Runtime.Command()
	return monitor.Spawn{
		Path: h.Monitor, Argv0: h.Argv0, Env: h.Env, ID: id, UUID: id, Bundle: bundle,
		PidFile: filepath.Join(bundle, "pidfile"), MonitorPidFile: pidFile(bundle),
		ExitDir: o.ExitsDir, PersistDir: bundle, SocketDir: o.AttachDir,
		LogPath: log, Journald: o.Journald && log != "", LogSizeMax: o.LogSizeMax, NoSyncLog: h.NoSyncLog,
		Runtime: path, RuntimeArgs: args, Systemd: o.SystemdCgroup, NoPivot: o.NoPivot, CgroupFD: -1,
	}
}

// Begin starts a monitor, which starts the container.
func (o *Host) Begin(ctx context.Context, s monitor.Spawn) (*state.Process, error) {
	step.Waits(ctx, "the runtime to create it (monitor "+s.Path+", runtime "+s.Runtime+")")
	defer step.Waits(ctx, "")
	p, err := o.Monitors.Start(ctx, s)
	if err != nil {
		return nil, err
	}
	init, err := proc.Find(p.Container)
	if err != nil { // it is gone already
		init = proc.ID{Pid: p.Container}
	}
	return &state.Process{Monitor: p.Monitor, Init: init}, nil
}

// RemoveExit deletes what a monitor left outside the bundle; absence is success.
func (o *Host) RemoveExit(id string) error {
	return errors.Join(fsx.RemoveIfThere(filepath.Join(o.ExitsDir, id)), os.RemoveAll(filepath.Join(o.AttachDir, id)))
}

// End kills what runs under an id and frees the runtime's state. The monitor follows
// its container; one that is known gets some time for its last words. p is nil if
// none is on record.
func (o *Host) End(ctx context.Context, r oci.Runtime, id, bundle string, p *state.Process) error {
	ctx, cancel := context.WithTimeout(ctx, ending.KillTime)
	defer cancel()
	if p == nil {
		return o.endUnrecorded(ctx, r, id, bundle)
	}
	step.Waits(ctx, "the runtime to kill and delete it")
	defer step.Waits(ctx, "")
	if err := r.Delete(ctx, id, true); err != nil {
		return err
	}
	step.Waits(ctx, fmt.Sprintf("its monitor, process %d, to end", p.Monitor.Pid))
	if err := o.Monitors.Wait(ctx, p.Monitor); err != nil {
		return fmt.Errorf("its monitor, process %d, goes on: %w", p.Monitor.Pid, err)
	}
	return o.leave(ctx, bundle)
}

// endUnrecorded ends what was started and not recorded. The runtime may be about to
// create it at this very moment: as long as a monitor is there, absence is not the
// end.
func (o *Host) endUnrecorded(ctx context.Context, r oci.Runtime, id, bundle string) error {
	for {
		if err := r.Delete(ctx, id, true); err != nil {
			return err
		}
		p := Find(bundle)
		if p == nil {
			return o.leave(ctx, bundle)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		_ = o.Monitors.Wait(short, p.Monitor) // the time limit is the common end
		cancel()
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("its monitor, process %d, goes on: %w", p.Monitor.Pid, err)
		}
	}
}

// Find looks for a monitor that was started but not recorded; nil if there is none.
func Find(bundle string) *state.Process {
	if id, ok := monitor.Find(bundle, pidFile(bundle)); ok {
		return &state.Process{Monitor: id}
	}
	return nil
}

func pidFile(bundle string) string { return filepath.Join(bundle, "monitor.pid") }

// Reason is why a container has ended, for people and for the kubelet.
func (h *Host) Reason(id string, e monitor.Exit) (reason, message string) {
	if h.Why != nil {
		if reason, message = h.Why(id); reason != "" {
			return reason, message
		}
	}
	switch {
	case e.Code == 0:
		return state.ReasonCompleted, ""
	case e.OOM:
		return state.ReasonOOM, ""
	}
	return state.ReasonError, ""
}
