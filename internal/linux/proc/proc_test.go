package proc

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestParseStat(t *testing.T) {
	tail := " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2"
	for _, comm := range []string{"sh", "a b", "x) R 3 (", ")", "((", ") Z 9 ) S"} {
		st, ok := parseStat("42 (" + comm + ")" + tail)
		if !ok || st != (stat{'S', 7, 98765}) {
			t.Errorf("%q: %+v %v", comm, st, ok)
		}
	}
	for _, bad := range []string{"", "42 (sh", "42 (sh) S 1", "42 (sh) S x" + tail[4:]} {
		if st, ok := parseStat(bad); ok {
			t.Errorf("%q was read as %+v", bad, st)
		}
	}
}

func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func TestLife(t *testing.T) {
	cmd := start(t, "sleep", "100")
	id, err := Find(cmd.Process.Pid)
	if err != nil || !id.Alive() {
		t.Fatal(id, err)
	}
	other := ID{id.Pid, id.Start + 1}
	if other.Alive() {
		t.Error("a process with another start time counts as the same")
	}
	if _, err := Open(other); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("Open of a reused pid: %v", err)
	}
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait with an ended context: %v", err)
	}
	done := make(chan error)
	go func() { done <- p.Wait(context.Background()) }()
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Wait: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Wait does not notice the end")
	}
	if id.Alive() {
		t.Error("a zombie counts as alive")
	}
	if _, err := Find(id.Pid); err != nil {
		t.Errorf("a zombie cannot be found: %v", err)
	}
	cmd.Wait()
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("signal to an ended process: %v", err)
	}
	if err := p.Wait(context.Background()); err != nil {
		t.Errorf("second Wait: %v", err)
	}
	if _, err := Find(id.Pid); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("Find of nobody: %v", err)
	}
}

func TestFields(t *testing.T) {
	st, err := Status(os.Getpid())
	if err != nil || st["Pid"] != strconv.Itoa(os.Getpid()) {
		t.Errorf("Status: %v %v", st["Pid"], err)
	}
	cg, err := Cgroups(os.Getpid())
	if err != nil || len(cg) == 0 {
		t.Errorf("Cgroups: %v %v", cg, err)
	}
	if ppid, err := Parent(os.Getpid()); err != nil || ppid != os.Getppid() {
		t.Errorf("Parent: %d %v", ppid, err)
	}
	if _, err := Status(-1); !errs.Is(err, errs.KindNotFound) {
		t.Errorf("Status(-1): %v", err)
	}
	if path, current, err := SelfPath(); err != nil || !current || path == "" {
		t.Errorf("SelfPath: %q %v %v", path, current, err)
	}
}

func TestSubreaper(t *testing.T) {
	if err := BecomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	out, err := exec.Command("sh", "-c", "sleep 0.05 >/dev/null & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(out[:len(out)-1]))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !Reap(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the orphan did not come to us")
		}
	}
}

// TestFiles counts what this very process has open.
func TestFiles(t *testing.T) {
	count := func() (int, int) {
		t.Helper()
		files, sockets, err := Files(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return files, sockets
	}
	files, sockets := count()
	const more = 300 // more than one call's worth of names
	for i := range more {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if i%3 == 0 {
			unix.Close(fd)
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	// Other tests' processes may come and go meanwhile; each holds few files.
	if f, s := count(); f < files+more-20 || f > files+2*more || s < sockets+more/3-20 || s > sockets+2*more/3 {
		t.Errorf("%d files and %d sockets, then %d and %d", files, sockets, f, s)
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if n, err := MaxFiles(os.Getpid()); err != nil || n != lim.Cur {
		t.Errorf("limit %d, %v; it is %d", n, err, lim.Cur)
	}
	cmd := start(t, "true")
	cmd.Wait()
	_, _, err := Files(cmd.Process.Pid)
	_, err2 := MaxFiles(cmd.Process.Pid)
	if !errs.Is(err, errs.KindNotFound) || !errs.Is(err2, errs.KindNotFound) {
		t.Errorf("of a process that is gone: %v, %v", err, err2)
	}
}
