// Package appliance boots machines that have a kernel and this executable, and runs pods
// on them.
//
// MONOCRIO_QEMU is the command of an emulator or hypervisor of QEMU's kind, with the
// machine's kind, processor and memory (512 MB at least); MONOCRIO_KERNEL the file of a
// kernel; MONOCRIO_MODULES, if that kernel needs modules, their folder as depmod(8) has
// left it, which ends with the kernel's release. MONOCRIO_BIN is an executable of that
// machine's architecture and MONOCRIO_BUSYBOX a static busybox of it, if it is not this
// machine's. scripts/test-appliance sets what it can.
package appliance

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/monocrio/monocrio/internal/test/registry"
)

// initramfs is an archive for the kernel, cpio's "newc", under construction.
type initramfs struct {
	buf   bytes.Buffer
	inode int
	dirs  map[string]bool
	names []string // of what is no folder
}

func (a *initramfs) entry(name string, mode uint32, data []byte) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *initramfs) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *initramfs) file(name string, mode uint32, data []byte) {
	for i, c := range name {
		if dir := name[:i]; c == '/' && !a.dirs[dir] {
			a.dirs[dir] = true
			a.entry(dir, 0o40755, nil)
		}
	}
	a.entry(name, 0o100000|mode, data)
	a.names = append(a.names, name)
}

// wait bounds what a machine may take for one step; a test fails by it only if something hangs.
const wait = 5 * time.Minute

// machine is one that a test makes and boots.
type machine struct {
	*testing.T
	arch   string
	fs     initramfs
	images registry.Registry
	append []string // words of the kernel's command line
	args   []string // of QEMU
	initrd string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	for _, v := range []string{"MONOCRIO_QEMU", "MONOCRIO_KERNEL", "MONOCRIO_BIN"} {
		if os.Getenv(v) == "" {
			t.Skipf("%s is not set: there is nothing to boot a machine with; see scripts/test-appliance", v)
		}
	}
	m := &machine{T: t, fs: initramfs{dirs: map[string]bool{}}}
	bin := os.Getenv("MONOCRIO_BIN")
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.arch = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
	m.fs.file("init", 0o755, m.read(bin))
	return m
}

func (m *machine) read(path string) []byte {
	m.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		m.Fatal(err)
	}
	return data
}

// layout puts an image into the folder of images: busybox, which runs a script.
func (m *machine) layout(name, script string) {
	m.Helper()
	files, err := registry.Busybox()
	if other := os.Getenv("MONOCRIO_BUSYBOX"); other != "" && err == nil {
		files["bin/busybox"] = registry.File{Data: m.read(other), Mode: 0o755}
	}
	if err == nil {
		_, err = m.images.Add(name, "1", registry.Image{Layers: []map[string]registry.File{files}, Compress: registry.Gzip, Arch: m.arch,
			Config: v1.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh", "-c", script}}})
	}
	if err != nil {
		m.Fatal(err)
	}
	all, err := m.images.Layout(map[string]string{"localhost/" + name + ":1": name + ":1"})
	if err != nil {
		m.Fatal(err)
	}
	for f, data := range all {
		m.fs.file("images/"+name+"/"+f, 0o644, data)
	}
}

// modules adds the kernel's modules: they belong to it.
func (m *machine) modules() {
	m.Helper()
	dir := os.Getenv("MONOCRIO_MODULES")
	if dir == "" {
		return
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || !wanted(rel) {
			return err
		}
		m.fs.file(filepath.Join("lib/modules", filepath.Base(dir), rel), 0o644, m.read(path))
		return nil
	})
	if err != nil {
		m.Fatal(err)
	}
}

// wanted leaves out drivers of what no such machine has: time and memory.
func wanted(module string) bool {
	if !strings.Contains(module, "/") {
		return slices.Contains([]string{"modules.dep", "modules.alias", "modules.builtin"}, module)
	}
	for _, p := range []string{"kernel/net/", "kernel/fs/overlayfs/", "kernel/drivers/net/", "kernel/drivers/virtio/", "kernel/drivers/block/virtio", "kernel/drivers/acpi/",
		"kernel/drivers/input/", "kernel/drivers/gpio", "kernel/lib/", "kernel/crypto/", "kernel/fs/ext4/", "kernel/fs/jbd2/", "kernel/fs/mbcache"} {
		if strings.HasPrefix(module, p) && !strings.Contains(module, "/ethernet/") && !strings.Contains(module, "/wireless/") {
			return true
		}
	}
	return false
}

// run is a machine that was booted.
type run struct {
	m       *machine
	cmd     *exec.Cmd
	mu      sync.Mutex
	console []string
	more    chan struct{}
	ended   chan struct{}
}

func (m *machine) boot() *run {
	m.Helper()
	m.modules()
	m.fs.entry("TRAILER!!!", 0, nil)
	m.initrd = filepath.Join(m.TempDir(), "initramfs")
	if err := os.WriteFile(m.initrd, m.fs.buf.Bytes(), 0o600); err != nil {
		m.Fatal(err)
	}
	return m.bootAgain()
}

// disk gives the machine an empty one with a file system.
func (m *machine) disk() {
	m.Helper()
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		m.Skip("this machine lacks mke2fs")
	}
	file := filepath.Join(m.TempDir(), "disk")
	if out, err := exec.Command(mkfs, "-q", "-t", "ext4", file, "512M").CombinedOutput(); err != nil {
		m.Fatalf("mke2fs: %v\n%s", err, out)
	}
	m.args = append(m.args, "-drive", "file="+file+",format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d")
}

// bootAgain boots what is made.
func (m *machine) bootAgain() *run {
	m.Helper()
	console := map[string]string{"amd64": "ttyS0", "arm64": "ttyAMA0"}[m.arch]
	qemu := strings.Fields(os.Getenv("MONOCRIO_QEMU"))
	args := append(qemu[1:], "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "unix:"+m.initrd+".monitor,server=on,wait=off",
		"-kernel", os.Getenv("MONOCRIO_KERNEL"), "-initrd", m.initrd, "-append", strings.Join(append([]string{"console=" + console, "panic=-1", "loglevel=4"}, m.append...), " "))
	r := &run{m: m, cmd: exec.Command(qemu[0], append(args, m.args...)...), more: make(chan struct{}, 1), ended: make(chan struct{})}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		m.Fatal(err)
	}
	r.cmd.Stderr = r.cmd.Stdout
	if err := r.cmd.Start(); err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		r.cmd.Process.Kill()
		<-r.ended
		if m.Failed() {
			m.Logf("the console:\n%s", r.text())
		}
	})
	go func() {
		in := bufio.NewScanner(out)
		for in.Scan() {
			r.mu.Lock()
			r.console = append(r.console, strings.TrimRight(in.Text(), "\r"))
			r.mu.Unlock()
			select {
			case r.more <- struct{}{}:
			default:
			}
		}
		r.cmd.Wait()
		close(r.ended)
	}()
	return r
}

func (r *run) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.console, "\n")
}

// shows waits until the console has a text; a machine that ends before does not get there.
func (r *run) shows(text string) {
	r.m.Helper()
	for deadline := time.After(wait); !strings.Contains(r.text(), text); {
		select {
		case <-r.more:
		case <-r.ended:
			if !strings.Contains(r.text(), text) {
				r.m.Fatalf("the machine ended without %q", text)
			}
		case <-deadline:
			r.m.Fatalf("the machine does not say %q", text)
		}
	}
}

// ends waits for the machine's end.
func (r *run) ends() {
	r.m.Helper()
	select {
	case <-r.ended:
	case <-time.After(wait):
		r.m.Fatal("the machine does not end")
	}
}

// powerButton presses it.
func (r *run) powerButton() {
	r.m.Helper()
	c, err := net.Dial("unix", r.m.initrd+".monitor")
	if err == nil {
		_, err = c.Write([]byte("system_powerdown\n"))
	}
	if err != nil {
		r.m.Fatal(err)
	}
	r.m.Cleanup(func() { c.Close() }) // the monitor reads until then
}
