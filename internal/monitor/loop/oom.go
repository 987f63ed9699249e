package loop

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/contract"
)

// oomWatch learns when the kernel kills in the container's memory cgroup. Version 1
// tells by an eventfd on memory.oom_control, version 2 by a change of the file
// memory.events. In both the file has a counter; what is beyond its first value is
// ours. It is read once more at the end, because events and the container's exit
// race.
type oomWatch struct {
	fd       int // readable on news; -1: none
	eventFD  int // -1 unless version 1: the eventfd; fd is the same
	v2       bool
	counter  string // path of the file with the counter
	base     int
	reported bool
}

func (w *oomWatch) watch(m *monitor, pid int) {
	cgroup, err := readWhole("/proc/" + itoa(int64(pid)) + "/cgroup")
	mounts, err2 := readWhole("/proc/self/mountinfo")
	if err != nil || err2 != nil {
		m.note(levelWarn, "the container's cgroup cannot be found: no report of lacking memory")
		return
	}
	dir, v2 := memoryCgroup(cgroup, mounts)
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
		m.note(levelWarn, cannot("watch for lacking memory in "+dir, err).Error())
		return
	}
	w.base, _ = w.count()
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
	fd, err := eventfd()
	if err != nil {
		return err
	}
	line := itoa(int64(fd)) + " " + itoa(int64(ctl))
	if err := writeFile(dir+"/cgroup.event_control", line, 0, 0); err != nil {
		syscall.Close(fd)
		return err
	}
	w.fd, w.eventFD = fd, fd
	return nil
}

// count returns the number of kills; false if the cgroup is gone.
func (w *oomWatch) count() (int, bool) {
	text, err := readWhole(w.counter)
	if err != nil {
		return 0, false
	}
	kills, seen := 0, false
	eachLine(text, func(line string) bool {
		f := fields(line)
		if len(f) == 2 && (f[0] == "oom_kill" || w.v2 && f[0] == "oom") {
			n, _ := atoi(f[1])
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
	var buf [4096]byte
	n, err := readNow(w.fd, buf[:])
	if n <= 0 && err == syscall.EAGAIN {
		return
	}
	if _, there := w.count(); !there || err != nil {
		m.drop(w.fd) // the cgroup was removed, which is an event, too
		w.fd = -1
		return
	}
	w.check(m)
}

// check marks the container if the kernel has killed in it.
func (w *oomWatch) check(m *monitor) {
	if w.reported || w.counter == "" {
		return
	}
	if n, there := w.count(); !there || n <= w.base {
		return
	}
	w.reported = true
	for _, dir := range []string{m.o.PersistDir, m.o.Bundle} {
		if dir == "" {
			continue
		}
		if err := writeFile(dir+"/"+contract.OOMFile, "", syscall.O_CREAT|syscall.O_NOFOLLOW, 0o644); err != nil {
			m.warn(cannot("write "+dir+"/"+contract.OOMFile, err).Error())
		}
	}
}

// memoryCgroup returns the folder of a process's memory cgroup, from the contents
// of its /proc/PID/cgroup and of our mountinfo; empty if there is none.
func memoryCgroup(cgroup, mountinfo string) (dir string, v2 bool) {
	path, unified := "", ""
	eachLine(cgroup, func(line string) bool {
		i := indexByte(line, ':')
		if i < 0 {
			return true
		}
		rest := line[i+1:]
		j := indexByte(rest, ':')
		if j < 0 {
			return true
		}
		if names := rest[:j]; names == "" {
			unified = rest[j+1:]
		} else if hasWord(names, "memory") {
			path = rest[j+1:]
		}
		return true
	})
	fstype := "cgroup"
	if path == "" {
		path, fstype, v2 = unified, "cgroup2", true
	}
	if path == "" {
		return "", false
	}
	eachLine(mountinfo, func(line string) bool {
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
	return dir, v2
}

// cgroupMount takes apart a line of mountinfo (proc_pid_mountinfo(5)): fields 4 and
// 5 are root and mount point, and after a lone "-" stand type, source and options.
func cgroupMount(line, fstype string) (root, point string, ok bool) {
	f := fields(line)
	for i := 6; i+3 < len(f); i++ {
		if f[i] == "-" {
			return f[3], f[4], f[i+1] == fstype && (fstype == "cgroup2" || hasWord(f[i+3], "memory"))
		}
	}
	return "", "", false
}

// hasWord looks for a word in a comma-separated list.
func hasWord(list, word string) bool {
	for list != "" {
		i := indexByte(list, ',')
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
