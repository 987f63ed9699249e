// Package contract holds the names and numbers that a monitor and its engine share:
// conmon's contract, as far as it consists of constants.
//
// It imports nothing, because the monitor process must be initialised before
// nearly every other package (see applets/early).
package contract

// Variables of the environment that name inherited descriptors.
const (
	SyncPipe   = "_OCI_SYNCPIPE"   // monitor -> engine: one JSON line, pid or -1 and message
	StartPipe  = "_OCI_STARTPIPE"  // engine -> monitor: one message, or EOF, lets it begin
	AttachPipe = "_OCI_ATTACHPIPE" // exec with attach only
)

// Files in the bundle.
const (
	// AttachFile is a SOCK_SEQPACKET socket. A client that only listens binds its end
	// to a name, any name, so that its going is not taken for the end of the input;
	// that much is ours, and conmon passes over it.
	AttachFile = "attach"
	CtlFile    = "ctl"   // fifo; lines "1 H W" (resize) and "2 0 0" (reopen the log)
	WinszFile  = "winsz" // fifo; lines "H W"
	OOMFile    = "oom"   // empty; there once the kernel killed for lack of memory
)

// ExitFile is the exit status in the persist folder; in the exit folder the file
// bears the container's id.
const ExitFile = "exit"

// Kinds of line on the ctl fifo.
const (
	CtlResize = 1
	CtlReopen = 2
)

// First byte of a packet from monitor to attached client.
const (
	Stdout = 2 // a terminal's output is all Stdout
	Stderr = 3
)

// Sizes in bytes.
const (
	MaxOutput  = 8192  // payload of a packet to a client; text of a log record
	MaxInput   = 32768 // packet from a client
	MaxMessage = 8191  // of the runtime's stderr in a sync message
)
