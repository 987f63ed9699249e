package appliance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// output may be written and read at the same time.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Process 1 of namespaces, with a root of its own that is memory as an initramfs is: what
// can be seen of it without booting a kernel.
func TestInNamespaces(t *testing.T) {
	bin := os.Getenv("MONOCRIO_BIN")
	if os.Geteuid() != 0 || bin == "" {
		t.Skip("needs root, and MONOCRIO_BIN")
	}
	dir := t.TempDir()
	if err := syscall.Mount("root", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	// The host's cgroups, of whichever version: process 1 keeps what is mounted.
	if err := os.Mkdir(filepath.Join(dir, "sys"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("/sys", filepath.Join(dir, "sys"), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	parent := fmt.Sprintf("/mtest-init-%d", os.Getpid())
	defer func() {
		found, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
		for _, d := range append(found, "/sys/fs/cgroup"+parent) {
			os.Remove(d)
		}
	}()
	put(t, filepath.Join(dir, "init"), 0o755, readFile(t, bin))
	put(t, filepath.Join(dir, "etc/monocrio/pods/one/pod.json"), 0o644, []byte(`{"linux": {"cgroup_parent": "`+parent+`", "security_context": {"namespace_options": {"network": 2}}}}`))
	put(t, filepath.Join(dir, "etc/monocrio/pods/one/main.json"), 0o644, []byte(`{"image": {"image": "localhost/one:1"}, "linux": {"security_context": {"namespace_options": {"network": 2}}}}`))
	busyboxLayout(t, dir, `echo "one runs"; trap 'echo "one stops"; exit 0' TERM; while :; do sleep 0.1; done`)

	var console output
	cmd := exec.Command("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--propagation", "private", "chroot", dir, "/init")
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	pid := firstChild(t, cmd.Process.Pid)
	defer syscall.Kill(pid, syscall.SIGKILL) // with it goes all that it has
	await := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: it does not come true\n%s", what, &console)
			}
		}
	}
	log := fmt.Sprintf("/proc/%d/root/var/log/pods/default_one/main.log", pid)
	await("the container runs", func() bool {
		data, _ := os.ReadFile(log)
		return strings.Contains(string(data), "one runs")
	})
	crio := childNamed(pid, "crio")
	if crio == 0 {
		t.Fatalf("no process crio below %d\n%s", pid, &console)
	}
	if err := syscall.Kill(crio, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await("the daemon is started again", func() bool {
		now := childNamed(pid, "crio")
		return now != 0 && now != crio && strings.Contains(console.String(), "the daemon is started again")
	})
	await("no process is left unreaped", func() bool { return len(children(pid, func(state, _ string) bool { return state == "Z" })) == 0 })
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("the machine ends", func() bool { return syscall.Kill(pid, 0) != nil })
	cmd.Wait()
	for _, want := range []string{"init: pod one: started main", "init: terminated: the machine ends", "init: the machine is down"} {
		if !strings.Contains(console.String(), want) {
			t.Errorf("the console lacks %q:\n%s", want, &console)
		}
	}
	if strings.Contains(console.String(), "init: cannot") {
		t.Errorf("something failed:\n%s", &console)
	}
}

func put(t *testing.T, path string, mode os.FileMode, data []byte) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, data, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func busyboxLayout(t *testing.T, dir, script string) {
	t.Helper()
	files, err := registry.Busybox()
	if err != nil {
		t.Skip(err)
	}
	r := &registry.Registry{}
	if _, err := r.Add("one", "1", registry.Image{Layers: []map[string]registry.File{files}, Config: v1.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh", "-c", script}}}); err != nil {
		t.Fatal(err)
	}
	all, err := r.Layout(map[string]string{"localhost/one:1": "one:1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range all {
		put(t, filepath.Join(dir, "images/one", name), 0o644, data)
	}
}

// firstChild waits for the only child of a process.
func firstChild(t *testing.T, parent int) int {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if all := children(parent, func(string, string) bool { return true }); len(all) > 0 {
			return all[0]
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

func childNamed(parent int, name string) int {
	for _, pid := range children(parent, func(state, comm string) bool { return comm == name && state != "Z" }) {
		return pid
	}
	return 0
}

// children are a process's children of a kind.
func children(parent int, is func(state, comm string) bool) (list []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		data, _ := os.ReadFile(s)
		text := string(data)
		open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
		if open < 0 || end < open {
			continue
		}
		f := strings.Fields(text[end+1:])
		if len(f) > 1 && f[1] == strconv.Itoa(parent) && is(f[0], text[open+1:end]) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
			list = append(list, pid)
		}
	}
	return list
}
