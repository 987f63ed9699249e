package conmon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const must = "-c id -u uid -r /bin/true -l none "

func TestParse(t *testing.T) {
	for line, want := range map[string]func(p *parser) bool{
		must:                                   func(p *parser) bool { return p.o.ID == "id" && p.o.SocketDir == "/var/run/crio" },
		must + "--bundle=/b --exit-dir /e":     func(p *parser) bool { return p.o.Bundle == "/b" && p.o.ExitDir == "/e" },
		must + "-b/b -ti -0 /p":                func(p *parser) bool { return p.o.Bundle == "/b" && p.o.Terminal && p.o.Stdin && p.o.PersistDir == "/p" },
		must + "--runtime-arg --sync":          func(p *parser) bool { return !p.sync && p.o.RuntimeArgs[0] == "--sync" },
		must + "--runtime-arg=--a=b":           func(p *parser) bool { return p.o.RuntimeArgs[0] == "--a=b" },
		must + "--api-version 1 stray":         func(p *parser) bool { return p.o.NewSync },
		must + "-- --nonsense":                 func(p *parser) bool { return true },
		must + "--full-attach":                 func(p *parser) bool { return p.o.SocketDir == "" },
		must + "-l k8s-file:/x:y":              func(p *parser) bool { return p.o.Logs.Paths[0] == "/x:y" },
		must + "-l :/x":                        func(p *parser) bool { return p.o.Logs.Paths[0] == "/x" },
		must + "-l /x":                         func(p *parser) bool { return p.o.Logs.Paths[0] == "/x" },
		must + "--log-size-max -1":             func(p *parser) bool { return p.o.Logs.SizeMax == -1 },
		must + "--log-size-max 12":             func(p *parser) bool { return p.o.Logs.SizeMax == 12 },
		must + "--log-global-size-max -1":      func(p *parser) bool { return p.o.Logs.GlobalMax == -1 },
		must + "-l /a -l k8s-file:/b":          func(p *parser) bool { return reflect.DeepEqual(p.o.Logs.Paths, []string{"/a", "/b"}) },
		must + "-l passthrough":                func(p *parser) bool { return p.o.Passthrough },
		must + "-c 0123456789abc -l journald:": func(p *parser) bool { return p.o.Logs.Journal.ID == "0123456789abc" },
		must + "-c 0123456789abc -n N --log-tag T --log-label A=B --log-label C= -l journald": func(p *parser) bool {
			j := p.o.Logs.Journal
			return j.Name == "N" && j.Tag == "T" && reflect.DeepEqual(j.Labels, []string{"A=B", "C="})
		},
		must + "--log-rotate --log-max-files=3":                         func(p *parser) bool { return p.o.Logs.Rotate && p.o.Logs.MaxFiles == 3 },
		must + "--log-rotate":                                           func(p *parser) bool { return p.o.Logs.MaxFiles == 1 },
		must + "--log-allowlist-dir /a":                                 func(p *parser) bool { return p.o.Logs.Allowed[0] == "/a" },
		must + "--sdnotify-socket @x":                                   func(p *parser) bool { return p.o.NotifySocket == "@x" },
		must + "--seccomp-notify-socket= --seccomp-notify-plugins=":     func(p *parser) bool { return p.seccomp == "" },
		"-e -c id -r /bin/true -l none --exec-process-spec /etc/passwd": func(p *parser) bool { return p.o.Exec && p.o.Bundle == "" },
		must + "-e --exec-process-spec /etc/passwd --exec-attach -b /b": func(p *parser) bool { return p.o.ExecAttach && p.o.Bundle == "/b" },
		must + "-T 5 --exit-delay=3":                                    func(p *parser) bool { return p.o.Timeout == 5 && p.o.ExitDelay == 3 },
		must + "--exit-command-arg -c":                                  func(p *parser) bool { return reflect.DeepEqual(p.o.ExitArgs, []string{"-c"}) },
		must + "--log-level trace --pidfile x":                          func(p *parser) bool { return p.o.PidFile == "x" },
	} {
		var p parser
		p.defaults()
		err := p.parse(strings.Fields(line))
		if err == "" {
			err = p.check()
		}
		if err != "" || !want(&p) {
			t.Errorf("%s: %s %+v", line, err, p)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for line, want := range map[string]string{
		must + "--nonsense":                      "--nonsense",
		must + "-z":                              "-z",
		must + "--terminal=yes":                  "--terminal",
		must + "-P":                              "-P",
		must + "--exit-dir":                      "--exit-dir",
		must + "-T x":                            "timeout",
		must + "--log-level loud":                "loud",
		must + "-l journald:":                    "longer than 12",
		must + "-l passthrough -l /x":            "passthrough",
		must + "-l passthrough -t":               "passthrough",
		must + "-l syslog:x":                     "syslog",
		must + "-l k8s-file:":                    "k8s-file",
		must + "-e":                              "--exec-process-spec",
		must + "--exec-attach":                   "--exec",
		must + "-e --exec-process-spec /no/such": "/no/such",
		must + "-e --exec-process-spec /etc/passwd --exec-attach":                     "--bundle",
		must + "-e --exec-process-spec /etc/passwd --restore /x":                      "--restore",
		must + "-e --exec-process-spec /etc/passwd --sdnotify-socket /x":              "--bundle",
		must + "-c 0123456789abc -l journald: --log-label A":                          "NAME=VALUE",
		must + "-c 0123456789abc -l journald: --log-label =A":                         "NAME=VALUE",
		must + "--log-max-files -1":                                                   "log-max-files",
		must + "--seccomp-notify-socket /x":                                           "--seccomp-notify-socket",
		must + "--seccomp-notify-plugins /x":                                          "--seccomp-notify-plugins",
		"-e --api-version -c id -r /bin/true -l none --exec-process-spec /etc/passwd": "--cuuid",
		must + "-c ../x":                 "../x",
		must + "-c -x":                   "-x",
		must + "-u a/b":                  "a/b",
		must + "-r /no/such":             "/no/such",
		must + "--log-global-size-max x": "log-global-size-max",
		"-c id -u uid -l none":           "--runtime",
		"-c id -r /bin/true -l none":     "--cuuid",
		"-u uid -r /bin/true -l none":    "--cid",
		"-c id -u uid -r /bin/true":      "--log-path",
	} {
		var p parser
		p.defaults()
		err := p.parse(strings.Fields(line))
		if err == "" {
			err = p.check()
		}
		if !strings.Contains(err, want) {
			t.Errorf("%s: %q", line, err)
		}
	}
}

// TestEveryOption holds that each option of conmon is known and has an effect, and
// that the help names those that are refused.
func TestEveryOption(t *testing.T) {
	for i := range options {
		o := &options[i]
		if o.long == "help" || o.long == "version" {
			continue
		}
		value := "1"
		switch o.long {
		case "log-path":
			value = "none"
		case "log-level":
			value = "warn"
		case "runtime":
			value = "/bin/true"
		case "log-max-files":
			value = "7"
		}
		args := append(strings.Fields(must), "--"+o.long)
		if o.value {
			args = append(args, value)
		}
		var before, after parser
		before.defaults()
		after.defaults()
		before.parse(strings.Fields(must))
		err := after.parse(args)
		if err != "" {
			t.Errorf("--%s: %s", o.long, err)
		}
		before.check()
		refused := strings.HasPrefix(after.check(), "cannot use --"+o.long)
		if refused != strings.HasPrefix(o.about, "refused") {
			t.Errorf("--%s: refused: %v, but described as %q", o.long, refused, o.about)
		}
		same := o.long == "runtime" || o.long == "log-level" // the values above are those before
		if !same && reflect.DeepEqual(before, after) {
			t.Errorf("--%s has no effect", o.long)
		}
	}
	if n := len(options) - 3; n != 46 { // without help and two of older releases
		t.Errorf("%d options", n)
	}
}

// TestImports holds what keeps the monitor small.
func TestImports(t *testing.T) {
	allowed := map[string]bool{"syscall": true, "unsafe": true, "runtime": true}
	for _, dir := range []string{".", "../early/ctor", "../../internal/monitor/loop", "../../internal/monitor/contract",
		"../../internal/monitor/bare", "../../internal/monitor/logs", "../../internal/monitor/journal", "../../internal/monitor/notify", "../../internal/version"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range importsOf(string(data)) {
				if !allowed[path] && path != "C" && !strings.HasPrefix(path, "github.com/monocrio/monocrio/") {
					t.Errorf("%s imports %s: each monitor would be several times as big", file, path)
				}
			}
		}
	}
}

func importsOf(source string) []string {
	var out []string
	for line := range strings.Lines(source) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "import ")
		if len(line) > 2 && line[0] == '"' && line[len(line)-1] == '"' && !strings.Contains(line[1:len(line)-1], "\"") {
			out = append(out, line[1:len(line)-1])
		}
		if strings.HasPrefix(line, "func ") || strings.HasPrefix(line, "type ") {
			break
		}
	}
	return out
}
