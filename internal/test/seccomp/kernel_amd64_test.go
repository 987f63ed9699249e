package seccomp

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mobyseccomp "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// install loads a profile into the kernel for this thread, as libcontainer's init
// does, and returns how long that took.
func install(t testing.TB, s *specs.LinuxSeccomp) time.Duration {
	t.Helper()
	runtime.LockOSThread() // and never back
	config, err := specconv.SetupSeccomp(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := seccomp.InitSeccomp(config); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}

// x86Calls has some calls of the 32-bit table that the standard library lacks.
const (
	x86Getpriority = 96
	x86Socketcall  = 102
	x86Getpid      = 20
	x86Unshare     = 310
	x86Socket      = 359
	x32Getpid      = 1<<30 | unix.SYS_GETPID
)

// native and old make a call and return its errno.
func native(nr uintptr, args ...uintptr) syscall.Errno {
	a := append(args, 0, 0, 0)
	_, _, errno := syscall.RawSyscall(nr, a[0], a[1], a[2])
	return errno
}

func old(nr uint32, args ...uint32) syscall.Errno {
	a := append(args, 0, 0)
	return syscall.Errno(max(0, -clib.Int80(nr, a[0], a[1])))
}

// child says which part of a test runs in a process of its own, where a filter can
// stay.
const child = "MONOCRIO_TEST_SECCOMP"

// no32 tells children that the kernel has no 32-bit calls.
const no32 = "MONOCRIO_TEST_NO32"

// apart runs a part of a test in a child and returns how that ended.
func apart(t *testing.T, part string, f func()) error {
	t.Helper()
	switch os.Getenv(child) {
	case "":
	case part:
		f()
		return nil
	default:
		return nil // another part's child
	}
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+strings.Split(t.Name(), "/")[0]+"$")
	cmd.Env = append(os.Environ(), child+"="+part)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("%s", out)
	}
	return err
}

// survives tells whether a thread that does something is not killed for it.
func survives(f func()) bool {
	tid, done := make(chan int), make(chan bool, 1)
	go func() {
		runtime.LockOSThread() // a killed thread must not take another goroutine along
		tid <- unix.Gettid()
		f()
		done <- true
	}()
	task := "/proc/self/task/" + strconv.Itoa(<-tid) + "/stat"
	for {
		select {
		case <-done:
			return true
		default:
		}
		// The first thread of a process stays as a zombie.
		if stat, err := os.ReadFile(task); err != nil || strings.Contains(string(stat), ") Z ") {
			return false
		}
		time.Sleep(time.Millisecond)
	}
}

// TestKernel: the kernel takes the filters and does what they say, with 32-bit calls
// too.
func TestKernel(t *testing.T) {
	if err := apart(t, "32-bit", func() { clib.Int80(x86Getpid, 0, 0) }); err != nil {
		t.Setenv(no32, "1")
	}
	value := func(nr uintptr, want syscall.Errno, args ...uintptr) func(t *testing.T) {
		return func(t *testing.T) {
			if got := native(nr, args...); got != want {
				t.Errorf("call %d of %#x: %v, want %v", nr, args, got, want)
			}
		}
	}
	value32 := func(nr uint32, want syscall.Errno, args ...uint32) func(t *testing.T) {
		return func(t *testing.T) {
			if os.Getenv(no32) != "" {
				return
			}
			if got := old(nr, args...); got != want {
				t.Errorf("32-bit call %d of %#x: %v, want %v", nr, args, got, want)
			}
		}
	}
	for _, c := range []struct {
		name    string
		profile func(t *testing.T) *specs.LinuxSeccomp
		calls   []func(t *testing.T)
	}{
		{"default", builtIn, []func(t *testing.T){
			value(unix.SYS_GETPID, 0), value(unix.SYS_UNSHARE, unix.EPERM, unix.CLONE_NEWUSER), value(unix.SYS_KEYCTL, unix.EPERM),
			value(unix.SYS_CLONE3, unix.ENOSYS), value(unix.SYS_SOCKET, unix.EPERM, unix.AF_VSOCK, 99), value(unix.SYS_SOCKET, unix.EINVAL, unix.AF_INET, 99),
			value(unix.SYS_PERSONALITY, unix.EPERM, 0x1234), value(unix.SYS_PERSONALITY, 0, 0xffffffff), value(unix.SYS_PERSONALITY, unix.EPERM, 0x1_ffffffff),
			value(1000, unix.ENOSYS), // libcontainer's own part of the filter
			value32(x86Getpid, 0), value32(x86Unshare, unix.EPERM, unix.CLONE_NEWUSER), value32(x86Socket, unix.EPERM, unix.AF_VSOCK, 99),
			value32(x86Socketcall, unix.EFAULT, 1), value32(1000, unix.ENOSYS),
		}},
		{"conditions", conditions, []func(t *testing.T){
			value(unix.SYS_GETPRIORITY, 77, 5, 1<<32|1), value(unix.SYS_GETPRIORITY, unix.EINVAL, 5, 1), value(unix.SYS_GETPRIORITY, unix.EINVAL, 6, 1<<32|1),
			value(unix.SYS_GETPRIORITY, 76, 1<<40), value(unix.SYS_GETPRIORITY, 75, 1<<33|1), value(unix.SYS_GETPRIORITY, 0, 1<<33|2),
			value32(x86Getpriority, 77, 5, 1), value32(x86Getpriority, unix.EINVAL, 6, 1),
			value32(x86Socketcall, 78, 1), value32(x86Socketcall, unix.EFAULT, 2), value32(x86Socket, 78),
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := apart(t, c.name, func() {
				install(t, c.profile(t))
				for _, call := range c.calls {
					call(t)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for _, c := range []struct {
		name   string
		arches []specs.Arch
		want   bool
	}{{"x32", []specs.Arch{specs.ArchX32}, true}, {"no-x32", []specs.Arch{specs.ArchX86}, false}} {
		t.Run(c.name, func(t *testing.T) {
			err := apart(t, c.name, func() {
				s := builtIn(t)
				s.Architectures = c.arches
				got := survives(func() {
					install(t, s)
					syscall.Syscall(x32Getpid, 0, 0, 0) // not RawSyscall: the scheduler must not wait for the dead
				})
				if got != c.want {
					t.Errorf("an x32 call is survived: %v, want %v", got, c.want)
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func builtIn(t *testing.T) *specs.LinuxSeccomp {
	t.Helper()
	s, err := mobyseccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func conditions(*testing.T) *specs.LinuxSeccomp {
	deny := func(name string, code uint, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: &code, Args: args}
	}
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{
			deny("getpriority", 77, specs.LinuxSeccompArg{Index: 0, Value: 5, Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 1, Value: 1<<32 | 1, Op: specs.OpEqualTo}),
			deny("getpriority", 76, specs.LinuxSeccompArg{Index: 0, Value: 1<<35 + 7, Op: specs.OpGreaterThan}),
			deny("getpriority", 75, specs.LinuxSeccompArg{Index: 0, Value: 1<<33 | 3, ValueTwo: 1<<33 | 1, Op: specs.OpMaskedEqual}),
			deny("socket", 78),
		},
	}
}

// BenchmarkInit is all that libcontainer does for the built-in profile, in a fresh
// process: nothing of it is in any cache yet.
func BenchmarkInit(b *testing.B) {
	if os.Getenv(child) != "" {
		s, err := mobyseccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
		if err != nil {
			b.Fatal(err)
		}
		os.Stdout.WriteString("took " + install(b, s).String() + "\n")
		os.Exit(0)
	}
	var total time.Duration
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "-test.run", "^$", "-test.bench", "^BenchmarkInit$", "-test.benchtime", "1x")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.Output()
		_, took, _ := strings.Cut(string(out), "took ")
		took, _, _ = strings.Cut(took, "\n")
		d, perr := time.ParseDuration(took)
		if err != nil || perr != nil {
			b.Fatal(err, perr, string(out))
		}
		total += d
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/init")
}
