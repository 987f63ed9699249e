package hooks

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// args are what a specification's prestart hooks are called with.
func args(f *Folders, facts Facts) string {
	s := &specs.Spec{}
	f.Inject(s, facts)
	var list []string
	if s.Hooks != nil {
		for _, h := range s.Hooks.Prestart { //nolint:staticcheck // what the files name
			list = append(list, strings.Join(h.Args, " "))
		}
	}
	return strings.Join(list, ",")
}

func one(when string) string {
	return `{"version":"1.0.0","hook":{"path":"/bin/sh","args":["hit"]},"when":` + when + `,"stages":["prestart"]}`
}

func TestConditions(t *testing.T) {
	facts := Facts{Annotations: map[string]string{"com.example.dept": "fluid dynamics", "b": "2"}, Command: "/bin/sh", BindMounts: true}
	for _, c := range []struct {
		text string
		hit  bool
	}{
		{one(`{"always":true}`), true},
		{one(`{"always":false}`), false},
		{one(`{"hasBindMounts":true}`), true},
		{one(`{"commands":["^/bin/(ba)?sh$","x"]}`), true},
		{one(`{"commands":["^sh"]}`), false},
		{one(`{"annotations":{"^com\\.example\\.dept$":".*fluid"}}`), true},
		{one(`{"annotations":{"^b$":"fluid"}}`), false}, // key and value are of one annotation
		{one(`{"annotations":{"dept":"fluid","b":"3"}}`), false},
		{one(`{"annotations":{"dept":"fluid"},"commands":["bash"]}`), false}, // all must hold
		{one(`{"always":true,"hasBindMounts":true}`), true},
		{`{"version":"0.1.0","hook":"/bin/sh","arguments":["x"],"stages":["prestart"],"cmds":["nothing"],"annotations":["^2$"]}`, true}, // one is enough
		{`{"hook":"/bin/sh","arguments":["x"],"stage":["prestart"],"cmd":["sh$"]}`, true},
		{`{"hook":"/bin/sh","arguments":["x"],"stages":["prestart"],"hasbindmounts":true}`, true},
		{`{"hook":"/bin/sh","arguments":["x"],"stages":["prestart"],"annotations":["^b$"]}`, false}, // values only
	} {
		dir := t.TempDir()
		write(t, dir, "a.json", c.text)
		var log bytes.Buffer
		f := &Folders{Dirs: []string{dir}, Log: slog.New(slog.NewTextHandler(&log, nil))}
		if got := args(f, facts); (got != "") != c.hit || log.Len() > 0 {
			t.Errorf("%s: hooks %q, want one: %v %s", c.text, got, c.hit, log.String())
		}
	}
	dir := t.TempDir()
	write(t, dir, "a.json", one(`{"hasBindMounts":true}`))
	if got := args(&Folders{Dirs: []string{dir}, Log: slog.Default()}, Facts{}); got != "" {
		t.Error("a container without bind mounts has some")
	}
}

func TestBrokenFilesAreToldAndPassedOver(t *testing.T) {
	for name, c := range map[string][2]string{
		"syntax":       {`{`, "JSON"},
		"version":      {`{"version":"9"}`, "1.0.0 and 0.1.0"},
		"no hook":      {`{"version":"1.0.0","when":{"always":true},"stages":["prestart"]}`, "hook is missing"},
		"relative":     {`{"version":"1.0.0","hook":{"path":"sh"},"when":{"always":true},"stages":["prestart"]}`, "not absolute"},
		"absent":       {`{"version":"1.0.0","hook":{"path":"/no/such"},"when":{"always":true},"stages":["prestart"]}`, "/no/such"},
		"no program":   {`{"version":"1.0.0","hook":{"path":"/etc/passwd"},"when":{"always":true},"stages":["prestart"]}`, "not executable"},
		"stage":        {`{"version":"1.0.0","hook":{"path":"/bin/sh"},"when":{"always":true},"stages":["later"]}`, "later"},
		"no stage":     {`{"version":"1.0.0","hook":{"path":"/bin/sh"},"when":{"always":true}}`, "stages is empty"},
		"no condition": {`{"version":"1.0.0","hook":{"path":"/bin/sh"},"when":{},"stages":["prestart"]}`, "no condition"},
		"pattern":      {one(`{"commands":["("]}`), "regular expression"},
		"timeout":      {`{"version":"1.0.0","hook":{"path":"/bin/sh","timeout":0},"when":{"always":true},"stages":["prestart"]}`, "timeout"},
	} {
		dir := t.TempDir()
		write(t, dir, "10-bad.json", c[0])
		write(t, dir, "20-good.json", one(`{"always":true}`))
		var log bytes.Buffer
		f := &Folders{Dirs: []string{dir}, Log: slog.New(slog.NewTextHandler(&log, nil))}
		for range 2 {
			if got := args(f, Facts{}); got != "hit" {
				t.Errorf("%s: the good hook is gone: %q", name, got)
			}
		}
		if !strings.Contains(log.String(), c[1]) || !strings.Contains(log.String(), "10-bad.json") || strings.Count(log.String(), "\n") != 1 {
			t.Errorf("%s: the log says %s, want %q once", name, log.String(), c[1])
		}
	}
}

func TestFoldersAndChanges(t *testing.T) {
	low, high := filepath.Join(t.TempDir(), "low"), filepath.Join(t.TempDir(), "high")
	f := &Folders{Dirs: []string{low, high}, Log: slog.Default()}
	if got := args(f, Facts{}); got != "" {
		t.Error("absent folders have hooks:", got)
	}
	text := func(arg string) string { return strings.Replace(one(`{"always":true}`), `"hit"`, `"`+arg+`"`, 1) }
	write(t, low, "20-b.json", text("b"))
	write(t, low, "10-a.json", text("a"))
	write(t, low, "note.txt", "no hook")
	if got := args(f, Facts{}); got != "a,b" {
		t.Error("not in the order of names:", got)
	}
	write(t, high, "10-a.json", text("masked"))
	if got := args(f, Facts{}); got != "masked,b" {
		t.Error("the later folder does not win:", got)
	}
	write(t, high, "10-a.json", text("edited"))
	late := time.Now().Add(time.Hour) // an edit within the clock's tick
	os.Chtimes(filepath.Join(high, "10-a.json"), late, late)
	if got := args(f, Facts{}); got != "edited,b" {
		t.Error("an edited file is not read:", got)
	}
	os.Remove(filepath.Join(high, "10-a.json"))
	if got := args(f, Facts{}); got != "a,b" {
		t.Error("the mask is gone, and its file still counts:", got)
	}
}

func TestAllStages(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.json", `{"version":"1.0.0","hook":{"path":"/bin/sh"},"when":{"always":true},"stages":["`+strings.Join(stages(), `","`)+`"]}`)
	s := &specs.Spec{}
	(&Folders{Dirs: []string{dir}, Log: slog.Default()}).Inject(s, Facts{})
	for _, stage := range stages() {
		if n := len(*stageOf(s.Hooks, stage)); n != 1 {
			t.Errorf("%s: %d hooks", stage, n)
		}
	}
}
