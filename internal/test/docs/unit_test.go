package docs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// unitDirs are where units are looked for; the first that has one wins.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"}
}

// unit is what the stand-in understands of a systemd.service(5).
type unit struct {
	name, path string
	values     map[string][]string // by key; empty assignments have emptied the list
}

// known are the settings that are acted upon, or that say nothing about one process in
// a world without resources to divide: what is not here may change what a unit means.
func known() []string {
	return []string{"Description", "Documentation", "Wants", "After", "Before", "WantedBy", "Alias", // order: one starts what one wants
		"Type", "EnvironmentFile", "Environment", "ExecStart", "ExecReload", "KillMode", "Restart", "RestartSec", "StartLimitInterval",
		"Delegate", "TasksMax", "LimitNOFILE", "LimitNPROC", "LimitCORE", "OOMScoreAdjust", "TimeoutStartSec", "WatchdogSec"}
}

func readUnit(name string) (*unit, error) {
	name = strings.TrimSuffix(name, ".service") + ".service"
	u := &unit{name: name, values: map[string][]string{}}
	for _, d := range unitDirs() {
		path := filepath.Join(d, name)
		if err := u.read(path); err == nil {
			u.path = path
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if u.path == "" {
		return nil, fmt.Errorf("Unit %s could not be found.", name) //nolint:staticcheck // systemd's words
	}
	var drop []string
	for _, d := range unitDirs() {
		found, _ := filepath.Glob(filepath.Join(d, name+".d", "*.conf"))
		for _, f := range found {
			if !slices.ContainsFunc(drop, func(o string) bool { return filepath.Base(o) == filepath.Base(f) }) {
				drop = append(drop, f)
			}
		}
	}
	slices.SortFunc(drop, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	for _, f := range drop {
		if err := u.read(f); err != nil {
			return nil, err
		}
	}
	return u, nil
}

func (u *unit) read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(data), "\\\n", " ")
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' || line[0] == ';' || line[0] == '[' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !slices.Contains(known(), key) {
			return fmt.Errorf("%s: the stand-in for systemd does not know %q", path, line)
		}
		if value == "" {
			delete(u.values, key)
		} else {
			u.values[key] = append(u.values[key], value)
		}
	}
	return nil
}

func (u *unit) last(key, def string) string {
	if v := u.values[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

func (u *unit) seconds(key string, def time.Duration) time.Duration {
	v := u.last(key, "")
	if v == "" {
		return def
	}
	if d, err := time.ParseDuration(v); err == nil {
		return d
	}
	d, _ := time.ParseDuration(v + "s")
	return d
}

// environ is what the unit's processes get besides the manager's own.
func (u *unit) environ() (env []string, err error) {
	for _, line := range u.values["Environment"] {
		env = append(env, words(line)...)
	}
	for _, f := range u.values["EnvironmentFile"] {
		path, optional := strings.CutPrefix(f, "-")
		data, err := os.ReadFile(path)
		if err != nil && optional {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, line := range strings.Split(string(data), "\n") {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				key, value, _ := strings.Cut(line, "=")
				env = append(env, key+"="+strings.Trim(value, `"'`))
			}
		}
	}
	return env, nil
}

// words splits a line as units do: at spaces, with double quotes around what has some.
func words(line string) (list []string) {
	var b strings.Builder
	quoted, any := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				list = append(list, b.String())
			}
			b.Reset()
			any = false
		default:
			b.WriteRune(r)
			any = true
		}
	}
	if any {
		list = append(list, b.String())
	}
	return list
}

// expand replaces $NAME, a word of its own, by the variable's words and ${NAME} by its text.
func expand(line string, env []string) (list []string) {
	get := func(name string) string {
		for _, kv := range slices.Backward(env) {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v
			}
		}
		return ""
	}
	for _, w := range words(line) {
		if name, ok := strings.CutPrefix(w, "$"); ok && !strings.HasPrefix(name, "{") {
			list = append(list, words(get(name))...)
			continue
		}
		list = append(list, os.Expand(w, get))
	}
	return list
}

func TestUnits(t *testing.T) {
	env := []string{"ARGS=--a b", "EMPTY=", "ONE=two words"}
	for line, want := range map[string][]string{
		"/bin/x $ARGS -c":       {"/bin/x", "--a", "b", "-c"},
		"/bin/x $EMPTY $ABSENT": {"/bin/x"},
		"/bin/x ${ONE}":         {"/bin/x", "two words"},
		`/bin/x "a b" c`:        {"/bin/x", "a b", "c"},
	} {
		if got := expand(line, env); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	path := filepath.Join(t.TempDir(), "x.service")
	for text, want := range map[string]string{
		"[Service]\nExecStart=/bin/a \\\n  b\n": "/bin/a    b", "[Service]\nExecStart=/bin/a\nExecStart=\nExecStart=/bin/b\n": "/bin/b", "# x\n": "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		u := &unit{values: map[string][]string{}}
		if err := u.read(path); err != nil || u.last("ExecStart", "") != want {
			t.Errorf("%q: %q, %v", text, u.last("ExecStart", ""), err)
		}
	}
	if err := os.WriteFile(path, []byte("[Service]\nMemoryMax=1G\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (&unit{values: map[string][]string{}}).read(path); err == nil {
		t.Error("a setting that is not acted upon is taken")
	}
}
