package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	graphdriver "go.podman.io/storage/drivers"

	"archive/tar"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"
)

// The library unpacks layers in a child that is this program again.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

func open(t *testing.T, driver string) *Store {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: driver, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range leases(t, s) {
			if err := s.Unmount(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		if err := s.Teardown(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func leases(t *testing.T, s *Store) []string {
	t.Helper()
	ids, err := s.Leases(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// makeImage makes an image of one layer that has these files.
func makeImage(t *testing.T, s *Store, id string, files map[string]int) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, size := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		io.Copy(w, io.LimitReader(ones{}, int64(size)))
	}
	w.Close()
	l, _, err := s.Raw().PutLayer("", "", nil, "", false, nil, &buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raw().CreateImage(id, nil, l.ID, "", nil); err != nil {
		t.Fatal(err)
	}
}

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 1
	}
	return len(p), nil
}

func TestLease(t *testing.T) {
	for _, driver := range []string{"overlay", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			s, ctx := open(t, driver), context.Background()
			makeImage(t, s, "image", map[string]int{"file": 10})
			if s.Driver() != driver {
				t.Errorf("driver %s", s.Driver())
			}
			for range 2 { // all verbs are idempotent
				if err := s.Lease(ctx, Lease{ID: "a", Image: "image", Pod: "p"}); err != nil {
					t.Fatal(err)
				}
			}
			var path string
			for range 2 {
				p, err := s.Mount(ctx, "a")
				if err != nil || path != "" && p != path {
					t.Fatal(p, err)
				}
				path = p
			}
			if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(filepath.Join(path, "new"), bytes.Repeat([]byte("x"), 100_000), 0o600); err != nil {
				t.Error(err)
			}
			if u, err := s.ContainerUsage("a"); err != nil || u.Bytes < 100_000 || u.Bytes > 200_000 {
				t.Errorf("%+v, %v", u, err)
			}
			if l := leases(t, s); !slices.Equal(l, []string{"a"}) {
				t.Errorf("leases %v", l)
			}
			if l, err := s.Users("image"); err != nil || !slices.Equal(l, []string{"a"}) {
				t.Errorf("users %v, %v", l, err)
			}
			for range 2 {
				if err := s.Unmount(ctx, "a"); err != nil {
					t.Fatal(err)
				}
			}
			if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), path+" ") {
				t.Errorf("it is still mounted: %v", err)
			}
			p, err := s.Mount(ctx, "a") // what was written is there again
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(p, "new")); err != nil {
				t.Error(err)
			}
			for range 2 { // also of what is mounted
				if err := s.Release(ctx, "a"); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Unmount(ctx, "a"); err != nil {
				t.Error(err)
			}
			_, err = s.Mount(ctx, "a")
			if !errs.Is(err, errs.KindNotFound) {
				t.Errorf("mounting what is absent: %v", err)
			}
			if err := s.Lease(ctx, Lease{ID: "b", Image: "absent"}); !errs.Is(err, errs.KindNotFound) {
				t.Errorf("a lease over an absent image: %v", err)
			}
			if l := leases(t, s); len(l) != 0 {
				t.Errorf("leases %v", l)
			}
		})
	}
}

// Containers of other programs are neither listed nor touched.
func TestForeignContainers(t *testing.T) {
	s, ctx := open(t, "overlay"), context.Background()
	makeImage(t, s, "image", map[string]int{"file": 10})
	if _, err := s.Raw().CreateContainer("theirs", []string{"name"}, "image", "", `{"pod": "x"}`, nil); err != nil {
		t.Fatal(err)
	}
	if l := leases(t, s); len(l) != 0 {
		t.Errorf("leases %v", l)
	}
	if l, err := s.Users("image"); err != nil || len(l) != 1 {
		t.Errorf("users %v, %v: others count for the removal of an image", l, err)
	}
	for _, id := range []string{"theirs", "name"} {
		for what, err := range map[string]error{"Release": s.Release(ctx, id), "Unmount": s.Unmount(ctx, id), "Lease": s.Lease(ctx, Lease{ID: id, Image: "image"})} {
			if !errs.Is(err, errs.KindAlreadyExists) {
				t.Errorf("%s(%s): %v", what, id, err)
			}
		}
	}
	if _, err := s.Raw().Container("theirs"); err != nil {
		t.Error(err)
	}
}

// The root user of a lease's user namespace, and nobody else, can reach the mount.
func TestUserNamespace(t *testing.T) {
	s, ctx := open(t, "overlay"), context.Background()
	makeImage(t, s, "image", map[string]int{"file": 10})
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100_000, Size: 65536}}
	if err := s.Lease(ctx, Lease{ID: "u", Image: "image", UIDs: ids, GIDs: ids}); err != nil {
		t.Fatal(err)
	}
	path, err := s.Mount(ctx, "u")
	if err != nil {
		t.Fatal(err)
	}
	layer := filepath.Dir(path)
	check := func() {
		t.Helper()
		var st, file unix.Stat_t
		if err := unix.Stat(layer, &st); err != nil || st.Gid != 100_000 || st.Uid != 0 || st.Mode&0o777 != 0o710 {
			t.Errorf("the layer's folder: uid %d gid %d mode %o, %v", st.Uid, st.Gid, st.Mode, err)
		}
		if err := unix.Stat(filepath.Join(path, "file"), &file); err != nil || file.Uid != 100_000 {
			t.Errorf("the file in it belongs to %d: %v", file.Uid, err)
		}
	}
	check()
	// As if the daemon had died in between, over a store that another program made.
	for _, dir := range []string{layer, s.opts.Root} {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Mount(ctx, "u"); err != nil {
		t.Fatal(err)
	}
	check()
	for id, want := range map[uint32]bool{100_000: true, 100_001: false} {
		if err := as(id, "ls", layer+"/merged/file"); (err == nil) != want {
			out, _ := exec.Command("namei", "-l", layer+"/merged/file").CombinedOutput()
			t.Errorf("user %d passes: %t, %v\n%s", id, err == nil, err, out)
		}
	}
}

func TestUserNamespaceBehindAClosedFolder(t *testing.T) {
	s, ctx := open(t, "overlay"), context.Background()
	makeImage(t, s, "image", nil)
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100_000, Size: 65536}}
	if err := s.Lease(ctx, Lease{ID: "u", Image: "image", UIDs: ids, GIDs: ids}); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.opts.Root)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mount(ctx, "u"); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), dir+" ") || !strings.Contains(err.Error(), "chmod o+x") {
		t.Errorf("%v", err)
	}
}

// as runs a command as another user.
func as(id uint32, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
	return cmd.Run()
}

func TestUsage(t *testing.T) {
	s, ctx := open(t, "overlay"), context.Background()
	makeImage(t, s, "one", map[string]int{"a": 1 << 20, "b": 10})
	makeImage(t, s, "two", map[string]int{"c": 3 << 20})
	if err := s.Lease(ctx, Lease{ID: "l", Image: "one"}); err != nil {
		t.Fatal(err)
	}
	path, err := s.Mount(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, path, `head -c 500000 /dev/zero > big; ln big hard; ln -s / everything; mkdir -p $(seq -s / 1 600)`)
	images, containers, err := s.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if d := du(t, s, "one", "two"); images.Bytes < d-8192 || images.Bytes > d+8192 || images.Inodes != 3 {
		t.Errorf("images take %+v, du says %d", images, d)
	}
	// The chain of folders is not followed to its end, and the links not at all.
	if containers.Bytes < 500_000 || containers.Bytes > 500_000+300*4096 || containers.Inodes < 2 || containers.Inodes > 300 {
		t.Errorf("containers take %+v", containers)
	}
	for _, p := range []string{images.Path, containers.Path} {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("the folder on the file system: %v", err)
		}
	}
	if images.Path != containers.Path {
		t.Errorf("one store on two file systems: %s, %s", images.Path, containers.Path)
	}
	if _, err := s.ContainerUsage("absent"); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("usage of what is absent: %v", err)
	}
	if _, err := s.Raw().DeleteImage("two", true); err != nil {
		t.Fatal(err)
	}
	if less, _, err := s.Usage(); err != nil || less.Bytes >= images.Bytes {
		t.Errorf("after a removal: %+v, %v", less, err)
	}
}

func du(t *testing.T, s *Store, images ...string) (sum uint64) {
	t.Helper()
	for _, i := range images {
		img, err := s.Raw().Image(i)
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("du", "-s", "-B1", filepath.Join(s.opts.Root, "overlay", img.TopLayer, "diff")).Output()
		if err != nil {
			t.Skip("needs du: ", err)
		}
		var n uint64
		if _, err := fmt.Sscan(string(out), &n); err != nil {
			t.Fatal(err)
		}
		sum += n - 4096 // the folder itself
	}
	return sum
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Leases and images survive the store's end and opening.
func TestReopen(t *testing.T) {
	s, ctx := open(t, "overlay"), context.Background()
	makeImage(t, s, "image", map[string]int{"file": 10})
	if err := s.Lease(ctx, Lease{ID: "l", Image: "image"}); err != nil {
		t.Fatal(err)
	}
	path, err := s.Mount(ctx, "l")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := again.Mount(ctx, "l"); err != nil || p != path {
		t.Errorf("%s, %v", p, err)
	}
	if l := leases(t, again); !slices.Equal(l, []string{"l"}) {
		t.Errorf("leases %v", l)
	}
	if err := again.Release(ctx, "l"); err != nil {
		t.Error(err)
	}
	s.store = again.store // for the clean-up
}

func TestOpenErrors(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []Options{
		{Root: file, RunRoot: filepath.Join(dir, "run"), Driver: "overlay"},
		{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "hope"},
	} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), o.Root) || !strings.Contains(err.Error(), o.Driver) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if !errs.Is(kind(fmt.Errorf("x: %w", unix.ENOSPC)), errs.KindExhausted) || !errs.Is(kind(storage.ErrLayerUnknown), errs.KindNotFound) {
		t.Error("kinds of errors")
	}
}

// Images are written so that a layer is listed only when its files are on the disk;
// leases do not pay for that. Both handles see the same store.
func TestHandles(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Driver: "overlay", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Skip("no overlay here: ", err)
	}
	defer s.Teardown()
	for _, c := range []struct {
		store storage.Store
		want  graphdriver.SyncMode
	}{{s.Durable(), graphdriver.SyncModeFilesystem}, {s.Raw(), graphdriver.SyncModeNone}} {
		d, err := c.store.GraphDriver()
		if err != nil || d.SyncMode() != c.want {
			t.Errorf("mode %v, want %v: %v", d.SyncMode(), c.want, err)
		}
	}
	l, err := s.Durable().CreateLayer("", "", nil, "", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raw().Layer(l.ID); err != nil {
		t.Errorf("what one handle wrote, the other does not see: %v", err)
	}
	if err := s.Raw().DeleteLayer(l.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Durable().Layer(l.ID); err == nil {
		t.Error("what one handle deleted, the other still sees")
	}
}

// TestProbes: what a process leaves that was killed while it opened the store is no damage,
// and goes when nobody can need it any more.
func TestProbes(t *testing.T) {
	s := open(t, "overlay")
	dir := filepath.Join(s.opts.Root, "overlay")
	old, fresh, layer := filepath.Join(dir, "compat281755992"), filepath.Join(dir, "metacopy-check1"), filepath.Join(dir, "compatible")
	for _, d := range []string{old, fresh, layer} {
		if err := os.MkdirAll(filepath.Join(d, "merged"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(old, "merged"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	list, err := s.Check(CheckOptions{Quick: true})
	if err != nil || len(list) != 1 || list[0].ID != "compatible" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.SweepProbes(time.Minute); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]bool{old: false, fresh: true, layer: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}
