package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// orphan is a child that ended before we knew whether it is the container.
type orphan struct{ pid, status int }

// create starts the runtime, whose one task is to make the container.
func (m *monitor) create() error {
	stdio, err := m.openStdio()
	if !m.o.Passthrough {
		defer stdio.close()
	}
	if err != nil {
		return err
	}
	if m.o.Terminal {
		if err := m.console.listen(m); err != nil {
			return err
		}
	}
	if m.stderr.fd >= 0 {
		m.watch(m.stderr.fd, syscall.EPOLLIN, evStderr)
	}
	if m.o.Timeout > 0 {
		fd, err := bare.Alarm(int64(m.o.Timeout) * 1000)
		if err != nil {
			return bare.Cannot("set a timer", err)
		}
		m.watch(fd, syscall.EPOLLIN, evTimeout)
	}
	path, args := m.o.Runtime, m.command()
	if l := m.o.ListenPid; len(l) > 0 {
		path, args = l[0], append(l[1:], args...)
	}
	m.runtimePid, err = syscall.ForkExec(path, args, &syscall.ProcAttr{
		Env: m.o.Env, Files: stdio[:],
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		m.runtimePid = 0
		return bare.Cannot("execute runtime "+m.o.Runtime, err)
	}
	// After the fork, so that runtime and container do not inherit it. A refusal is
	// no harm: it needs CAP_SYS_RESOURCE.
	const adj = "/proc/self/oom_score_adj"
	if old, err := bare.ReadSmall(adj, m.in); err == nil {
		m.oldOOM = string([]byte(old))
	}
	_ = bare.WriteFile(adj, "-1000", 0, 0)
	return nil
}

// command is the runtime's command line.
func (m *monitor) command() []string {
	o := m.o
	if o.Exec {
		return m.execCommand()
	}
	args := []string{o.Runtime}
	if o.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	args = append(args, o.RuntimeArgs...)
	if o.Restore != "" { // it runs when the runtime returns
		args = append(args, "restore", "--detach", "--image-path", o.Restore, "--work-path", o.Bundle)
	} else {
		args = append(args, "create")
	}
	args = append(args, "--bundle", o.Bundle, "--pid-file", o.PidFile)
	if o.NoPivot {
		args = append(args, "--no-pivot")
	}
	if o.NoNewKeyring {
		args = append(args, "--no-new-keyring")
	}
	if o.Terminal {
		args = append(args, "--console-socket", m.console.path)
	}
	args = append(args, o.RuntimeOpts...)
	return append(args, o.ID)
}

// signals handles what the signal pipe holds.
func (m *monitor) signals() {
	var buf [64]byte
	n, err := bare.ReadNow(m.sigPipe, buf[:])
	if err != nil {
		return
	}
	for _, b := range buf[:n] {
		switch sig := syscall.Signal(b); sig {
		case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM:
			m.forward(sig)
		}
	}
	m.reap()
}

// forward passes a signal on to the container, or to the runtime while there is no
// container.
func (m *monitor) forward(sig syscall.Signal) {
	pid := m.containerPid
	if pid == 0 {
		pid = m.runtimePid
	}
	if pid > 0 {
		syscall.Kill(pid, sig)
	}
}

// reap collects every child that has ended: the runtime, the container, and
// whoever became ours as an orphan.
func (m *monitor) reap() {
	runtimeStatus, runtimeEnded := 0, false
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		status := ws.ExitStatus()
		if ws.Signaled() {
			status = 128 + int(ws.Signal())
		}
		switch {
		case pid == m.runtimePid:
			m.runtimePid, runtimeStatus, runtimeEnded = 0, status, true
		case pid == m.containerPid:
			m.exited(status)
		case m.phase == creating:
			m.orphans[m.norphans%len(m.orphans)] = orphan{pid, status}
			m.norphans++
		}
	}
	if runtimeEnded && m.phase == creating {
		m.created(runtimeStatus)
	}
}

func (m *monitor) exited(status int) {
	m.status = status
	m.phase = ended
}

// created is called when the runtime has ended.
func (m *monitor) created(status int) {
	m.collectStderr()
	if status != 0 {
		text := string(m.said)
		if text == "" {
			text = "the runtime ended with status " + bare.Itoa(int64(status)) + " and without a word"
		}
		if m.timedOut {
			text = timedOut
		}
		m.fail(text)
		return
	}
	text, err := bare.ReadSmall(m.o.PidFile, m.in)
	if err != nil {
		m.fail(bare.Cannot("read pid of the container from "+m.o.PidFile, err).Error())
		return
	}
	pid, ok := 0, false
	if f := bare.Fields(text); len(f) > 0 {
		bare.EachLine(f[0], func(line string) bool { pid, ok = bare.Atoi(line); return false })
	}
	if !ok || pid == 0 {
		m.fail("cannot read pid of the container: " + m.o.PidFile + " does not hold a number")
		return
	}
	m.adopt(pid)
	if m.phase == running { // and nothing may happen for a long time
		bare.DropFile(m.in)
	}
}

// adopt begins to watch the container.
func (m *monitor) adopt(pid int) {
	m.containerPid, m.phase, m.madeContainer = pid, running, true
	if m.console.fd >= 0 {
		m.takeConsole() // it was sent before the runtime ended
	}
	if m.o.Exec {
		m.tellExec(pid)
	} else {
		m.oom.watch(m, pid)
		m.tell(&m.o.SyncFD, pid, "")
		hangUp(&m.o.SyncFD)
	}
	m.startOutput()
	m.releaseStderr()
	for _, o := range m.orphans[:min(m.norphans, len(m.orphans))] {
		if o.pid == pid {
			m.exited(o.status)
			return
		}
	}
	// As a rule the container is our child and SIGCHLD tells its end. The pidfd
	// tells it also where a runtime gave it another parent.
	fd, err := bare.PidfdOpen(pid)
	if err != nil {
		if err == syscall.ESRCH {
			m.containerGone()
		}
		return
	}
	m.pidfd = fd
	m.watch(fd, syscall.EPOLLIN, evContainer)
}

// containerGone is called when the container's process is no longer alive.
func (m *monitor) containerGone() {
	m.reap()
	if m.phase == running { // not our child: its status went to somebody else
		m.warn("the container's process was not a child of the monitor; its exit status is not known")
		m.exited(255)
	}
}

// fail ends the phase of creation without a container.
func (m *monitor) fail(text string) {
	m.tell(&m.o.SyncFD, -1, text)
	hangUp(&m.o.SyncFD)
	m.warn(text)
	m.status, m.phase = 1, ended
}

// refuse is the end before the runtime ran.
func (m *monitor) refuse(err error) int {
	m.fail(err.Error())
	return m.finish()
}

// timeout kills the container, or the runtime, with its process group.
func (m *monitor) timeout(fd int) {
	m.drop(fd)
	m.timedOut = true
	pid := m.containerPid
	if pid == 0 {
		pid = m.runtimePid
	}
	if pid > 0 {
		if syscall.Kill(-pid, syscall.SIGKILL) != nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
