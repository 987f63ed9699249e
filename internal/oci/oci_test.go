package oci

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "A-b_c+d.1": true, "..a": true, "": false, ".": false, "..": false, "a/b": false, "../a": false,
		"a b": false, "a\n": false, "ä": false, strings.Repeat("x", 256): false,
	} {
		if got := ValidID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

func TestBundle(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Version: "1.2.0", Root: &specs.Root{Path: "root"}, Linux: &specs.Linux{}, Hostname: "h"}
	if err := WriteBundle(dir, spec); err != nil {
		t.Fatal(err)
	}
	got, err := LoadBundle(dir)
	if err != nil || !reflect.DeepEqual(got, spec) {
		t.Errorf("%+v, %v", got, err)
	}
	fi, err := os.Stat(filepath.Join(dir, ConfigFile))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("files are left: %v", entries)
	}
	if err := WriteBundle(dir+"/absent", spec); err == nil {
		t.Error("a bundle was written into no folder")
	}
	for text, words := range map[string]string{
		"{\n\"ociVersion\": 1\n}":    "line 2",
		"{\n\n\"root\": {\n":         "offset",
		"{}":                         "root.path",
		`{"root": {"path": "root"}}`: "linux",
		`{"root": {"path": "/proc/1/x"},"linux":{}}`: "/proc/1/x",
	} {
		if err := os.WriteFile(filepath.Join(dir, ConfigFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadBundle(dir)
		if !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte(`{"root":{"path":"x"}}`))
	f.Add([]byte("{\n\"process\": []}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseSpec("config.json", data)
		if (spec == nil) == (err == nil) || err != nil && !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%v, %v", spec, err)
		}
	})
}

func TestFit(t *testing.T) {
	const kill, resource = 5, 24
	poor := hostFacts{known: true, bounding: 1 << kill, oomScore: 10, hugetlb: []string{"2MB"}}
	caps := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_SYS_RESOURCE", "CAP_FUTURE"}, Effective: []string{"CAP_SYS_RESOURCE"}}
	notes := poor.fitCapabilities(caps)
	if !reflect.DeepEqual(caps.Bounding, []string{"CAP_KILL", "CAP_FUTURE"}) || len(caps.Effective) != 0 || len(notes) != 1 ||
		strings.Count(notes[0], "CAP_SYS_RESOURCE") != 1 {
		t.Errorf("%+v, %q", caps, notes)
	}
	for _, c := range []struct {
		host       hostFacts
		want, have int
	}{
		{poor, -5, 10}, {poor, 500, 500}, {hostFacts{}, -5, -5},
		{hostFacts{known: true, bounding: 1 << resource, oomScore: 10}, -5, -5},
	} {
		p := &specs.Process{OOMScoreAdj: &c.want}
		if notes := c.host.fitOOMScore(p); *p.OOMScoreAdj != c.have || (len(notes) > 0) != (c.want != c.have) {
			t.Errorf("%+v: %d, %q", c, *p.OOMScoreAdj, notes)
		}
	}
	r := &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}, {Pagesize: "1GB"}, {Pagesize: "64KB", Limit: 3}}}
	if notes := poor.fitHugePages(r); len(r.HugepageLimits) != 1 || len(notes) != 1 || !strings.Contains(notes[0], "64KB") {
		t.Errorf("%+v, %q", r, notes)
	}
	// A user namespace gives all capabilities inside.
	s := &specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: append([]string{}, capabilityNames[:]...)}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}}},
	}
	if FitToHost(s); len(s.Process.Capabilities.Bounding) != len(capabilityNames) {
		t.Error("capabilities were cut in a user namespace")
	}
	if len(capabilityNames) != 41 || capabilityNames[resource] != "CAP_SYS_RESOURCE" || capabilityNames[kill] != "CAP_KILL" {
		t.Error("the table is out of order")
	}
}
