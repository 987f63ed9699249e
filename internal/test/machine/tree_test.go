package machine

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// files tells everything on the machine's disk: type, mode, owner, size, target or time
// of change, and of small files the sum.
func (m *machine) files() map[string]string {
	m.Helper()
	var root syscall.Stat_t
	if err := syscall.Lstat("/", &root); err != nil {
		m.Fatal(err)
	}
	all := map[string]string{}
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return nil
		}
		if st.Dev != root.Dev || passing(path) { // other file systems end with the machine
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		all[path] = describe(path, d, &st)
		return nil
	})
	if err != nil {
		m.Fatal(err)
	}
	return all
}

func describe(path string, d fs.DirEntry, st *syscall.Stat_t) string {
	what := fmt.Sprintf("%v %o %d:%d", d.Type(), st.Mode, st.Uid, st.Gid)
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		to, _ := os.Readlink(path)
		what += " -> " + to
	case d.Type().IsRegular():
		what += fmt.Sprintf(" %d bytes, %d", st.Size, st.Mtim.Nano())
		if st.Size <= 64<<10 {
			data, _ := os.ReadFile(path)
			what += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
	}
	return what
}

// passing are places whose content comes and goes without us: temporary files (the
// test's own among them), the journal, and systemd's notes of when timers ran and of
// random numbers.
func passing(path string) bool {
	for _, p := range []string{"/tmp", "/var/tmp", "/var/log/journal", "/var/lib/systemd", "/lost+found"} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}

// held lists what in the kernel can belong to pods: interfaces, mounts, cgroups, network
// namespaces, processes.
func (m *machine) held() []string {
	m.Helper()
	var list []string
	links, err := net.Interfaces()
	if err != nil {
		m.Fatal(err)
	}
	for _, l := range links {
		list = append(list, "link "+l.Name)
	}
	for line := range strings.Lines(m.read("/proc/self/mountinfo")) {
		list = append(list, "mount "+strings.Fields(line)[4])
	}
	for line := range strings.Lines(m.sh("find /sys/fs/cgroup -type d")) {
		if line = strings.TrimSpace(line); strings.Contains(line, "crio") || strings.Contains(line, "machinetest") {
			list = append(list, "cgroup "+line)
		}
	}
	exes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, e := range exes {
		if to, _ := os.Readlink(e); strings.HasPrefix(to, lib) {
			list = append(list, "process "+e+" of "+to)
		}
	}
	for line := range strings.Lines(m.sh("nft list tables")) {
		list = append(list, "nft "+strings.TrimSpace(line))
	}
	slices.Sort(list)
	return list
}

// differ lists what is more, less or other than it was.
func differ(before, now map[string]string) (list []string) {
	for p, w := range now {
		switch was, ok := before[p]; {
		case !ok:
			list = append(list, "new: "+p+" "+w)
		case was != w:
			list = append(list, "changed: "+p+" "+was+" => "+w)
		}
	}
	for p := range before {
		if _, ok := now[p]; !ok {
			list = append(list, "gone: "+p)
		}
	}
	slices.Sort(list)
	return list
}
