package seccomp

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	libseccomp "github.com/seccomp/libseccomp-golang"

	"github.com/monocrio/monocrio/internal/test/seccomp/clib"
)

// multiplexed are the calls that 32-bit x86 also has behind another, with their
// numbers there: linux/net.h and linux/ipc.h.
var multiplexed = []struct {
	name, through string
	number        uint64
}{
	{"socket", "socketcall", 1}, {"bind", "socketcall", 2}, {"connect", "socketcall", 3}, {"listen", "socketcall", 4},
	{"accept", "socketcall", 5}, {"getsockname", "socketcall", 6}, {"getpeername", "socketcall", 7}, {"socketpair", "socketcall", 8},
	{"send", "socketcall", 9}, {"recv", "socketcall", 10}, {"sendto", "socketcall", 11}, {"recvfrom", "socketcall", 12},
	{"shutdown", "socketcall", 13}, {"setsockopt", "socketcall", 14}, {"getsockopt", "socketcall", 15}, {"sendmsg", "socketcall", 16},
	{"recvmsg", "socketcall", 17}, {"accept4", "socketcall", 18}, {"recvmmsg", "socketcall", 19}, {"sendmmsg", "socketcall", 20},
	{"semop", "ipc", 1}, {"semget", "ipc", 2}, {"semctl", "ipc", 3}, {"semtimedop", "ipc", 4},
	{"msgsnd", "ipc", 11}, {"msgrcv", "ipc", 12}, {"msgget", "ipc", 13}, {"msgctl", "ipc", 14},
	{"shmat", "ipc", 21}, {"shmdt", "ipc", 22}, {"shmget", "ipc", 23}, {"shmctl", "ipc", 24},
}

// TestTables: what the C library knows of a name on an architecture, ours does. For
// calls that 32-bit x86 multiplexes it says a negative number there although they
// have one, under which its filters do find them.
func TestTables(t *testing.T) {
	names := callNames(t)
	for _, a := range arches {
		for _, name := range names {
			want := clib.Number(a.token, name)
			if a.arch == libseccomp.ArchX86 && want < 0 && isMultiplexed(name) {
				continue
			}
			got, err := libseccomp.GetSyscallFromNameByArch(name, a.arch)
			if err != nil || int(got) != want && (got >= 0 || want >= 0) {
				t.Errorf("%s on %v: %d (%v), the C library says %d", name, a.arch, got, err, want)
			}
		}
	}
}

func isMultiplexed(name string) bool {
	for _, c := range multiplexed {
		if c.name == name {
			return true
		}
	}
	return false
}

// TestMultiplexed: a rule holds behind socketcall and ipc, and there for its call only.
func TestMultiplexed(t *testing.T) {
	for _, c := range multiplexed {
		f, err := profile{errno(1), []libseccomp.ScmpArch{libseccomp.ArchX86}, allow(c.name)}.build(t)
		if err != nil {
			t.Fatal(err)
		}
		through, err := libseccomp.GetSyscallFromNameByArch(c.through, libseccomp.ArchX86)
		if err != nil {
			t.Fatal(err)
		}
		p := export(t, f)
		for n := range uint64(40) {
			d := data{nr: uint32(through), arch: clib.X86, args: [6]uint64{n}}
			if got := p.run(&d) == ret(libseccomp.ActAllow); got != (n == c.number) {
				t.Errorf("%s allowed: %s(%d) allowed: %v", c.name, c.through, n, got)
			}
		}
	}
}

// TestHeaders compares with the kernel's headers that are installed.
func TestHeaders(t *testing.T) {
	for _, h := range []struct {
		arch    libseccomp.ScmpArch
		include string
		least   int
	}{
		{libseccomp.ArchAMD64, "#include <asm/unistd_64.h>", 350},
		{libseccomp.ArchX86, "#include <asm/unistd_32.h>", 400},
		{libseccomp.ArchX32, "#define __X32_SYSCALL_BIT 0x40000000\n#include <asm/unistd_x32.h>", 340},
		// What arch/arm64's unistd.h asks of it.
		{libseccomp.ArchARM64, "#define __ARCH_WANT_RENAMEAT\n#define __ARCH_WANT_NEW_STAT\n#define __ARCH_WANT_SET_GET_RLIMIT\n" +
			"#define __ARCH_WANT_TIME32_SYSCALLS\n#define __ARCH_WANT_SYS_CLONE3\n#define __ARCH_WANT_MEMFD_SECRET\n" +
			"#define __BITS_PER_LONG 64\n#include <asm-generic/unistd.h>", 300},
	} {
		t.Run(h.arch.String(), func(t *testing.T) {
			all := header(t, h.include)
			if len(all) < h.least {
				t.Fatalf("%d names only", len(all))
			}
			last := 0
			for name, want := range all {
				if want&^(1<<30) < 512 { // x32 has own ones from there
					last = max(last, want)
				}
				if got, err := libseccomp.GetSyscallFromNameByArch(name, h.arch); err != nil || int(got) != want {
					t.Errorf("%s: %d (%v), in the header %d", name, got, err, want)
				}
			}
			for _, name := range callNames(t) {
				got, err := libseccomp.GetSyscallFromNameByArch(name, h.arch)
				if _, ok := all[name]; err == nil && got >= 0 && int(got) <= last && !ok {
					t.Errorf("%s: %d, but the header has none", name, got)
				}
			}
		})
	}
}

// header lets the C preprocessor say what the __NR macros are.
func header(t *testing.T, include string) map[string]int {
	t.Helper()
	ask := include + "\n"
	for line := range strings.Lines(preprocess(t, include, "-dM")) {
		macro := strings.Fields(line)[1]
		name, ok := strings.CutPrefix(macro, "__NR_")
		if ok && name != "syscalls" && name != "arch_specific_syscall" {
			ask += "@" + name + " = " + macro + "\n"
		}
	}
	all := map[string]int{}
	for line := range strings.Lines(preprocess(t, ask, "-P")) {
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "@"), " = ")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(strings.Trim(value, "()\n"), " + ") { // x32's have their bit added
			n, err := strconv.ParseInt(part, 0, 64)
			if err != nil {
				t.Fatal(line, err)
			}
			all[name] += int(n)
		}
	}
	return all
}

func preprocess(t *testing.T, text, option string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.c")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("gcc", "-E", option, path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestGenerated: the table is what its generator makes of the x/sys that go.mod names.
func TestGenerated(t *testing.T) {
	const root = "../../.."
	cmd := exec.Command("go", "run", "./scripts/syscalls", "-")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOARCH=") // it runs here, whatever is tested
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(root + "/internal/linux/seccomp/libseccomp/table.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("table.go is not what `go run ./scripts/syscalls` writes")
	}
}
