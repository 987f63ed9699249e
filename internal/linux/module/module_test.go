package module

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func tree(t *testing.T) Tree {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko\n" +
			"kernel/net/802/stp.ko: kernel/net/llc/llc.ko\nkernel/net/llc/llc.ko:\nkernel/fs/overlayfs/overlay.ko.xz:\n" +
			"kernel/drivers/virtio-rng.ko.zst:\nkernel/drivers/other.ko:\n",
		"modules.alias":   "# Aliases\nalias fs-overlay overlay\nalias rtnl-link-bridge bridge\nalias virtio:d00000004v* virtio_rng\nalias virtio:d00000004v* other\nalias pci:v0000[12]d* other\n",
		"modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Tree(dir)
}

func TestLoad(t *testing.T) {
	tr := tree(t)
	for name, want := range map[string]string{
		"bridge":               "llc.ko stp.ko bridge.ko",
		"rtnl-link-bridge":     "llc.ko stp.ko bridge.ko",
		"fs-overlay":           "overlay.ko.xz",
		"virtio-rng":           "virtio-rng.ko.zst",
		"virtio_rng":           "virtio-rng.ko.zst",
		"virtio:d00000004v1AF": "virtio-rng.ko.zst other.ko",
		"pci:v00001d7":         "other.ko",
		"ext4":                 "",
	} {
		var got []string
		err := tr.load(name, func(p string) error { got = append(got, filepath.Base(p)); return nil })
		if s := strings.Join(got, " "); err != nil || s != want {
			t.Errorf("%s: %q, %v; want %q", name, s, err, want)
		}
	}
	for _, name := range []string{"absent", "pci:v00003d7", ""} {
		if err := tr.load(name, func(p string) error { t.Error("loads", p); return nil }); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := Tree(filepath.Join(t.TempDir(), "no-such-kernel")).Load("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	failure := errors.New("no")
	var got []string
	if err := tr.load("bridge", func(p string) error { got = append(got, p); return failure }); !errors.Is(err, failure) || len(got) != 1 {
		t.Errorf("after a failure: %v, %v", got, err)
	}
}

func TestRunning(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	tr, err := Running()
	if release, _ := os.ReadFile("/proc/sys/kernel/osrelease"); err != nil || string(tr) != "/lib/modules/"+strings.TrimSpace(string(release)) {
		t.Errorf("%q %v", tr, err)
	}
}

func TestNames(t *testing.T) {
	names := []string{nameOf("a/b-c.ko"), nameOf("a/b_c.ko.xz"), nameOf("d.ko.zst")}
	if !slices.Equal(names, []string{"b_c", "b_c", "d"}) {
		t.Error(names)
	}
}
