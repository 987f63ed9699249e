package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wrongValues are TOML values that an option cannot have: of another type, then of the
// right type and against what its declaration says.
func wrongValues(o *Option) (list []string) {
	switch o.Value.Interface().(type) {
	case string:
		list = append(list, "7")
	default:
		list = append(list, `"wrong"`)
	}
	if verdict(o.Is, "\x01 wrong") == "" {
		return list
	}
	switch o.Value.Interface().(type) {
	case string:
		list = append(list, `"`+strings.Repeat("(wrong", 30)+`"`)
	case []string:
		list = append(list, `["wrong"]`)
	case int, int64:
		list = append(list, "-77")
	}
	return list
}

// Wrong values are refused with file, line, key and value. Each option is tried.
func TestWrongValueOfEachOption(t *testing.T) {
	for _, o := range All() {
		if o.Key == "" {
			continue
		}
		for _, value := range wrongValues(&o) {
			table := strings.ReplaceAll(o.Table, "NAME", "some")
			path := write(t, t.TempDir(), "crio.conf", fmt.Sprintf("# first\n\n[%s]\n# about it\n%s = %s\n", table, o.Key, value))
			c, _, err := Load(path, "", true)
			if err == nil {
				err = c.Complete()
			}
			if err == nil {
				t.Errorf("%s = %s is accepted", o.Name(), value)
				continue
			}
			for _, want := range []string{path + ":5", o.Key, strings.Trim(value, `["]`)[:1]} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%s = %s: error %q does not say %q", o.Name(), value, err, want)
				}
			}
		}
	}
}

// Each variable is read, and a wrong one refused with its name.
func TestEnvironment(t *testing.T) {
	seen := map[string]string{}
	for i, o := range Default().Options() {
		if o.Flag != "" && len(o.Env) == 0 && o.Value.Kind().String() == "bool" && !strings.Contains(o.Doc, "e") {
			t.Errorf("%s has no variable", o.Name())
		}
		for _, name := range o.Env {
			if seen[name] != "" {
				t.Errorf("%s and %s have the same variable %s", seen[name], o.Name(), name)
			}
			seen[name] = o.Name()
			value := map[string]string{"bool": "true", "int": "5", "int64": "5", "slice": "a,b", "string": "x"}[o.Value.Kind().String()]
			if o.Value.Type().String() == "config.Duration" {
				value = "5s"
			}
			c := Default()
			if err := c.SetEnv(func(n string) (string, bool) { return value, n == name }); err != nil {
				t.Errorf("%s=%s: %v", name, value, err)
			}
			got := c.Options()[i]
			if c.Origin(o.Name()) != "environment variable "+name || strings.Join(got.texts(), ",") != value {
				t.Errorf("%s=%s: the option is %v, set by %q", name, value, got.Value, c.Origin(o.Name()))
			}
			if o.Value.Kind().String() == "string" || o.Value.Kind().String() == "slice" {
				continue
			}
			if err := Default().SetEnv(func(n string) (string, bool) { return "many", n == name }); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s=many: error %v", name, err)
			}
		}
	}
	for variable, option := range map[string]string{
		"CONTAINER_ROOT": "crio.root", "CONTAINER_STOP_TIMEOUT": "crio.runtime.ctr_stop_timeout", "PULL_IN_A_CGROUP": "crio.runtime.separate_pull_cgroup",
		"CONTAINER_INCLUDED_POD_METRCIS": "crio.stats.included_pod_metrics", "CONTAINER_EXITS_DIR": "", "CONTAINER_CONTAINER_EXITS_DIR": "",
		"CONTAINER_NRI_LISTEN": "", "CONTAINER_CNI_CONFIG_DIR": "crio.network.network_dir",
	} {
		if option != "" && seen[variable] != option {
			t.Errorf("%s sets %q, want %s", variable, seen[variable], option)
		}
	}
}

// An empty variable is one that a service file leaves to its default.
func TestEmptyEnvironment(t *testing.T) {
	c := Default()
	if err := c.SetEnv(func(string) (string, bool) { return "", true }); err != nil || len(c.origin) > 0 {
		t.Error(err, c.origin)
	}
}

// Tables of the same handler in two files are one; and what is set where is known.
func TestDropInsMerge(t *testing.T) {
	dir := t.TempDir()
	drop := filepath.Join(dir, "crio.conf.d")
	if err := os.MkdirAll(filepath.Join(drop, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	main := write(t, dir, "crio.conf", "[crio.runtime.runtimes.crun]\nruntime_path = \"/a\"\nmonitor_env = [\"A=1\"]\n[crio.runtime]\npids_limit = 5\n")
	write(t, drop, "20", "[crio.runtime.runtimes.crun]\nruntime_path = \"/b\"\n")
	write(t, drop, "10", "[crio.runtime.runtimes.crun]\nruntime_path = \"/c\"\nruntime_root = \"/r\"\n[crio.runtime]\npids_limit = 6\n")
	write(t, filepath.Join(drop, "sub"), "00", "crio.runtime.pids_limit = 7\n")
	c, warn, err := Load(main, drop, true)
	if err != nil || len(warn) > 0 {
		t.Fatal(warn, err)
	}
	h := c.Runtime.Runtimes["crun"]
	if h.Path != "/b" || h.Root != "/r" || len(h.MonitorEnv) != 1 || c.Runtime.PidsLimit != 7 {
		t.Errorf("%+v, pids_limit %d", h, c.Runtime.PidsLimit)
	}
	for name, want := range map[string]string{
		"crio.runtime.runtimes.crun.runtime_path": filepath.Join(drop, "20") + ":2", "crio.runtime.runtimes.crun.monitor_env": main + ":3",
		"crio.runtime.pids_limit": filepath.Join(drop, "sub", "00") + ":1", "crio.root": "",
	} {
		if got := c.Origin(name); got != want {
			t.Errorf("%s was set at %q, want %q", name, got, want)
		}
	}
}

// Options that are old or without effect warn when they are set, and only then.
func TestWarnings(t *testing.T) {
	for _, o := range All() {
		if o.Key == "" || o.Inert == "" && o.Old == "" || strings.Contains(o.Table, "workloads") {
			continue
		}
		value := map[string]string{"bool": "true", "int": "45", "int64": "45", "slice": "[]", "string": `""`, "map": "{}"}[o.Value.Kind().String()]
		if o.Value.Type().String() == "config.Duration" {
			value = `"5s"`
		}
		path := write(t, t.TempDir(), "crio.conf", fmt.Sprintf("[%s]\n%s = %s\n", strings.ReplaceAll(o.Table, "NAME", "runc"), o.Key, value))
		c, _, err := Load(path, "", true)
		if err != nil {
			t.Fatal(o.Name(), err)
		}
		list := c.Warnings()
		why := o.Inert
		if why == "" {
			why = o.Old
		}
		if len(list) != 1 || !strings.Contains(list[0], path+":2") || !strings.Contains(list[0], o.Key) || !strings.Contains(list[0], why) {
			t.Errorf("%s: warnings %q", o.Name(), list)
		}
	}
	if list := Default().Warnings(); len(list) > 0 {
		t.Errorf("the defaults warn: %q", list)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "12MiB": 12 << 20, "500KiB": 500 << 10, "500 K": 500 << 10, "1g": 1 << 30, "7B": 7, "2TB": 2 << 40} {
		if got, err := ParseBytes(text); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5M", "12 apples", "99999999999T", "1KK"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct{ is, good, bad string }{
		{"path", "/a", "a"}, {"path?", "", "a"}, {"socket", "/s", "/" + strings.Repeat("x", 107)}, {"socket?", "", "s"},
		{"ip", "::1", "localhost"}, {"port", "0", "65536"}, {"hostport", "[::1]:5", "::1:5"}, {"hostport", "a:5", ":5"}, {"regexp", "^a+$", "("}, {"cpus", "0-3,7", "3-0"}, {"cpus", "", "a"},
		{"bytes?", "", "x"}, {"pairs", "A=", "=A"}, {"0..", "0", "-1"}, {"1..5", "5", "6"}, {"8192.. or -1", "-1", "0"}, {"8192.. or -1", "8192", "-2"},
		{"? a b", "", "c"}, {"a b", "b", ""},
	} {
		if v := verdict(c.is, c.good); v != "" {
			t.Errorf("%s: %q: %s", c.is, c.good, v)
		}
		if v := verdict(c.is, c.bad); v == "" {
			t.Errorf("%s: %q is accepted", c.is, c.bad)
		}
	}
}
