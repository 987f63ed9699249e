package loop

// In exec mode the process that is watched is one more of a container that somebody
// else made and watches: the runtime's verb is another, and the engine wants the
// exit status on the sync pipe. Lack of memory is the container's affair.

// execCommand is the runtime's command line.
func (m *monitor) execCommand() []string {
	o := m.o
	args := append([]string{o.Runtime}, o.RuntimeArgs...)
	args = append(args, "exec", "--pid-file", o.PidFile, "--process", o.ProcessSpec, "--detach")
	if o.Terminal {
		args = append(args, "--console-socket", m.console.path)
	}
	args = append(args, o.RuntimeOpts...)
	return append(args, o.ID)
}

// awaitAttach tells the engine that its clients may attach, and waits until they
// have: the command's first output is for them.
func (m *monitor) awaitAttach() {
	o := m.o
	m.tell(&o.AttachFD, 0, "")
	waitStart(o.StartFD)
	hangUp(&o.AttachFD)
	m.clients.acceptAll(m)
}

// tellExec is called when the process runs. Only the newer form has a message
// for that.
func (m *monitor) tellExec(pid int) {
	if m.o.NewSync {
		m.tell(&m.o.SyncFD, pid, "")
	}
}

// tellStatus is called when the process has ended.
func (m *monitor) tellStatus() {
	if m.timedOut {
		m.tell(&m.o.SyncFD, -1, timedOut)
	} else {
		m.tell(&m.o.SyncFD, m.status, "")
	}
	hangUp(&m.o.SyncFD)
}

// hasBundle tells whether there is a folder for the socket and the fifos.
func (m *monitor) hasBundle() bool { return m.o.Bundle != "" && !m.o.Passthrough }
