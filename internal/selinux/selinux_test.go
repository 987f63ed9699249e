package selinux

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

// policy stands for the kernel's.
type policy struct {
	process, file string
	fail          error
	bad           string // part of labels that it does not have
	labels        map[string]string
	done          []string
}

func (p *policy) Templates() (string, string, error) { return p.process, p.file, p.fail }

func (p *policy) Check(label string) error {
	if p.bad != "" && strings.Contains(label, p.bad) {
		return errors.New("invalid argument")
	}
	return nil
}

func (p *policy) FileLabel(path string) (string, error) { return p.labels[path], nil }

func (p *policy) Relabel(path, label string) error {
	p.done = append(p.done, path)
	return p.fail
}

func targeted() *policy {
	return &policy{process: "system_u:system_r:container_t:s0:c7,c9", file: "system_u:object_r:container_file_t:s0:c7,c9"}
}

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		name       string
		policy     *policy
		o          Options
		privileged bool
		want       Labels
	}{
		{"nothing asked", targeted(), Options{}, false, Labels{"system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"}},
		{"level", targeted(), Options{Level: "s0:c1,c2"}, false, Labels{"system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"}},
		{"all", targeted(), Options{"u", "r", "t", "s1:c3"}, false, Labels{"u:r:t:s1:c3", "u:object_r:container_file_t:s1:c3"}},
		{"range", targeted(), Options{Level: "s0-s15:c0.c1023"}, false, Labels{"system_u:system_r:container_t:s0-s15:c0.c1023", "system_u:object_r:container_file_t:s0-s15:c0.c1023"}},
		{"privileged", targeted(), Options{Level: "s0:c1,c2"}, true, Labels{"system_u:system_r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"}},
		{"privileged with a type", targeted(), Options{Type: "own_t"}, true, Labels{"system_u:system_r:own_t:s0", "system_u:object_r:container_file_t:s0"}},
		{"no levels", &policy{process: "u:r:t", file: "u:object_r:f"}, Options{}, false, Labels{"u:r:t", "u:object_r:f"}},
	} {
		if got, err := (&Labeler{Kernel: c.policy}).For(c.o, c.privileged); err != nil || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
	strict := targeted()
	strict.bad = "nobody_t"
	for _, o := range []Options{{Type: "nobody_t"}, {User: "a b"}, {Level: "s0\n"}} {
		if _, err := (&Labeler{Kernel: strict}).For(o, false); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := (&Labeler{Kernel: &policy{fail: errs.Precondition("no policy")}}).For(Options{}, false); !errs.Is(err, errs.KindPrecondition) {
		t.Errorf("without a policy: %v", err)
	}
}

func TestLevels(t *testing.T) {
	l := &Labeler{Kernel: targeted()}
	var used []string
	var dones []func()
	for i := range 2000 {
		level, done, err := l.Take(used)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(used, level) || !strings.HasPrefix(level, "s0:c") || strings.Count(level, ",") != 1 {
			t.Fatalf("level %q after %d others", level, len(used))
		}
		if used = append(used, level); i%2 == 0 { // every other one is on no record yet
			used = used[:len(used)-1]
			dones = append(dones, done)
		} else {
			done()
		}
	}
	for _, d := range dones {
		d()
	}
	if len(l.taken) > 0 {
		t.Errorf("%d levels are still held", len(l.taken))
	}
	full := &Labeler{Kernel: targeted(), taken: map[string]bool{}}
	for a := range categories {
		for b := a + 1; b < categories; b++ {
			full.taken["s0:c"+itoa(a)+",c"+itoa(b)] = true
		}
	}
	if _, _, err := full.Take(nil); !errs.Is(err, errs.KindExhausted) {
		t.Errorf("without a free level: %v", err)
	}
	if level, done, err := (&Labeler{Kernel: &policy{process: "u:r:t", file: "u:r:f"}}).Take(nil); level != "" || done == nil || err != nil {
		t.Errorf("a policy without levels: %q %v", level, err)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func TestRelabel(t *testing.T) {
	p := targeted()
	p.labels = map[string]string{"/has": "l", "/other": "x"}
	l := &Labeler{Kernel: p}
	for _, c := range []struct {
		path string
		skip bool
	}{{"/has", true}, {"/has", false}, {"/other", true}} {
		if err := l.Relabel(c.path, "l", c.skip); err != nil {
			t.Error(err)
		}
	}
	if err := l.Relabel("/none", "", false); err != nil || !slices.Equal(p.done, []string{"/has", "/other"}) {
		t.Errorf("relabelled: %v %v", p.done, err)
	}
	p.fail = errors.New("read-only file system")
	if err := l.Relabel("/other", "l", false); err == nil || !strings.Contains(err.Error(), "/other") || !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
}
