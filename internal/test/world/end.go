package world

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// end removes all pods through the daemon, ends it, takes its own things down and
// looks for what is left.
func (w *World) end() {
	defer w.remove()
	if w.daemon == nil {
		return
	}
	select {
	case <-w.exited: // the test killed it: the next one must be able to clean up
		if err := w.TryStart(); err != nil {
			w.T.Errorf("the daemon does not start for the clean-up: %v\n%s", err, w.log)
			return
		}
	default:
	}
	list, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		w.T.Errorf("cannot list the pods for the clean-up: %v\n%s", err, w.log)
	}
	for _, p := range list.GetItems() {
		w.pods[p.GetId()] = true
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
			w.T.Errorf("RemovePodSandbox: %v", err)
		}
	}
	for _, r := range w.residue() {
		w.T.Errorf("the daemon still holds: %s", r)
	}
	w.Stop()
	w.conn.Close()
	if _, text, code := w.Run("crio", "-c", w.Conf, "teardown"); code != 0 {
		w.T.Errorf("teardown: %s", text)
	}
	for _, f := range w.atEnd {
		f()
	}
	for _, l := range w.Leaks() {
		w.T.Errorf("left behind: %s", l)
	}
	if w.T.Failed() {
		w.T.Logf("the daemon's log:\n%s", w.log)
	}
}

// remove deletes the world's folder. A daemon that was refused at its start has left
// the image store's mount, which the next start would use.
func (w *World) remove() {
	for _, m := range w.mounts() {
		_ = unix.Unmount(strings.TrimPrefix(m, "mount "), unix.MNT_DETACH)
	}
	os.RemoveAll(w.Dir)
}

// Leaks lists what a daemon without pods should not have left in this world, except
// for what the test knows of: the result of Holds.
func (w *World) Leaks(except ...string) (list []string) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		list = slices.DeleteFunc(w.Holds(), func(s string) bool { return slices.Contains(except, s) })
		if len(list) == 0 || time.Now().After(end) {
			return list
		}
	}
}

// Holds lists everything in this world that belongs to pods at this moment.
func (w *World) Holds() (list []string) {
	find := func(f func() []string) { list = append(list, f()...) }
	find(func() []string { return w.processes(w.daemonPid()) })
	find(w.mounts)
	find(w.cgroups)
	find(w.files)
	find(func() (l []string) {
		links, _ := net.Interfaces()
		for _, i := range links {
			if i.Name != "lo" {
				l = append(l, "link "+i.Name)
			}
		}
		return l
	})
	find(func() (l []string) {
		out, err := exec.Command("nft", "list", "tables").Output()
		if err == nil && len(strings.TrimSpace(string(out))) > 0 {
			l = append(l, "nft: "+strings.TrimSpace(string(out)))
		}
		return l
	})
	return list
}

// daemonPid is 0 when no daemon runs.
func (w *World) daemonPid() int {
	if w.daemon == nil {
		return 0
	}
	select {
	case <-w.exited:
		return 0
	default:
		return w.Pid()
	}
}

// notePods remembers the ids of all pods that have a record: a pod whose making is
// cut short is known in no other way.
func (w *World) notePods() {
	entries, _ := os.ReadDir(filepath.Join(w.Dir, "state/pods"))
	for _, e := range entries {
		w.pods[strings.TrimPrefix(e.Name(), ".")] = true
	}
}

// processes lists those of this pid namespace that are no ancestors of the test.
func (w *World) processes(daemon int) (list []string) {
	mine := map[int]bool{1: true, daemon: true}
	for pid := os.Getpid(); pid > 1; {
		mine[pid] = true
		var ppid int
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		s := string(data)
		if i := strings.LastIndexByte(s, ')'); i > 0 {
			fmt.Sscanf(s[i+1:], " %*c %d", &ppid)
			f := strings.Fields(s[i+1:])
			ppid, _ = strconv.Atoi(f[1])
		}
		pid = ppid
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || mine[pid] {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && len(args) > 0 && strings.Contains(string(args), w.Dir) {
			list = append(list, fmt.Sprintf("process %d: %q", pid, strings.ReplaceAll(string(args), "\x00", " ")))
		}
	}
	return list
}

func (w *World) mounts() (list []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], w.Dir) {
			list = append(list, "mount "+f[4])
		}
	}
	return list
}

func (w *World) cgroups() (list []string) {
	for id := range w.pods {
		found, _ := filepath.Glob("/sys/fs/cgroup/*/crio/pod-" + id)
		more, _ := filepath.Glob("/sys/fs/cgroup/crio/pod-" + id)
		for _, p := range append(found, more...) {
			list = append(list, "cgroup "+p)
		}
	}
	return list
}

// files lists what is left of pods and containers in the daemon's folders.
func (w *World) files() (list []string) {
	for _, dir := range []string{"state/pods", "state/containers", "state/owed", "state/quarantine", "run/pods", "run/containers", "run/exits", "run/attach", "run/runtime/runc", "run/artifacts", "cni/results", "root/overlay-containers"} {
		filepath.WalkDir(filepath.Join(w.Dir, dir), func(p string, d fs.DirEntry, err error) error {
			if err == nil && p != filepath.Join(w.Dir, dir) && !storeFile(d.Name()) {
				list = append(list, "file "+p)
				if d.IsDir() {
					return fs.SkipDir
				}
			}
			return nil
		})
	}
	return list
}

// storeFile tells the storage library's own files from those of a layer. One that
// it was writing when the daemon was killed stays behind.
func storeFile(name string) bool {
	return strings.HasPrefix(name, "containers.") || strings.HasPrefix(name, "volatile-containers.") || strings.HasPrefix(name, ".tmp-")
}

// FDs counts the daemon's open files.
func (w *World) FDs() int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.Pid()))
	return len(entries)
}

// Signal sends a signal to the daemon.
func (w *World) Signal(s syscall.Signal) { w.daemon.Process.Signal(s) }
