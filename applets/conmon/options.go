package conmon

import (
	"github.com/monocrio/monocrio/internal/monitor/journal"
	"github.com/monocrio/monocrio/internal/monitor/loop"
)

// option is a row of conmon's command line. Its number is its place in the table.
type option struct {
	long  string
	short byte
	value bool // takes one
	about string
}

// options lists all of conmon's, in the order of its manual. Constants only, so
// that the table costs nothing at start.
var options = [...]option{
	{"api-version", 0, false, "use the newer form of sync messages"},
	{"bundle", 'b', true, "OCI bundle; for exec, where attach socket and fifos are made"},
	{"cid", 'c', true, "id of the container"},
	{"cuuid", 'u', true, "name of the link to the bundle"},
	{"name", 'n', true, "name of the container, for the journal"},
	{"runtime", 'r', true, "OCI runtime executable"},
	{"runtime-arg", 0, true, "argument for the runtime, before its subcommand; may be repeated"},
	{"runtime-opt", 0, true, "option for the runtime's subcommand; may be repeated"},
	{"restore-arg", 0, true, ""},
	{"conmon-pidfile", 'P', true, "where to write the monitor's pid"},
	{"container-pidfile", 'p', true, "where the runtime writes the container's pid"},
	{"pidfile", 0, true, ""},
	{"persist-dir", '0', true, "folder for the files exit and oom"},
	{"exit-dir", 0, true, "folder for the file CID with the exit status"},
	{"exit-command", 0, true, "command to run at the end"},
	{"exit-command-arg", 0, true, "argument for it; may be repeated"},
	{"exit-delay", 0, true, "seconds to wait before it"},
	{"log-path", 'l', true, "k8s-file:PATH, PATH, journald, passthrough or none; may be repeated"},
	{"log-size-max", 0, true, "bytes after which a log file begins anew"},
	{"log-global-size-max", 0, true, "bytes in all that a log file gets; more is dropped"},
	{"log-rotate", 0, false, "keep what a log file held before as PATH.1, PATH.2, ..."},
	{"log-max-files", 0, true, "how many of those (1)"},
	{"log-allowlist-dir", 0, true, "folder in which log files must lie; may be repeated"},
	{"log-tag", 0, true, "tag for the journal"},
	{"log-label", 0, true, "NAME=VALUE, a field for the journal; may be repeated"},
	{"no-container-partial-message", 0, false, "do not mark pieces of lines in the journal"},
	{"no-sync-log", 0, false, "do not wait for the disk at the end"},
	{"log-level", 0, true, "error, warn, info, debug or trace"},
	{"syslog", 0, false, "write own messages to syslog as well"},
	{"exec", 'e', false, "run one more process in a running container"},
	{"exec-process-spec", 0, true, "file that describes this process"},
	{"exec-attach", 0, false, "wait for clients on the attach socket before it starts"},
	{"restore", 0, true, "restore the container from the images in this folder"},
	{"systemd-cgroup", 's', false, "passed on to the runtime"},
	{"no-pivot", 0, false, "passed on to the runtime"},
	{"no-new-keyring", 0, false, "passed on to the runtime"},
	{"terminal", 't', false, "the container has a terminal"},
	{"stdin", 'i', false, "the container has a standard input"},
	{"leave-stdin-open", 0, false, "even when a client's input ends"},
	{"timeout", 'T', true, "seconds after which the container is killed"},
	{"socket-dir-path", 0, true, "folder for the link to the bundle"},
	{"full-attach", 0, false, "make no such link"},
	{"sdnotify-socket", 0, true, "service manager's socket, for what the container says on notify/notify.sock"},
	{"replace-listen-pid", 0, false, "set LISTEN_PID to the runtime's pid"},
	{"sync", 0, false, "stay in the foreground"},
	{"version", 0, false, "print the version"},
	{"seccomp-notify-socket", 0, true, "refused: there are no plugins to hand it to"},
	{"seccomp-notify-plugins", 0, true, "refused: this executable cannot load libraries"},
	{"help", 'h', false, "print this text"},
}

// parser collects what the command line says.
type parser struct {
	o                   loop.Options
	socketDir           string
	logs                []string
	journal             journal.Options
	sync, help, version bool
	fullAttach          bool
	replaceListen       bool
	seccomp             string // first option of seccomp's notifications
}

// parse follows the syntax of GLib, which conmon uses: --long=V, --long V, -xV,
// -x V, -xyz for options without value, -- ends, other words are ignored. It
// returns what is wrong.
func (p *parser) parse(args []string) string {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return ""
		case len(arg) > 2 && arg[:2] == "--":
			name, value := cut(arg[2:], '=')
			given := len(name)+2 < len(arg)
			opt := find(name, 0)
			if opt == nil || given && !opt.value {
				return "unknown option " + arg
			}
			if opt.value && !given {
				if len(args) == 0 {
					return "missing value for --" + name
				}
				value, args = args[0], args[1:]
			}
			if err := p.set(opt, value); err != "" {
				return err
			}
		case len(arg) > 1 && arg[0] == '-':
			rest, err := p.letters(arg[1:], args)
			if err != "" {
				return err
			}
			args = rest
		}
	}
	return ""
}

// letters handles short options joined in one word; args are the words after it.
func (p *parser) letters(word string, args []string) ([]string, string) {
	for i := 0; i < len(word); i++ {
		opt, value := find("", word[i]), ""
		if opt == nil {
			return args, "unknown option -" + word[i:i+1]
		}
		if opt.value {
			value = word[i+1:]
			i = len(word)
			if value == "" {
				if len(args) == 0 {
					return args, "missing value for -" + word[len(word)-1:]
				}
				value, args = args[0], args[1:]
			}
		}
		if err := p.set(opt, value); err != "" {
			return args, err
		}
	}
	return args, ""
}

func find(long string, short byte) *option {
	for i := range options {
		if o := &options[i]; long != "" && o.long == long || short != 0 && o.short == short {
			return o
		}
	}
	return nil
}

// set stores one option.
func (p *parser) set(opt *option, v string) string {
	o := &p.o
	for _, x := range [...]struct {
		name string
		text *string
	}{
		{"bundle", &o.Bundle}, {"cid", &o.ID}, {"cuuid", &o.UUID}, {"runtime", &o.Runtime},
		{"conmon-pidfile", &o.MonitorPidFile}, {"container-pidfile", &o.PidFile}, {"pidfile", &o.PidFile},
		{"persist-dir", &o.PersistDir}, {"exit-dir", &o.ExitDir}, {"exit-command", &o.ExitCommand},
		{"socket-dir-path", &p.socketDir}, {"restore", &o.Restore}, {"name", &p.journal.Name},
		{"log-tag", &p.journal.Tag}, {"exec-process-spec", &o.ProcessSpec}, {"sdnotify-socket", &o.NotifySocket},
	} {
		if x.name == opt.long {
			*x.text = v
			return ""
		}
	}
	for _, x := range [...]struct {
		name string
		on   *bool
	}{
		{"api-version", &o.NewSync}, {"no-sync-log", &o.Logs.NoSync}, {"syslog", &o.Syslog},
		{"systemd-cgroup", &o.SystemdCgroup}, {"no-pivot", &o.NoPivot}, {"no-new-keyring", &o.NoNewKeyring},
		{"terminal", &o.Terminal}, {"stdin", &o.Stdin}, {"leave-stdin-open", &o.LeaveStdinOpen},
		{"full-attach", &p.fullAttach}, {"replace-listen-pid", &p.replaceListen},
		{"exec", &o.Exec}, {"exec-attach", &o.ExecAttach}, {"log-rotate", &o.Logs.Rotate},
		{"no-container-partial-message", &p.journal.NoPartial},
		{"sync", &p.sync}, {"version", &p.version}, {"help", &p.help},
	} {
		if x.name == opt.long {
			*x.on = true
			return ""
		}
	}
	return p.setOther(opt, v)
}

func (p *parser) setOther(opt *option, v string) string {
	o := &p.o
	switch opt.long {
	case "runtime-arg":
		o.RuntimeArgs = append(o.RuntimeArgs, v)
	case "runtime-opt", "restore-arg":
		o.RuntimeOpts = append(o.RuntimeOpts, v)
	case "exit-command-arg":
		o.ExitArgs = append(o.ExitArgs, v)
	case "log-path":
		p.logs = append(p.logs, v)
	case "log-label":
		p.journal.Labels = append(p.journal.Labels, v)
	case "log-allowlist-dir":
		o.Logs.Allowed = append(o.Logs.Allowed, v)
	case "log-level":
		return p.setLevel(v)
	case "seccomp-notify-socket", "seccomp-notify-plugins":
		if v != "" {
			p.seccomp = opt.long
		}
	default:
		return p.setNumber(opt.long, v)
	}
	return ""
}

// setNumber stores one of the options that are left.
func (p *parser) setNumber(name, v string) string {
	o := &p.o
	n, ok := atoi(v)
	if !ok {
		return "the value of --" + name + " is not a number: " + v
	}
	switch name {
	case "log-size-max":
		o.Logs.SizeMax = n
	case "log-global-size-max":
		o.Logs.GlobalMax = n
	case "log-max-files":
		if n < 0 || n > 1000 {
			return "the value of --log-max-files is not between 0 and 1000: " + v
		}
		o.Logs.MaxFiles = int(n)
	case "exit-delay":
		o.ExitDelay = int(n)
	case "timeout":
		o.Timeout = int(n)
	}
	return ""
}

func (p *parser) setLevel(v string) string {
	switch v {
	case "error", "fatal", "panic":
		p.o.Level = loop.LevelError
	case "warn", "warning":
		p.o.Level = loop.LevelWarn
	case "info", "debug", "trace":
		p.o.Level = loop.LevelInfo
	default:
		return "there is no log level " + v
	}
	return ""
}
