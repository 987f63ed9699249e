package mount

import (
	"os"
	"path/filepath"
	"testing"
)

func TestShowBelow(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir, src, victim := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing
		if err := ShowBelow(dir, "logs", src); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(dir, "logs")
	if _, err := os.Stat(filepath.Join(at, "f")); err != nil {
		t.Error("the folder is not seen:", err)
	}
	if err := os.WriteFile(filepath.Join(at, "g"), nil, 0o644); err == nil {
		t.Error("it can be written to")
	}
	if err := Unmount(at); err != nil || IsMountPoint(at) {
		t.Error("it stays:", err)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, at); err != nil { // what a container may have left
		t.Fatal(err)
	}
	if err := ShowBelow(dir, "logs", src); err == nil || IsMountPoint(victim) {
		t.Error("a link was followed:", err)
	}
	if err := ShowBelow(filepath.Join(dir, "absent"), "logs", src); err == nil {
		t.Error("an absent folder is no error")
	}
}
