package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// finish is what remains when the container has ended, or never was. It returns
// the status of the process.
func (m *monitor) finish() int {
	if m.madeContainer {
		m.oom.check(m) // at once: the cgroup may be removed by others
		m.pump(&m.stdout, endRounds)
		m.pump(&m.stderr, endRounds)
		m.log.Finish(&m.stdout.Stream)
		m.log.Finish(&m.stderr.Stream)
		m.ctl.read(m.control)
		if m.reopening {
			m.reopenNow() // whoever asked waits for the file
		}
		m.oom.check(m)
	}
	m.log.Close(m.madeContainer)
	m.notify.Pass(m.in)
	m.notify.Close()
	m.console.close(m)
	if m.madeContainer {
		m.writeExit()
		if m.o.Exec {
			m.tellStatus()
		}
	}
	// Only now, so that a client that sees the end finds the exit status.
	m.clients.close(m)
	if m.linked {
		syscall.Unlink(m.o.SocketDir + "/" + m.o.UUID)
	}
	if m.madeContainer && m.o.ExitCommand != "" {
		return m.exitCommand()
	}
	return m.status
}

// writeExit records the exit status where the engine looks for it; -1 is that of a
// process that was killed because its time was over.
func (m *monitor) writeExit() {
	code := bare.Itoa(int64(m.status))
	if m.timedOut {
		code = "-1"
	}
	if dir := m.o.PersistDir; dir != "" {
		if err := bare.ReplaceFile(dir, contract.ExitFile, code); err != nil {
			m.warn(err.Error())
		}
	}
	if dir := m.o.ExitDir; dir != "" {
		if err := bare.ReplaceFile(dir, m.o.ID, code); err != nil {
			m.warn(err.Error())
		}
	}
}

// exitCommand runs the engine's command. Its status, if not 0, becomes ours.
func (m *monitor) exitCommand() int {
	if m.o.ExitDelay > 0 {
		delay := syscall.Timespec{Sec: int64(m.o.ExitDelay)}
		for syscall.Nanosleep(&delay, &delay) == syscall.EINTR {
		}
	}
	if m.oldOOM != "" {
		_ = bare.WriteFile("/proc/self/oom_score_adj", m.oldOOM, 0, 0)
	}
	closeFrom3()
	if m.o.Passthrough {
		m.leaveStdio() // what the command says is not the container's output
	}
	args := append([]string{m.o.ExitCommand}, m.o.ExitArgs...)
	pid, err := syscall.ForkExec(m.o.ExitCommand, args, &syscall.ProcAttr{Env: m.o.Env, Files: []uintptr{0, 1, 2}})
	if err != nil {
		m.warn(bare.Cannot("execute exit command "+m.o.ExitCommand, err).Error())
		return 127
	}
	var ws syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &ws, 0, nil); err != syscall.EINTR {
			break
		}
	}
	switch {
	case ws.Signaled():
		return 128 + int(ws.Signal())
	case ws.ExitStatus() != 0:
		return ws.ExitStatus()
	}
	return m.status
}

// closeFrom3 closes inherited descriptors, such as the ports that an engine
// reserved for as long as the container lives.
func closeFrom3() {
	const sysCloseRange = 436
	if _, _, e := syscall.RawSyscall(sysCloseRange, 3, ^uintptr(0)>>1, 0); e == 0 {
		return
	}
	for fd := 3; fd < 1024; fd++ {
		syscall.Close(fd)
	}
}
