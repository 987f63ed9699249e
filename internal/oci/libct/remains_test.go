package libct

import (
	"os"
	"path/filepath"
	"testing"
)

// TestRemains: what a creation that was cut short has left is deleted, but never a
// state that came meanwhile: the container's processes are found only through it.
func TestRemains(t *testing.T) {
	r := New(Options{Root: t.TempDir()})
	dir := filepath.Join(r.o.Root, "one")
	write := func(name string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (names []string) {
		filepath.WalkDir(r.o.Root, func(p string, d os.DirEntry, _ error) error {
			if p != r.o.Root {
				names = append(names, p)
			}
			return nil
		})
		return names
	}
	for i := range 2 { // not there, and there
		if i == 1 {
			write("exec.fifo")
		}
		if gone, err := r.deleteRemains("one"); !gone || err != nil {
			t.Errorf("the remains: %v, %v", gone, err)
		}
		if l := left(); len(l) > 0 {
			t.Errorf("left: %v", l)
		}
	}
	write("exec.fifo")
	write("state.json")
	if gone, err := r.deleteRemains("one"); gone || err != nil {
		t.Errorf("with a state: %v, %v", gone, err)
	}
	for _, name := range []string{"exec.fifo", "state.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if l := left(); len(l) != 3 {
		t.Errorf("left: %v", l)
	}
}
