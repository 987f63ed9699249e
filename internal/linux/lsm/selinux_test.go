package lsm

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Labels are extended attributes, which kernels keep that have no SELinux.
func TestLabels(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: attributes of the kernel's security modules")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	sub, file := filepath.Join(dir, "sub"), filepath.Join(dir, "sub/file")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const one, two = "system_u:object_r:container_file_t:s0:c1,c2", "system_u:object_r:container_file_t:s0"
	if err := (SELinux{}).Relabel(sub, one); err != nil {
		t.Fatal(err)
	}
	if err := LabelFile(file, two); err != nil {
		t.Fatal(err)
	}
	if err := LabelFile(sub, ""); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{sub: one, file: two} {
		if got, err := (SELinux{}).FileLabel(path); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", path, got, err, want)
		}
	}
	if err := (SELinux{}).Relabel("/usr", one); err == nil {
		t.Error("a folder of the node's was relabelled")
	}
}
