package archive

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// tarball makes an archive of headers and contents.
func tarball(t *testing.T, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, text := entries[i].(tar.Header), entries[i+1].(string)
		h.Size = int64(len(text))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

// TestThereAndBack: what a container changed is in the archive, and comes out of it.
func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "c.tar")
	w, err := Begin(dest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.Images(), "pages-1.img"), []byte("memory"), 0o600); err != nil {
		t.Fatal(err)
	}
	diff := tarball(t, tar.Header{Name: "sub/", Typeflag: tar.TypeDir, Mode: 0o755}, "", file("sub/new"), "new text", file("etc/.wh.gone"), "",
		file("etc/resolv.conf"), "the runtime's", tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, "", file("etc/.wh..wh..opq"), "")
	in := &Info{Config: Config{ID: "1", Name: "c", ImageID: "i", CheckpointedAt: time.Now()}, Spec: specs.Spec{Mounts: []specs.Mount{{Destination: "/etc/resolv.conf"}}}}
	if err := w.Finish(in, bytes.NewReader(diff)); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left beside the archive: %v", left)
	}
	out, err := Look(dest)
	if err != nil || out.Config.Name != "c" || len(out.Spec.Mounts) != 1 {
		t.Fatalf("%v, %v", out, err)
	}
	unpacked, rootfs := filepath.Join(dir, "unpacked"), filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(rootfs, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"gone", "kept"} {
		if err := os.WriteFile(filepath.Join(rootfs, "etc", f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Unpack(dest, unpacked); err != nil {
		t.Fatal(err)
	}
	if again, err := Look(unpacked); err != nil || again.Config.ID != "1" {
		t.Errorf("unpacked, as in an image: %v, %v", again, err)
	}
	if err := Apply(unpacked, rootfs); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(unpacked, ImagesDir, "pages-1.img")); err != nil || string(text) != "memory" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := os.ReadFile(filepath.Join(rootfs, "sub", "new")); err != nil || string(text) != "new text" {
		t.Errorf("%q, %v", text, err)
	}
	for name, there := range map[string]bool{"etc/gone": false, "etc/kept": true, "etc/resolv.conf": false, "link": true} {
		if _, err := os.Lstat(filepath.Join(rootfs, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestHostile: nothing that an archive says makes a file outside the folder it is
// unpacked in, or a device.
func TestHostile(t *testing.T) {
	for name, diff := range map[string][]byte{
		"up":            tarball(t, file("../../out"), "x"),
		"absolute":      tarball(t, file("/out"), "x"), // inside, as a root file system's names are
		"link out":      tarball(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, "", file("l/out"), "x"),
		"absolute link": tarball(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, "", file("l/tmp/out"), "x"),
		"hard link out": tarball(t, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, "", tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/secret"}, ""),
		"device":        tarball(t, tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, ""),
		"no tar":        []byte(strings.Repeat("no tar ", 200)),
	} {
		dir := t.TempDir()
		outer, unpacked := filepath.Join(dir, "outer"), filepath.Join(dir, "unpacked")
		rootfs := filepath.Join(outer, "a", "rootfs")
		for _, d := range []string{rootfs, filepath.Join(unpacked, ImagesDir)} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		err := os.WriteFile(filepath.Join(outer, "secret"), []byte("s"), 0o600)
		if err == nil {
			err = os.WriteFile(filepath.Join(unpacked, diffFile), diff, 0o600)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(unpacked, goneFile), []byte(`["/../../../outer/secret", "..", "/"]`), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := Apply(unpacked, rootfs); err != nil && !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%s: %v is no fault of the archive", name, err)
		}
		var found []string
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if !strings.HasPrefix(path, rootfs) && !strings.HasPrefix(path, unpacked) && !d.IsDir() {
				found = append(found, path)
			}
			if d.Type()&os.ModeDevice != 0 {
				t.Errorf("%s: a device was made: %s", name, path)
			}
			return err
		})
		if len(found) != 1 || !strings.HasSuffix(found[0], "/secret") {
			t.Errorf("%s: outside are %v", name, found)
		}
		if fi, err := os.Lstat("/tmp/out"); err == nil {
			t.Errorf("%s: made %v", name, fi)
		}
	}
}

func TestUnpackNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.tar")
	data := tarball(t, file("../../evil"), "x", file("/etc/evil"), "x", file("checkpoint/../../evil"), "x", file("checkpoint/ok"), "y", file("other"), "x",
		tar.Header{Name: "checkpoint/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}, "", file("config.dump"), "{}", file("spec.dump"), "{}")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(path, filepath.Join(dir, "in", "to")); err != nil {
		t.Fatal(err)
	}
	var found []string
	_ = filepath.WalkDir(filepath.Join(dir, "in"), func(path string, d os.DirEntry, err error) error {
		if !d.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if got := strings.Join(found, " "); got != "/in/to/checkpoint/ok /in/to/config.dump /in/to/spec.dump" {
		t.Errorf("unpacked: %s", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("beside it: %v", entries)
	}
}

func TestBegin(t *testing.T) {
	dir := t.TempDir()
	for _, dest := range []string{"relative", "", dir + "/none/x", "/a\x00b"} {
		if _, err := Begin(dest); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%q: %v", dest, err)
		}
	}
	if _, err := Begin(dir); !errs.Is(err, errs.KindAlreadyExists) {
		t.Errorf("what exists: %v", err)
	}
}

// FuzzLook: whatever the bytes are, there is an answer, and nothing is written.
func FuzzLook(f *testing.F) {
	t := &testing.T{}
	f.Add(tarball(t, file("config.dump"), `{"id":"1"}`, file("spec.dump"), `{}`))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Look(path); err != nil && !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%v", err)
		}
		if err := Unpack(path, filepath.Join(t.TempDir(), "u")); err != nil && errs.KindOf(err) != errs.KindInvalid && len(data) < 1<<20 {
			t.Logf("%v", err)
		}
	})
}
