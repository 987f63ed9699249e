package loop

import (
	"syscall"
	"unsafe"

	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
)

const memoryEvents = "memory.events"

// oomWatch learns when the kernel kills in the container's memory cgroup. Version 1
// tells by an eventfd on memory.oom_control, version 2 by a change of the file
// memory.events. In both the file has a counter; what is beyond its first value is
// ours. It is read once more at the end, because events and the container's exit
// race.
//
// systemd removes the cgroup of a container as soon as it is empty, perhaps before
// we come to read. Version 2 counts in the parent as well: if our file has changed
// and then gone, and the parent's counter has grown, it was ours.
type oomWatch struct {
	fd       int // eventfd or inotify, readable on news; -1: none
	v2       bool
	counter  string // path of the file with the counter
	base     int
	above    string // version 2: the parent's file
	aboveWas int
	changed  bool // version 2: our file has changed at least once
	reported bool
}

func (w *oomWatch) watch(m *monitor, pid int) {
	dir, v2, err := memoryCgroup("/proc/"+bare.Itoa(int64(pid))+"/cgroup", "/proc/self/mountinfo", "/sys/fs/cgroup", m.in)
	bare.Release(m.in)
	if err != nil {
		m.warn(bare.Cannot("find the container's cgroup: lack of memory will not be reported", err).Error())
	}
	if dir == "" {
		return
	}
	w.v2 = v2
	if v2 {
		w.counter = dir + "/" + memoryEvents
		err = w.watchV2()
	} else {
		w.counter = dir + "/memory.oom_control"
		err = w.watchV1(dir)
	}
	if err != nil {
		m.note(levelWarn, bare.Cannot("watch for lacking memory in "+dir, err).Error())
		return
	}
	w.base, _ = w.count(w.counter, m.in)
	if v2 {
		w.above = dir[:bare.LastIndexByte(dir, '/')+1] + memoryEvents
		w.aboveWas, _ = w.count(w.above, m.in)
	}
	m.watch(w.fd, syscall.EPOLLIN, evOOM)
}

func (w *oomWatch) watchV2() error {
	fd, err := syscall.InotifyInit1(syscall.IN_NONBLOCK | syscall.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err = syscall.InotifyAddWatch(fd, w.counter, syscall.IN_MODIFY); err != nil {
		syscall.Close(fd)
		return err
	}
	w.fd = fd
	return nil
}

func (w *oomWatch) watchV1(dir string) error {
	ctl, err := syscall.Open(w.counter, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(ctl)
	fd, err := bare.Eventfd()
	if err != nil {
		return err
	}
	line := bare.Itoa(int64(fd)) + " " + bare.Itoa(int64(ctl))
	if err := bare.WriteFile(dir+"/cgroup.event_control", line, 0, 0); err != nil {
		syscall.Close(fd)
		return err
	}
	w.fd = fd
	return nil
}

// count returns the number of kills that a file tells; false if the cgroup is gone.
func (w *oomWatch) count(file string, buf []byte) (int, bool) {
	text, err := bare.ReadSmall(file, buf)
	if err != nil {
		return 0, false
	}
	kills, seen := 0, false
	bare.EachLine(text, func(line string) bool {
		f := bare.Fields(line)
		if len(f) == 2 && (f[0] == "oom_kill" || w.v2 && f[0] == "oom") {
			n, _ := bare.Atoi(f[1])
			kills, seen = kills+n, true
		}
		return true
	})
	if !seen { // Linux before 4.13 does not count: the event itself must do
		return w.base + 1, true
	}
	return kills, true
}

func (w *oomWatch) event(m *monitor) {
	n, err := bare.ReadNow(w.fd, m.in)
	if err == syscall.EAGAIN {
		return
	}
	if w.v2 && err == nil {
		w.changed = w.changed || hasModify(m.in[:n])
	}
	w.check(m)
	if _, there := w.count(w.counter, m.in); !there || err != nil {
		w.stop(m) // the cgroup was removed, which is an event, too
	}
}

// hasModify tells whether IN_MODIFY is among events of inotify(7): none has a name,
// as a file is watched and no folder.
func hasModify(events []byte) bool {
	for ; len(events) >= syscall.SizeofInotifyEvent; events = events[syscall.SizeofInotifyEvent:] {
		if (*syscall.InotifyEvent)(unsafe.Pointer(&events[0])).Mask&syscall.IN_MODIFY != 0 {
			return true
		}
	}
	return false
}

// killed tells whether the kernel has killed in the container.
func (w *oomWatch) killed(m *monitor) bool {
	if n, there := w.count(w.counter, m.in); there {
		return n > w.base
	}
	if !w.changed {
		return false
	}
	n, there := w.count(w.above, m.in)
	return there && n > w.aboveWas
}

func (w *oomWatch) stop(m *monitor) {
	if w.fd >= 0 {
		m.drop(w.fd)
		w.fd = -1
	}
}

// check marks the container if the kernel has killed in it.
func (w *oomWatch) check(m *monitor) {
	if w.reported || w.counter == "" {
		return
	}
	if w.v2 && w.fd >= 0 { // news that the loop has not come to yet
		if n, err := bare.ReadNow(w.fd, m.in); err == nil {
			w.changed = w.changed || hasModify(m.in[:n])
		}
	}
	if !w.killed(m) {
		return
	}
	w.reported = true
	w.stop(m) // there is no more to say
	for _, dir := range []string{m.o.PersistDir, m.o.Bundle} {
		if dir == "" {
			continue
		}
		if err := bare.WriteFile(dir+"/"+contract.OOMFile, "", syscall.O_CREAT|syscall.O_NOFOLLOW, 0o644); err != nil {
			m.warn(bare.Cannot("write "+dir+"/"+contract.OOMFile, err).Error())
		}
	}
}

// memoryCgroup returns the folder of a process's memory cgroup, empty if there is
// none. It is looked for where every distribution mounts it and, if it is not
// there, in the list of mounts, which may be long.
func memoryCgroup(cgroups, mounts, usual string, buf []byte) (dir string, v2 bool, err error) {
	path, unified := "", ""
	err = bare.ScanLines(cgroups, buf, func(line string) bool {
		i := bare.IndexByte(line, ':')
		if i < 0 {
			return true
		}
		rest := line[i+1:]
		j := bare.IndexByte(rest, ':')
		if j < 0 {
			return true
		}
		if names := rest[:j]; names == "" {
			unified = string([]byte(rest[j+1:]))
		} else if hasWord(names, "memory") {
			path = string([]byte(rest[j+1:]))
		}
		return true
	})
	fstype, dir, probe := "cgroup", usual+"/memory"+path, "/memory.oom_control"
	if path == "" {
		path, fstype, v2 = unified, "cgroup2", true
		dir, probe = usual+path, "/"+memoryEvents
	}
	if err != nil || path == "" {
		return "", false, err
	}
	if syscall.Access(dir+probe, 0) == nil {
		return dir, v2, nil
	}
	dir = ""
	err = bare.ScanLines(mounts, buf, func(line string) bool {
		root, point, ok := cgroupMount(line, fstype)
		if !ok {
			return true
		}
		if root == "/" {
			dir = point + path
		} else if path == root || len(path) > len(root) && path[:len(root)+1] == root+"/" {
			dir = point + path[len(root):]
		}
		return dir == ""
	})
	if dir != "" && syscall.Access(dir+probe, 0) != nil {
		dir = "" // the root cgroup, or a hierarchy without this controller
	}
	return dir, v2, err
}

// cgroupMount takes apart a line of mountinfo (proc_pid_mountinfo(5)): fields 4 and
// 5 are root and mount point, and after a lone "-" stand type, source and options.
func cgroupMount(line, fstype string) (root, point string, ok bool) {
	at := -1
	for i := 0; i+3+len(fstype) < len(line); i++ {
		if line[i] == ' ' && line[i:i+3] == " - " && line[i+3:i+4+len(fstype)] == fstype+" " {
			at = i
			break
		}
	}
	if at < 0 { // nearly every line: nothing was allocated for it
		return "", "", false
	}
	f, rest := bare.Fields(line[:at]), bare.Fields(line[at:])
	if len(f) < 6 || len(rest) < 4 {
		return "", "", false
	}
	return f[3], f[4], fstype == "cgroup2" || hasWord(rest[3], "memory")
}

// hasWord looks for a word in a comma-separated list.
func hasWord(list, word string) bool {
	for list != "" {
		i := bare.IndexByte(list, ',')
		if i < 0 {
			return list == word
		}
		if list[:i] == word {
			return true
		}
		list = list[i+1:]
	}
	return false
}
