// Package boot is the applet init: process 1 of a machine that has a kernel, this
// executable, images, and nothing else. It makes what the daemon needs of a machine, keeps
// the daemon and the pods of some files running, and ends the machine in order.
//
// docs/appliance.md tells how such a machine is made. What may go wrong with one pod or
// the daemon is told on the console and tried again; only what a machine cannot do
// without ends process 1, and the kernel's panic= says what comes then.
package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	podsDir   = "/etc/monocrio/pods"
	imagesDir = "/images"
	logDir    = "/var/log/pods"
)

// params are the words of the kernel's command line that are ours.
type params struct {
	data, dataType string // a disk for /var
	run            string // an image that is run once; then the machine is done
	hostname       string
	unknown        []string
}

// parse reads a kernel command line.
func parse(line string) (p params) {
	for _, word := range strings.Fields(line) {
		word, ours := strings.CutPrefix(word, "monocrio.")
		if !ours {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "data":
			p.data, p.dataType, _ = strings.Cut(value, ":")
		case "run":
			p.run = value
		case "hostname":
			p.hostname = value
		default:
			p.unknown = append(p.unknown, "monocrio."+word)
		}
	}
	return p
}

// machine is what process 1 is responsible for.
type machine struct {
	params
	children children
	end      chan int // how the machine is to end: RB_POWER_OFF or RB_AUTOBOOT
	stopping chan struct{}
	once     sync.Once
}

func say(format string, args ...any) { fmt.Printf("init: "+format+"\n", args...) }

// Main runs the applet.
func Main([]string) int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: cannot be a machine's first process: this is not process 1; the kernel starts it as /init")
		return 1
	}
	m := &machine{children: children{waits: map[int]chan unix.WaitStatus{}}, end: make(chan int, 1), stopping: make(chan struct{})}
	if err := m.prepare(); err != nil {
		say("%v", err)
		return 1
	}
	go m.children.reap()
	go m.keepDaemon()
	go m.keepPods()
	go m.buttons()
	m.shutDown(m.wait())
	return 1 // of a machine that does not end: the kernel panics
}

// wait waits for a signal, the power button, or the end of what was to be run once.
func (m *machine) wait() int {
	// The kernel sends SIGINT for Ctrl-Alt-Del, when it was told not to reboot itself.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
	select {
	case how := <-m.end:
		return how
	case s := <-signals:
		say("%v: the machine ends", s)
		if s == unix.SIGINT {
			return unix.LINUX_REBOOT_CMD_RESTART
		}
		return unix.LINUX_REBOOT_CMD_POWER_OFF
	}
}

// done asks for the machine's end.
func (m *machine) done(how int) {
	select {
	case m.end <- how:
	default: // it ends already
	}
}

// keepDaemon runs the daemon again whenever it ends.
func (m *machine) keepDaemon() {
	for {
		cmd := exec.Command(daemon)
		cmd.Args = daemonArgs()
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		ended, err := m.children.start("crio", cmd)
		if err == nil {
			status := <-ended
			err = fmt.Errorf("it ended with %s", describe(status))
		}
		select {
		case <-m.stopping:
			return
		case <-time.After(time.Second):
			say("the daemon is started again: %v", err)
		}
	}
}

// daemonArgs is the daemon's command line. Images of the initramfs are found without any
// configuration; who writes one names the folder there.
func daemonArgs() []string {
	args := []string{"crio"}
	if _, err := os.Stat(imagesDir); err == nil {
		if _, err := os.Stat("/etc/crio/crio.conf"); errors.Is(err, fs.ErrNotExist) {
			args = append(args, "--images-dir="+imagesDir)
		}
	}
	return args
}

func describe(s unix.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("status %d", s.ExitStatus())
}

// shutDown ends pods, the daemon and every other process, writes what is to be written
// and ends the machine.
func (m *machine) shutDown(how int) {
	m.once.Do(func() { close(m.stopping) })
	m.stopPods()
	if pid := m.children.pid("crio"); pid > 0 {
		_ = unix.Kill(pid, unix.SIGTERM)
		m.children.gone("crio", time.Minute)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	for _, dir := range []string{"/var/lib/containers/storage/overlay", "/var"} {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
	unix.Sync()
	say("the machine is down")
	if err := unix.Reboot(how); err != nil {
		say("cannot end the machine: %v", err)
	}
}
