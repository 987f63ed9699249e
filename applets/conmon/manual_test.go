package conmon

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/conmon.8.md anew")

// shown names for each option a test in which a monitor really does what it says:
// one of the contract suite's (monitortest), or a Go test.
var shown = map[string]string{
	"api-version": "Exec", "bundle": "Files", "cid": "ExitCodes", "cuuid": "Files", "name": "Journald", "runtime": "Failures",
	"runtime-arg": "CommandLines", "runtime-opt": "CommandLines", "restore-arg": "CommandLines",
	"conmon-pidfile": "Placed", "container-pidfile": "CommandLines", "pidfile": "TestParse",
	"persist-dir": "ExitCodes", "exit-dir": "ExitCodes", "exit-command": "ExitCommand", "exit-command-arg": "ExitCommand", "exit-delay": "ExitCommand",
	"log-path": "Records", "log-size-max": "SizeLimit", "log-global-size-max": "ExecLimit", "log-rotate": "Rotation", "log-max-files": "Rotation",
	"log-allowlist-dir": "Rotation", "log-tag": "Journald", "log-label": "Journald", "no-container-partial-message": "Journald",
	"no-sync-log": "TestParse", "log-level": "TestSyslog", "syslog": "TestSyslog",
	"exec": "Exec", "exec-process-spec": "Exec", "exec-attach": "ExecAttached", "restore": "CommandLines",
	"systemd-cgroup": "CommandLines", "no-pivot": "CommandLines", "no-new-keyring": "CommandLines",
	"terminal": "Terminal", "stdin": "HalfClose", "leave-stdin-open": "LeaveOpen", "timeout": "ExecTimeout",
	"socket-dir-path": "Files", "full-attach": "StartPipeEnds", "sdnotify-socket": "Notifications", "replace-listen-pid": "ListenPid",
	"sync": "Foreground", "version": "TestForeground", "help": "TestHelp",
	"seccomp-notify-socket": "TestParseRefuses", "seccomp-notify-plugins": "TestParseRefuses",
}

// tests are the names in the suite and of Go tests that monitors meet.
func tests(t *testing.T) []string {
	t.Helper()
	var names []string
	for pattern, re := range map[string]string{
		"../../internal/monitor/monitortest/suite.go": `\{"(\w+)", \w+\}`, "../../internal/monitor/loop/*_test.go": `(?m)^func (Test\w+)\(`,
		"../early/*_test.go": `(?m)^func (Test\w+)\(`, "*_test.go": `(?m)^func (Test\w+)\(`,
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(re).FindAllStringSubmatch(string(data), -1) {
				names = append(names, m[1])
			}
		}
	}
	return names
}

// TestManual: docs/conmon.8.md is what the option table says, and every option is
// shown by a test that there is.
func TestManual(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# conmon(8)

conmon: the process beside a container

## Synopsis

    conmon -c ID -u UUID -r RUNTIME -l LOG [OPTION...]
    conmon -e -c ID -r RUNTIME -l LOG --exec-process-spec FILE [OPTION...]

## Description

An engine starts one for each container, and one for each exec if it likes. It lets the OCI runtime create the container,
moves its streams, keeps its log, serves clients of the attach socket and records how it ended. It keeps the contract of
conmon ` + contractVersion + `.

## Options

The last column names the test that shows the option at work: one of ` + "`TestOurs/...`" + ` in internal/monitor, which run over
another conmon as well, or a test of applets/conmon, applets/early and internal/monitor/loop.

| option | meaning | shown by |
|---|---|---|
`)
	known := tests(t)
	for i := range options {
		o := &options[i]
		name, about := "`--"+o.long, o.about
		if o.short != 0 {
			name = "`-" + string(rune(o.short)) + ", --" + o.long
		}
		if o.value {
			name += " V"
		}
		if about == "" {
			about = map[string]string{"restore-arg": "older name of --runtime-opt", "pidfile": "older name of --container-pidfile"}[o.long]
		}
		test := shown[o.long]
		if about == "" || !slices.Contains(known, test) {
			t.Errorf("--%s: %q, shown by %q", o.long, about, test)
		}
		b.WriteString("| " + name + "` | " + about + " | " + test + " |\n")
	}
	const path = "../../docs/conmon.8.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != b.String() {
		t.Errorf("%s is not what the option table says (%v); go test ./applets/conmon -update writes it", path, err)
	}
}

// TestHelp: every option that people should know is there, and no promise.
func TestHelp(t *testing.T) {
	text := usage()
	for i := range options {
		if o := &options[i]; o.about != "" && !strings.Contains(text, "--"+o.long+" ") {
			t.Errorf("--%s is missing", o.long)
		}
	}
	if strings.Contains(text, "not built in") {
		t.Error("the help promises something")
	}
}
