package libct_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/profiles/seccomp"
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/libct"
	"github.com/monocrio/monocrio/internal/oci/ocitest"
)

// TestMain is the start of a program that hosts the runtime.
func TestMain(m *testing.M) {
	if libct.IsInit(os.Args) {
		libct.Init()
	}
	runtime.LockOSThread() // see the package's comment
	os.Exit(m.Run())
}

func TestContract(t *testing.T) {
	ocitest.Run(t, func(_ *testing.T, root string) oci.Runtime {
		return libct.New(libct.Options{Root: root})
	})
}

func TestContractV2(t *testing.T) { ocitest.Again(t, ocitest.V2, "TestContract") }

// TestKilledStarter: whoever starts a container opens its fifo and removes it when
// the program runs. One that was killed in between leaves a running container with
// the look of a created one.
func TestKilledStarter(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	root := t.TempDir()
	r := libct.New(libct.Options{Root: root})
	w := ocitest.NewWorld(t, func(*testing.T, string) oci.Runtime { return r })
	id, _ := w.Create("sleep 1000")
	f, err := os.OpenFile(filepath.Join(root, id, "exec.fifo"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 1)); err != nil { // the init goes on; we are "killed" here
		t.Fatal(err)
	}
	f.Close()
	w.AwaitStatus(id, oci.Running)
	if err := r.Start(t.Context(), id); !errs.Is(err, errs.KindPrecondition) {
		t.Errorf("another start: %v", err)
	}
}

// TestSeccomp: a profile may name the architectures of other machines, and nobody is
// warned of that; what it says holds.
func TestSeccomp(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	var log lines
	libct.Diagnostics{To: &log}.Apply()
	defer libct.Diagnostics{To: os.Stderr}.Apply()
	r := libct.New(libct.Options{Root: t.TempDir()})
	w := ocitest.NewWorld(t, func(*testing.T, string) oci.Runtime { return r })
	profile := func(more ...specs.Arch) func(*specs.Spec) {
		return func(s *specs.Spec) {
			p, err := seccomp.GetDefaultProfile(s)
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.Syscalls {
				p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(n string) bool { return n == "mkdir" || n == "mkdirat" })
			}
			p.Architectures = append(p.Architectures, more...)
			s.Linux.Seccomp = p
		}
	}
	id, output := w.Start("mkdir /tmp/x; touch /tmp/y && echo rest; exec sleep 1000", profile(specs.ArchS390X, specs.ArchMIPS, specs.ArchPPC64LE, specs.ArchRISCV64, specs.ArchAARCH64, specs.ArchX86_64))
	w.Await("the script's end", func() bool { return strings.HasSuffix(output(), "rest\n") })
	if !strings.Contains(output(), "mkdir: can't create directory '/tmp/x': Operation not permitted") {
		t.Errorf("output %q", output())
	}
	if _, out, complaint, err := w.Exec(id, "mkdir /tmp/z; grep Seccomp: /proc/self/status"); err != nil || out != "Seccomp:\t2\n" || !strings.Contains(complaint, "not permitted") {
		t.Errorf("exec: %q, %q, %v", out, complaint, err)
	}
	if text := log.take(); text != "" {
		t.Errorf("logged: %s", text)
	}
	_, dir := w.Bundle("true", profile("SCMP_ARCH_VAX"))
	if err := r.Create(t.Context(), "vax", oci.CreateOptions{Bundle: dir}); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("an architecture that nobody knows: %v", err)
	}
}

// lines collects what a goroutine of libcontainer writes.
type lines struct {
	sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.text.Write(p)
}

func (l *lines) take() string {
	l.Lock()
	defer l.Unlock()
	s := l.text.String()
	l.text.Reset()
	return s
}

// TestStageLogs: what the stages of a container tell goes as far as the log listens.
func TestStageLogs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	var out lines
	libct.Diagnostics{To: &out, Debug: true}.Apply() // as the daemon's bridge does
	defer func() {
		logrus.SetLevel(logrus.InfoLevel)
		libct.Diagnostics{To: os.Stderr}.Apply()
	}()
	for level, want := range map[slog.Level]bool{slog.LevelInfo: false, slog.LevelDebug: true} {
		log := slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: level}))
		r := libct.New(libct.Options{Root: t.TempDir(), Log: log})
		w := ocitest.NewWorld(t, func(*testing.T, string) oci.Runtime { return r })
		id, _ := w.Start("sleep 1000")
		if _, _, _, err := w.Exec(id, "true"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.take(), "nsexec"); got != want {
			t.Errorf("level %v: the stages tell: %v, want %v", level, got, want)
		}
	}
}

// TestSealing: a test binary on a plain disk is sealed by an overlay, one that was
// deleted cannot be.
func TestSealing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	// The directory is the parent's: Reexec leaves no time to clean one of its own.
	if dir := os.Getenv("MONOCRIO_TEST_SEALING"); dir != "" {
		s, err := libct.SelfSealed(dir)
		if err != nil {
			t.Fatal(err)
		}
		if s == libct.SealedByCopy {
			t.Fatal(libct.Reexec(os.Args, os.Environ()))
		}
		t.Logf("sealing: %v", s)
		return
	}
	s, err := libct.SelfSealed(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("this file: %v", s)
	// A copy that is deleted while it starts: it must notice, copy itself to memory
	// once, and find itself sealed afterwards.
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, data, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `exec 9<"$0"; rm "$0"; exec /proc/self/fd/9 -test.v -test.run '^TestSealing$'`, copied)
	cmd.Env = append(os.Environ(), "MONOCRIO_TEST_SEALING="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "sealing: sealed already") {
		t.Errorf("%v\n%s", err, out)
	}
}

func benchBundle(b *testing.B, args ...string) (*libct.Runtime, string) {
	if os.Geteuid() != 0 {
		b.Skip("containers need root")
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		b.Skip("busybox is needed")
	}
	dir := b.TempDir()
	for _, d := range []string{"bundle/rootfs/bin", "bundle/rootfs/proc", "bundle/rootfs/dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	data, err := os.ReadFile(box)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bundle/rootfs/bin/busybox"), data, 0o755); err != nil {
		b.Fatal(err)
	}
	spec := &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs"}, Process: ocitest.Process(args...),
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: "/monocrio-test-" + ident.Short(ident.New()),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			Resources:   &specs.LinuxResources{},
		},
	}
	bundle := filepath.Join(dir, "bundle")
	if err := oci.WriteBundle(bundle, spec); err != nil {
		b.Fatal(err)
	}
	return libct.New(libct.Options{Root: filepath.Join(dir, "state")}), bundle
}

func BenchmarkExec(b *testing.B) {
	r, bundle := benchBundle(b, "/bin/busybox", "sleep", "1000")
	p, err := r.Run(b.Context(), "c", oci.CreateOptions{Bundle: bundle})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var out bytes.Buffer
		code, err := r.Exec(b.Context(), "c", oci.ExecRequest{Process: ocitest.Process("/bin/busybox", "echo", "hi"), Stdout: &out, Stderr: &out})
		if code != 0 || err != nil || out.String() != "hi\n" {
			b.Fatal(code, err, out.String())
		}
	}
	b.StopTimer()
	_ = p.Signal(os.Kill)
	_, _ = p.Wait()
	if err := r.Delete(context.Background(), "c", true); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkCreateStartDelete(b *testing.B) {
	r, bundle := benchBundle(b, "/bin/busybox", "true")
	for b.Loop() {
		p, err := r.Run(b.Context(), "c", oci.CreateOptions{Bundle: bundle})
		if err != nil {
			b.Fatal(err)
		}
		_, _ = p.Wait()
		if err := r.Delete(b.Context(), "c", true); err != nil {
			b.Fatal(err)
		}
	}
}
