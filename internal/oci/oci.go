// Package oci is the seam between this program and whatever runs containers:
// the Runtime interface in the words of the OCI runtime specification, its value
// types, and the bundle on disk.
//
// It may import the kernel floor (cgroup usage is part of a container's
// statistics), ground and the specification's types. It knows neither pods nor
// the CRI, and nothing of how its implementations work: oci/libct is the
// embedded one, oci/command drives an external executable, and oci/ocitest holds
// both to what is written here.
package oci

import (
	"context"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
)

// Status is where a container stands in its life. The words are those of the
// runtime specification, and "paused", which all runtimes add.
type Status string

// The statuses.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// State is what a runtime knows about one container.
type State struct {
	ID     string
	Status Status
	// Pid is the init process in our pid namespace; 0 when stopped.
	Pid         int
	Bundle      string
	Created     time.Time
	Annotations map[string]string
}

// Stats is the consumption of one container's cgroup.
type Stats = cgroup.Usage

// Size is that of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// CreateOptions say how to make a container.
type CreateOptions struct {
	// Bundle is the folder with config.json.
	Bundle string
	// ConsoleSocket is a listening unix socket that receives the terminal's
	// master; needed if and only if the spec asks for a terminal.
	ConsoleSocket string
	// PidFile gets the init's pid in decimal, written aside and renamed.
	PidFile string
	// NoPivot uses MS_MOVE and chroot instead of pivot_root (root on a ramdisk).
	NoPivot bool
	// NoNewKeyring keeps the caller's session keyring.
	NoNewKeyring bool
	// The container's standard streams; nil is /dev/null. Unused with a terminal.
	Stdin, Stdout, Stderr *os.File
	// ExtraFiles become descriptors 3, 4, ... of the container's process.
	ExtraFiles []*os.File
}

// ExecRequest asks for one more process in a running container.
type ExecRequest struct {
	// Process is complete: arguments, environment, user, cwd, capabilities.
	Process *specs.Process
	// Stdin is copied to the process until it ends or the process does; once the
	// process has closed its end, the rest is read and dropped. A Read that blocks may
	// outlive the exec; whoever made the reader ends it.
	Stdin io.Reader
	// Stdout and Stderr get the output; nil is /dev/null. With Process.Terminal
	// all output goes to Stdout. A writer that fails closes the process's stream: it
	// gets SIGPIPE when it writes again, or SIGHUP with a terminal.
	Stdout, Stderr io.Writer
	// Hangup, once closed, tells that nobody sees the output any more: it is as if
	// the writers had failed. The process is awaited nevertheless. May be nil.
	Hangup <-chan struct{}
	// Resize changes the terminal's size; nil or closed: no more changes.
	Resize <-chan Size
	// CgroupSub is an existing cgroup below the container's to run in; empty: the
	// runtime chooses.
	CgroupSub string
	// Started is called once, with the pid in our namespace, when the process
	// runs; nil: nobody wants to know.
	Started func(pid int)
}

// CheckpointOptions say where a container's processes are written down.
type CheckpointOptions struct {
	// Images is an existing folder for the images of the processes, Work one for
	// criu's log.
	Images, Work string
	// LeaveRunning lets the container go on.
	LeaveRunning bool
	// TCPEstablished takes open connections along; they can be restored only where
	// their addresses are.
	TCPEstablished bool
}

// Drain is how long output is awaited after an exec'd process ended while
// somebody else, a background child, still holds its streams open. What was
// written before the end is delivered in full in any case.
const Drain = 200 * time.Millisecond

// Runtime runs containers. All methods may be called at any time by any number
// of goroutines and processes; what they know lives on disk and in the kernel
// only. Ids are letters, digits, "_", "+", "-" and "."; another id is
// errs.KindInvalid on Create and errs.KindNotFound elsewhere.
//
// When the context ends, a method gives up waiting and returns KindDeadline or
// KindCanceled; what it had begun may still come to pass unless said otherwise.
type Runtime interface {
	// Create makes a container from a bundle up to the point where its process
	// waits for Start. The init becomes the caller's child (or, when the runtime
	// is another process, that of the nearest subreaper). KindAlreadyExists for a
	// known id, KindInvalid for a bundle or spec that cannot be meant. A failed
	// Create leaves nothing behind.
	Create(ctx context.Context, id string, o CreateOptions) error
	// Start lets a created container's process run. KindPrecondition in any other
	// state or when the waiting process is gone, KindNotFound for an unknown id.
	Start(ctx context.Context, id string) error
	// State tells what is known; KindNotFound for an unknown id.
	State(ctx context.Context, id string) (State, error)
	// Kill sends a signal to the init, or to every process of the container. An
	// unknown or stopped container is success for SIGKILL with all; otherwise
	// KindNotFound and KindPrecondition. It does not wait for the end.
	Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error
	// Delete removes what the runtime and the kernel hold for a container. It
	// must be stopped, else KindPrecondition, or force kills it first and waits.
	// Absence is success.
	Delete(ctx context.Context, id string, force bool) error
	// Exec runs a process in a running container and waits for its end. code is
	// the exit status, 128 plus the number for a signal. An error means that the
	// process did not run or was not awaited: KindNotFound, KindPrecondition (not
	// running, or paused), KindInvalid (the command cannot be executed). When the
	// context ends, the process and all its descendants that can be found are
	// killed and the error is KindDeadline or KindCanceled. A descendant that
	// outlives the process in the ordinary way is left alone, and what it writes
	// is waited for no longer than Drain.
	Exec(ctx context.Context, id string, req ExecRequest) (code int, err error)
	// Update changes limits; fields that are nil stay. KindPrecondition if
	// stopped.
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Pause freezes all processes; a paused container is success.
	Pause(ctx context.Context, id string) error
	// Resume thaws them; a running container is success.
	Resume(ctx context.Context, id string) error
	// Checkpoint writes the processes of a running or paused container down, by criu.
	// The container goes on (or stays paused) if LeaveRunning is set; else it ends.
	// KindPrecondition when it is not running, or criu is not there or not able.
	Checkpoint(ctx context.Context, id string, o CheckpointOptions) error
	// Processes lists the pids in our namespace; none when stopped.
	Processes(ctx context.Context, id string) ([]int, error)
	// Stats reads the cgroup's counters.
	Stats(ctx context.Context, id string) (*Stats, error)
	// Features tells what the runtime can do; KindUnimplemented if it cannot say.
	Features(ctx context.Context) (*features.Features, error)
	// Command tells how a monitor calls this runtime: the executable, the name it
	// expects as argument 0, and the arguments before the verb.
	Command() (path, argv0 string, globalArgs []string)
}

// ValidID tells whether runtimes accept id as a container's name; such an id is
// also one element of a path.
func ValidID(id string) bool {
	if id == "" || len(id) > 255 || id == "." || id == ".." {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '_', c == '+', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}
