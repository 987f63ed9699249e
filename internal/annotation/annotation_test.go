package annotation

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestNothingActsUnlessAllowed(t *testing.T) {
	all := map[string]string{"note": "stays", "io.katacontainers.config": "stays"}
	for _, k := range Table() {
		all[k.Name] = "x"
		if k.Prefix {
			all[k.Name+"rest"] = "x"
		}
		if k.Old != "" {
			all[k.Old] = "x"
		}
		if k.Scoped {
			all[k.Name+"/main"] = "x"
			if k.Old != "" {
				all[k.Old+".main"] = "x"
			}
		}
	}
	got := Allowed(nil).Strip(all)
	if want := []string{"io.katacontainers.config", "note"}; !slices.Equal(slices.Sorted(maps.Keys(got)), want) {
		t.Errorf("what is left without permission: %v", got)
	}
	if a := Allowed(nil).Acting(all); len(a.all) != 0 {
		t.Errorf("these act without permission: %v", a.all)
	}
}

func TestExactNames(t *testing.T) {
	const ctr = "main"
	for _, c := range []struct {
		allowed, key, name string
		acts               bool
	}{
		{ShmSize, ShmSize, ShmSize, true},
		{ShmSize, "io.kubernetes.cri-o.ShmSize", ShmSize, true},
		{"io.kubernetes.cri-o.ShmSize", ShmSize, ShmSize, true},
		{ShmSize, ShmSize + "x", ShmSize, false},
		{ShmSize, ShmSize + "/main", ShmSize, false}, // it is the pod's
		{"shm-size", ShmSize, ShmSize, false},
		{"io.kubernetes.cri-o.", "io.kubernetes.cri-o.ShmSize", ShmSize, false},
		{"", ShmSize, ShmSize, false},
		{Umask, Umask + "/main", Umask, true},
		{Umask, Umask + "/other", Umask, false},
		{Umask, "io.kubernetes.cri-o.umask/main", Umask, true},
		{Umask, Umask + ".main", Umask, false},
		{UnifiedCgroup, "io.kubernetes.cri-o.UnifiedCgroup.main", UnifiedCgroup, true},
		{Devices, Umask, Umask, false},
		{"run.oci.", "run.oci.keep_original_groups", "run.oci.keep_original_groups", true},
		{"run.oci.keep_original_groups", "run.oci.keep_original_groups", "run.oci.keep_original_groups", true},
		{"run.oci.keep", "run.oci.keep_original_groups", "run.oci.keep_original_groups", false},
		{PodOverhead, PodOverhead, PodOverhead, false}, // only the daemon says so
		{"org.systemd.property.", "run.oci.x", "run.oci.x", false},
	} {
		m := map[string]string{c.key: "v"}
		v, ok := Allowed{c.allowed}.Acting(m).Get(c.name, ctr)
		if ok != c.acts || ok && v != "v" {
			t.Errorf("%q allowed, %q given: acts for %s: %v, want %v", c.allowed, c.key, ctr, ok, c.acts)
		}
		if _, kept := (Allowed{c.allowed}).Strip(m)[c.key]; c.acts && !kept {
			t.Errorf("%q allowed: %q is stripped", c.allowed, c.key)
		}
	}
}

func TestWhichValueCounts(t *testing.T) {
	pod := map[string]string{Umask: "pod", "io.kubernetes.cri-o.umask": "old", Umask + "/main": "scoped"}
	a := Allowed{Umask}
	for _, c := range []struct {
		maps      []map[string]string
		ctr, want string
	}{
		{[]map[string]string{pod}, "", "pod"}, // the new spelling wins
		{[]map[string]string{pod}, "main", "scoped"},
		{[]map[string]string{pod}, "other", "pod"},
		{[]map[string]string{pod, {Umask: "own"}}, "other", "own"},
		{[]map[string]string{pod, {"io.kubernetes.cri-o.umask": "own"}}, "other", "own"},
	} {
		if got, _ := a.Acting(c.maps...).Get(Umask, c.ctr); got != c.want {
			t.Errorf("%v for %q: %q, want %q", c.maps, c.ctr, got, c.want)
		}
	}
}

func TestAdministratorsOwn(t *testing.T) {
	own := map[string]string{Umask: "own", "io.kubernetes.cri-o.ShmSize": "1"}
	a := Allowed{Umask}.ActingOver(own, map[string]string{ShmSize: "2", Umask + "/main": "pod"})
	for _, c := range []struct{ name, ctr, want string }{{Umask, "other", "own"}, {Umask, "main", "pod"}, {ShmSize, "", "1"}} {
		if got, _ := a.Get(c.name, c.ctr); got != c.want {
			t.Errorf("%s of %q: %q, want %q", c.name, c.ctr, got, c.want)
		}
	}
}

// Names are unique in both spellings, or one annotation would act as another.
func TestTable(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Table() {
		if k.Effect == "" || k.Prefix && k.Scoped {
			t.Errorf("%+v: contradicts itself", k)
		}
		for _, n := range []string{k.Name, k.Old} {
			if other := seen[n]; n != "" && other != "" && other != k.Name {
				t.Errorf("%s is in the table twice", n)
			}
			seen[n] = k.Name
			if n != "" && !Allowable(n) {
				t.Errorf("%s cannot be allowed", n)
			}
		}
		if !k.Prefix && strings.HasSuffix(k.Name, ".") {
			t.Errorf("%s looks like a prefix", k.Name)
		}
	}
	if Allowable("example.org/own") || Allowable("") {
		t.Error("what nobody knows can be allowed")
	}
}
