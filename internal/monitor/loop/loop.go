// Package loop is the monitor: the process that stays with one container, moves its
// standard streams, writes its log, serves attached clients and records how it
// ended. To the outside it keeps conmon's contract (package contract).
//
// It is one goroutine around epoll_wait(2). Nothing is periodic: a container at
// rest costs no instruction. Nothing that happens often allocates, so the garbage
// collector may be switched off by the parent (GOGC=off) to keep the process small.
//
// The package imports syscall, unsafe and runtime only, besides rooms that do the
// same: contract, bare, logs, journal, notify. This is a matter of memory: with these imports it is initialised among the first
// packages of the executable, so that package early can run it before the heavy
// ones. One more import, os say, and each monitor is several times as big.
package loop

import (
	"runtime"
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
	"github.com/monocrio/monocrio/internal/monitor/logs"
	"github.com/monocrio/monocrio/internal/monitor/notify"
)

// Options says whom to watch and how; the words are those of conmon(8).
type Options struct {
	ID, UUID, Bundle        string
	PidFile, MonitorPidFile string // of the container and of the monitor
	ExitDir, PersistDir     string // may be empty
	SocketDir               string // holds a link UUID to the bundle; empty: no link
	Logs                    logs.Options
	Passthrough             bool   // the standard descriptors are the container's, too
	Runtime                 string // path of an executable
	RuntimeArgs             []string
	RuntimeOpts             []string
	SystemdCgroup, NoPivot  bool
	NoNewKeyring            bool
	Restore                 string // folder of criu's images; empty: the container is created
	Exec                    bool   // one more process in a container that runs
	ProcessSpec             string // of that process, a file
	ExecAttach              bool   // do not begin before clients are attached
	NotifySocket            string // of the service manager; empty: none
	Terminal, Stdin         bool
	LeaveStdinOpen          bool
	Timeout                 int // seconds; 0: none
	ExitCommand             string
	ExitArgs                []string
	ExitDelay               int // seconds
	Level                   Level
	Syslog                  bool
	NewSync                 bool // sync message in the form of API version 1
	Background              bool // the standard descriptors are given up
	SyncFD, StartFD         int  // -1: none
	AttachFD                int  // -1: none
	Released                bool // the first message on StartFD has been read
	// ListenPid, if not empty, is put before the runtime's command line: an
	// executable and argv[0] that set LISTEN_PID to their own pid and execute the
	// rest.
	ListenPid []string
	Env       []string

	// Ready is called when the process is sure to go on as a monitor.
	Ready func()
	// CatchSignals makes HUP, INT, QUIT, TERM and CHLD arrive as bytes on a pipe.
	CatchSignals func(fd int)
}

// What an event is about; kept beside the descriptor in the epoll set.
const (
	evSignal int32 = iota
	evListener
	evClient
	evStdin
	evStdout
	evStderr
	evCtl
	evWinsz
	evConsole
	evContainer
	evOOM
	evReopen
	evTimeout
	evNotify
)

type phase uint8

// creating --runtime succeeded--> running --container ended--> ended
//
//	|                                                         ^
//	+--runtime failed, or ended by a signal-------------------+
const (
	creating phase = iota
	running
	ended
)

type monitor struct {
	o       *Options
	phase   phase
	epoll   int
	sigPipe int

	runtimePid, containerPid int
	pidfd                    int // of the container
	status                   int // exit status, shell-like: 128+n for signal n
	orphans                  [32]orphan
	norphans                 int
	timedOut                 bool

	stdin                 input
	stdout, stderr        stream
	said                  []byte // the runtime's stderr while it creates
	saidLogged            bool
	console               console
	clients               clients
	ctl, size             fifo
	log                   logs.Logs
	notify                *notify.Proxy // nil: none
	reopening             bool
	reopenTimer           int
	oom                   oomWatch
	in                    []byte // of inSize bytes
	high                  int    // most of in that was used
	packet                [1]byte
	iov                   [2]syscall.Iovec
	events                [16]syscall.EpollEvent
	oldOOM                string
	syslog                int
	linked, madeContainer bool
}

// Run watches one container from its creation to its end and returns the exit
// status for the process: the container's, 128+n after signal n, 1 if there never
// was a container.
func Run(o *Options) int {
	// The runtime is to die with us, and Linux ties that to the thread.
	runtime.LockOSThread()
	m := &monitor{
		o: o, epoll: -1, sigPipe: -1, pidfd: -1, reopenTimer: -1, syslog: -1,
		stdin:  input{fd: -1, tty: o.Terminal},
		stdout: stream{Stream: logs.Stream{Name: "stdout", Priority: '6'}, fd: -1, id: contract.Stdout, tty: o.Terminal},
		stderr: stream{Stream: logs.Stream{Name: "stderr", Priority: '3'}, fd: -1, id: contract.Stderr},
		oom:    oomWatch{fd: -1}, console: console{fd: -1},
		clients: clients{listener: -1}, ctl: fifo{fd: -1}, size: fifo{fd: -1},
	}
	if err := m.begin(); err != nil {
		return m.refuse(err)
	}
	if err := m.create(); err != nil {
		return m.refuse(err)
	}
	m.turn()
	return m.finish()
}

// begin does what must be done before the runtime is started.
func (m *monitor) begin() error {
	o := m.o
	syscall.Umask(0o022)
	for _, fd := range []int{o.SyncFD, o.StartFD, o.AttachFD} {
		if fd >= 0 {
			syscall.CloseOnExec(fd)
		}
	}
	if o.MonitorPidFile != "" {
		pid := bare.Itoa(int64(syscall.Getpid()))
		if err := bare.WriteFile(o.MonitorPidFile, pid, syscall.O_CREAT|syscall.O_TRUNC, 0o644); err != nil {
			return bare.Cannot("write pid file "+o.MonitorPidFile, err)
		}
	}
	o.Ready()
	if o.Background && !o.Passthrough {
		m.leaveStdio()
	}
	if !o.Released {
		waitStart(o.StartFD)
	}
	if !o.ExecAttach {
		hangUp(&o.StartFD)
	}
	if o.Syslog {
		m.openSyslog("/dev/log")
	}
	if err := bare.BecomeSubreaper(); err != nil {
		return bare.Cannot("become subreaper", err)
	}
	if err := m.openSets(); err != nil {
		return err
	}
	return m.openOutside()
}

// openOutside opens what lies outside of this process.
func (m *monitor) openOutside() (err error) {
	o := m.o
	if err = m.log.Open(&o.Logs, m.warn); err != nil {
		return err
	}
	if m.hasBundle() {
		if err = m.openBundle(); err != nil {
			return err
		}
	}
	if o.NotifySocket != "" {
		if m.notify, err = notify.Open(o.Bundle, o.NotifySocket); err != nil {
			return err
		}
		m.watch(m.notify.FD, syscall.EPOLLIN, evNotify)
	}
	if o.ExecAttach {
		m.awaitAttach()
		hangUp(&o.StartFD)
	}
	return nil
}

// leaveStdio points the three standard descriptors to nowhere: whoever started us
// may wait for their end.
func (m *monitor) leaveStdio() {
	null, err := syscall.Open("/dev/null", syscall.O_RDWR, 0)
	if err != nil {
		return
	}
	for fd := 0; fd < 3; fd++ {
		syscall.Dup3(null, fd, 0)
	}
	if null > 2 {
		syscall.Close(null)
	}
}

// waitStart blocks until the engine writes to the start pipe or closes it.
func waitStart(fd int) {
	if fd < 0 {
		return
	}
	buf := make([]byte, 64)
	_, _ = bare.ReadNow(fd, buf)
}

// openSets makes the buffers, the epoll set and the signal pipe.
func (m *monitor) openSets() error {
	buf, err := bare.Anonymous(inSize + contract.MaxInput)
	if err != nil {
		return bare.Cannot("get memory", err)
	}
	m.in = buf[:inSize:inSize]
	m.stdin.buf = buf[inSize:]
	if m.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return bare.Cannot("make an epoll set", err)
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return bare.Cannot("make the signal pipe", err)
	}
	m.sigPipe = p[0]
	m.watch(m.sigPipe, syscall.EPOLLIN, evSignal)
	m.o.CatchSignals(p[1])
	return nil
}

// openBundle makes the files by which the outside reaches us.
func (m *monitor) openBundle() error {
	o := m.o
	if err := m.clients.listen(m, o.Bundle); err != nil {
		return err
	}
	if err := m.ctl.open(m, o.Bundle+"/"+contract.CtlFile, evCtl); err != nil {
		return err
	}
	if err := m.size.open(m, o.Bundle+"/"+contract.WinszFile, evWinsz); err != nil {
		return err
	}
	if o.SocketDir != "" && o.UUID != "" {
		if err := link(o.SocketDir, o.UUID, o.Bundle); err != nil {
			return err
		}
		m.linked = true
	}
	return nil
}

// turn is the loop.
func (m *monitor) turn() {
	for m.phase != ended {
		wait := -1
		if m.warm() {
			wait = 0 // only a look: with nothing to do there is time to tidy up
		}
		n, err := syscall.EpollWait(m.epoll, m.events[:], wait)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			m.warn(bare.Cannot("wait for events", err).Error())
			return
		}
		if n == 0 {
			m.rest()
			continue
		}
		// Who has connected is to see the output that comes at the same time.
		for i := range m.events[:n] {
			if m.events[i].Pad == evListener {
				m.clients.acceptAll(m)
			}
		}
		for i := range m.events[:n] {
			m.event(int(m.events[i].Fd), m.events[i].Pad, m.events[i].Events)
		}
	}
}

func (m *monitor) event(fd int, kind int32, events uint32) {
	switch kind {
	case evSignal:
		m.signals()
	case evClient:
		m.clients.event(m, fd, events)
	case evStdin:
		m.feedMore()
	case evStdout:
		m.pump(&m.stdout, rounds)
	case evStderr:
		if m.phase == creating {
			m.collectStderr()
		} else {
			m.pump(&m.stderr, rounds)
		}
	case evCtl:
		m.ctl.read(m.control)
	case evWinsz:
		m.size.read(m.winsz)
	case evConsole:
		m.takeConsole()
	case evContainer:
		m.containerGone()
	case evOOM:
		m.oom.event(m)
	case evReopen:
		m.reopenNow()
	case evTimeout:
		m.timeout(fd)
	case evNotify:
		m.notify.Pass(m.in)
	}
}

func (m *monitor) watch(fd int, events uint32, kind int32) {
	m.epollCtl(syscall.EPOLL_CTL_ADD, fd, events, kind)
}

func (m *monitor) modify(fd int, events uint32, kind int32) {
	m.epollCtl(syscall.EPOLL_CTL_MOD, fd, events, kind)
}

func (m *monitor) unwatch(fd int) { m.epollCtl(syscall.EPOLL_CTL_DEL, fd, 0, 0) }

func (m *monitor) epollCtl(op, fd int, events uint32, kind int32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd), Pad: kind}
	if err := syscall.EpollCtl(m.epoll, op, fd, &ev); err != nil && op != syscall.EPOLL_CTL_DEL {
		m.warn(bare.Cannot("watch descriptor "+bare.Itoa(int64(fd)), err).Error())
	}
}

// drop closes a watched descriptor.
func (m *monitor) drop(fd int) {
	m.unwatch(fd) // a copy in another process would keep it in the set
	syscall.Close(fd)
}
