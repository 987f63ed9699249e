package conmon

import (
	"syscall"

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
	{"bundle", 'b', true, "OCI bundle"},
	{"cid", 'c', true, "id of the container"},
	{"cuuid", 'u', true, "name of the link to the bundle"},
	{"name", 'n', true, "name of the container"},
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
	{"log-path", 'l', true, "k8s-file:PATH, PATH or none"},
	{"log-size-max", 0, true, "bytes after which the log begins anew"},
	{"log-global-size-max", 0, true, "not built in yet"},
	{"log-rotate", 0, false, "not built in yet"},
	{"log-max-files", 0, true, "not built in yet"},
	{"log-allowlist-dir", 0, true, "not built in yet"},
	{"log-tag", 0, true, "not built in yet (journald)"},
	{"log-label", 0, true, "not built in yet (journald)"},
	{"no-container-partial-message", 0, false, "for journald only"},
	{"no-sync-log", 0, false, "do not wait for the disk at the end"},
	{"log-level", 0, true, "error, warn, info, debug or trace"},
	{"syslog", 0, false, "write own messages to syslog as well"},
	{"exec", 'e', false, "not built in yet"},
	{"exec-process-spec", 0, true, "not built in yet"},
	{"exec-attach", 0, false, "not built in yet"},
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
	{"sdnotify-socket", 0, true, "not built in yet"},
	{"replace-listen-pid", 0, false, "set LISTEN_PID to the runtime's pid"},
	{"sync", 0, false, "stay in the foreground"},
	{"version", 0, false, "print the version"},
	{"seccomp-notify-socket", 0, true, "not built in yet"},
	{"seccomp-notify-plugins", 0, true, "not built in yet"},
	{"help", 'h', false, "print this text"},
}

// parser collects what the command line says.
type parser struct {
	o                   loop.Options
	socketDir           string
	logs                []string
	sync, help, version bool
	fullAttach          bool
	replaceListen       bool
	missing             string // first option whose effect is not built in
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
		{"socket-dir-path", &p.socketDir}, {"restore", &o.Restore},
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
		{"api-version", &o.NewSync}, {"no-sync-log", &o.NoSyncLog}, {"syslog", &o.Syslog},
		{"systemd-cgroup", &o.SystemdCgroup}, {"no-pivot", &o.NoPivot}, {"no-new-keyring", &o.NoNewKeyring},
		{"terminal", &o.Terminal}, {"stdin", &o.Stdin}, {"leave-stdin-open", &o.LeaveStdinOpen},
		{"full-attach", &p.fullAttach}, {"replace-listen-pid", &p.replaceListen},
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
	case "name", "no-container-partial-message": // of use to journald only
	case "runtime-arg":
		o.RuntimeArgs = append(o.RuntimeArgs, v)
	case "runtime-opt", "restore-arg":
		o.RuntimeOpts = append(o.RuntimeOpts, v)
	case "exit-command-arg":
		o.ExitArgs = append(o.ExitArgs, v)
	case "log-path":
		p.logs = append(p.logs, v)
	case "log-level":
		return p.setLevel(v)
	case "log-size-max", "exit-delay", "timeout", "log-global-size-max":
		n, ok := atoi(v)
		if !ok {
			return "the value of --" + opt.long + " is not a number: " + v
		}
		switch opt.long {
		case "log-size-max":
			o.LogSizeMax = n
		case "exit-delay":
			o.ExitDelay = int(n)
		case "timeout":
			o.Timeout = int(n)
		default:
			if n > 0 {
				p.missing = opt.long
			}
		}
	default:
		if p.missing == "" {
			p.missing = opt.long
		}
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

// check completes the options and returns what makes no sense.
func (p *parser) check() string {
	o := &p.o
	cwd := make([]byte, 4096)
	n, err := syscall.Getcwd(cwd)
	if err != nil {
		return "cannot find the current folder: " + err.Error()
	}
	here := string(cwd[:n-1])
	if o.Bundle == "" {
		o.Bundle = here
	} else if o.Bundle[0] != '/' {
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
	switch {
	case p.missing != "":
		return "--" + p.missing + " is not built in yet"
	case o.ID == "":
		return "the container's id is missing: use --cid"
	case !plain(o.ID):
		return "the container's id cannot be a file name: " + o.ID
	case o.UUID == "":
		return "the container's uuid is missing: use --cuuid"
	case !plain(o.UUID):
		return "the container's uuid cannot be a file name: " + o.UUID
	case o.Runtime == "":
		return "the runtime is missing: use --runtime"
	case len(p.logs) == 0:
		return "the log path is missing: use --log-path"
	}
	if err := syscall.Access(o.Runtime, 1); err != nil {
		return "cannot execute runtime " + o.Runtime + ": " + err.Error()
	}
	return p.checkLogs()
}

// checkLogs understands DRIVER, DRIVER:PATH, :PATH and PATH.
func (p *parser) checkLogs() string {
	for _, spec := range p.logs {
		driver, path := cut(spec, ':')
		colon := len(driver) < len(spec)
		switch {
		case driver == "none" || driver == "off" || driver == "null":
			continue
		case driver == "journald" || driver == "passthrough":
			return "log driver " + driver + " is not built in yet"
		case !colon && driver != "k8s-file":
			path = spec
		case driver != "" && driver != "k8s-file":
			return "there is no log driver " + driver
		}
		if path == "" {
			return "log path " + spec + " does not name a file"
		}
		if p.o.LogPath != "" {
			return "two log files are not built in yet: " + spec
		}
		p.o.LogPath = path
	}
	return ""
}

// plain tells whether s may be a file name and the last word of a command line.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] < ' ' {
			return false
		}
	}
	return s != "" && s != "." && s != ".." && s[0] != '-' && len(s) <= 255
}

func hasEnv(name string) bool {
	_, ok := syscall.Getenv(name)
	return ok
}

// cut splits at the first c; without one all is before.
func cut(s string, c byte) (before, after string) {
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// atoi reads a decimal number that may be negative.
func atoi(s string) (n int64, ok bool) {
	digits := s
	if s != "" && s[0] == '-' {
		digits = s[1:]
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' || n > 1<<62/10 {
			return 0, false
		}
		n = n*10 + int64(digits[i]-'0')
	}
	if len(digits) < len(s) {
		n = -n
	}
	return n, digits != ""
}

func usage() string {
	text := "usage: conmon -c ID -u UUID -r RUNTIME -l LOG [OPTION...]\n\n"
	for i := range options {
		o := &options[i]
		if o.about == "" {
			continue
		}
		line := "  --" + o.long
		if o.short != 0 {
			line = "  -" + string(rune(o.short)) + ", --" + o.long
		}
		if o.value {
			line += " V"
		}
		for len(line) < 34 {
			line += " "
		}
		text += line + o.about + "\n"
	}
	return text
}
