package mount

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDiskAt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("a source", dir, "tmpfs", 0, "size=1m,nr_inodes=50"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	before, err := DiskAt(dir)
	if err != nil || before.Bytes != 1<<20 || before.Inodes != 50 || before.FreeInodes >= 50 {
		t.Errorf("%+v, %v", before, err)
	}
	if before.Source != `a\040source` { // as mountinfo writes it
		t.Errorf("source %q", before.Source)
	}
	if err := os.WriteFile(dir+"/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if after, err := DiskAt(dir + "/f"); err != nil || after.FreeInodes != before.FreeInodes-1 {
		t.Errorf("%+v after %+v, %v", after, before, err)
	}
	if d, err := DiskAt(dir + "/absent"); err == nil {
		t.Errorf("%+v", d)
	}
}
