package conmon

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/loop"
)

// check completes the options and returns what makes no sense.
func (p *parser) check() string {
	o := &p.o
	cwd := make([]byte, 4096)
	n, err := syscall.Getcwd(cwd)
	if err != nil {
		return "cannot find the current folder: " + err.Error()
	}
	here := string(cwd[:n-1])
	switch {
	case o.Bundle == "" && !o.Exec:
		o.Bundle = here
	case o.Bundle != "" && o.Bundle[0] != '/':
		o.Bundle = here + "/" + o.Bundle
	}
	if o.PidFile == "" {
		o.PidFile = here + "/pidfile-" + o.ID
	}
	o.SocketDir = p.socketDir
	if p.fullAttach {
		o.SocketDir = ""
	}
	if p.replaceListen && hasEnv("LISTEN_PID") {
		o.ListenPid = []string{self, "conmon-listen"}
	}
	if err := p.checkNames(); err != "" {
		return err
	}
	if err := syscall.Access(o.Runtime, 1); err != nil {
		return "cannot execute runtime " + o.Runtime + ": " + err.Error()
	}
	if err := p.checkExec(); err != "" {
		return err
	}
	return p.checkLogs()
}

func (p *parser) checkNames() string {
	o := &p.o
	switch {
	case p.seccomp != "":
		return "cannot use --" + p.seccomp + ": this executable is static and cannot load plugins; use another conmon for this container"
	case o.ID == "":
		return "the container's id is missing: use --cid"
	case !plain(o.ID):
		return "the container's id cannot be a file name: " + o.ID
	case o.UUID == "" && (!o.Exec || o.NewSync):
		return "the container's uuid is missing: use --cuuid"
	case o.UUID != "" && !plain(o.UUID):
		return "the container's uuid cannot be a file name: " + o.UUID
	case o.Runtime == "":
		return "the runtime is missing: use --runtime"
	case len(p.logs) == 0:
		return "the log path is missing: use --log-path"
	}
	return ""
}

func (p *parser) checkExec() string {
	o := &p.o
	switch {
	case !o.Exec && (o.ProcessSpec != "" || o.ExecAttach):
		return "--exec-process-spec and --exec-attach need --exec"
	case o.Exec && o.ProcessSpec == "":
		return "the process is missing: use --exec-process-spec"
	case o.Exec && o.Restore != "":
		return "--exec and --restore exclude each other"
	case o.ExecAttach && o.Bundle == "":
		return "--exec-attach needs a folder for the socket: use --bundle"
	case o.NotifySocket != "" && o.Bundle == "":
		return "--sdnotify-socket needs a folder for the socket: use --bundle"
	}
	if o.Exec {
		if err := syscall.Access(o.ProcessSpec, 4); err != nil {
			return "cannot read the process to execute from " + o.ProcessSpec + ": " + err.Error()
		}
	}
	return ""
}

// checkLogs understands DRIVER, DRIVER:PATH, :PATH and PATH.
func (p *parser) checkLogs() string {
	o := &p.o
	for _, spec := range p.logs {
		driver, path := cut(spec, ':')
		colon := len(driver) < len(spec)
		switch {
		case driver == "none" || driver == "off" || driver == "null":
			continue
		case driver == "journald":
			p.journal.ID = o.ID
			o.Logs.Journal = &p.journal
			continue
		case driver == "passthrough":
			o.Passthrough = true
			continue
		case !colon && driver != "k8s-file":
			path = spec
		case driver != "" && driver != "k8s-file":
			return "there is no log driver " + driver
		}
		if path == "" {
			return "log path " + spec + " does not name a file"
		}
		o.Logs.Paths = append(o.Logs.Paths, path)
	}
	switch {
	case o.Passthrough && (o.Logs.Journal != nil || len(o.Logs.Paths) > 0):
		return "log driver passthrough leaves nothing for another one"
	case o.Passthrough && o.Terminal:
		return "log driver passthrough and --terminal exclude each other"
	case o.Logs.Journal != nil:
		if err := p.journal.Check(); err != nil {
			return err.Error()
		}
	}
	return ""
}

// defaults sets the values of options that are not given.
func (p *parser) defaults() {
	p.socketDir = "/var/run/crio"
	p.o.Level, p.o.Logs.MaxFiles = loop.LevelWarn, 1
	p.o.SyncFD, p.o.StartFD, p.o.AttachFD = -1, -1, -1
}
