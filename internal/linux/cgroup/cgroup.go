// Package cgroup makes, fills, reads and removes control groups: version 1,
// version 2 and the hybrid of both, with or without systemd.
//
// A cgroup is named by its path below the root of the hierarchy, "/a/b"; where
// hierarchies are mounted is this package's business alone. It keeps no state:
// every answer is the kernel's of that moment. It imports the cgroup library for
// what differs by controller (limits, cpuset inheritance, systemd's units) and
// knows no pod, container or runtime.
package cgroup

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Root is where cgroups are mounted (cgroups(7)).
const Root = "/sys/fs/cgroup"

// Version is how cgroups are mounted here.
type Version int

// The versions. Hybrid has its controllers in version 1 hierarchies and a version
// 2 tree beside them that controls nothing of interest.
const (
	V1 Version = iota + 1
	Hybrid
	V2
)

// String returns "v1", "hybrid" or "v2".
func (v Version) String() string { return [...]string{"none", "v1", "hybrid", "v2"}[v] }

// Mode tells the version in use; it is looked up once.
func Mode() Version { return host().mode }

// Unified tells whether version 2 is in use for everything.
func Unified() bool { return Mode() == V2 }

// Controllers says what can be limited on this host.
type Controllers struct {
	Mode Version
	// Names of usable controllers, sorted; version 2's built-in ones ("devices",
	// "freezer") included.
	Names []string
	// HugePageSizes that can be limited, as "2MB"; none without the controller.
	HugePageSizes []string
	// Swap tells whether memory plus swap can be limited.
	Swap bool
}

// Has tells whether a controller is usable.
func (c Controllers) Has(name string) bool { return slices.Contains(c.Names, name) }

// Available tells what can be limited on this host; it is looked up once.
func Available() Controllers { return host().controllers }

// facts about the machine that do not change while it runs.
type facts struct {
	mode        Version
	mounts      map[string]string // controller -> mount point; version 2 is ""
	dirs        []string          // the mount points, each once
	controllers Controllers
}

var host = sync.OnceValue(readFacts)

func readFacts() facts {
	var st unix.Statfs_t
	f := facts{mode: V1, mounts: map[string]string{}}
	if unix.Statfs(Root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		f.mode = V2
		f.mounts[""] = Root
		names, _ := os.ReadFile(filepath.Join(Root, "cgroup.controllers"))
		f.controllers.Names = append(strings.Fields(string(names)), "devices", "freezer")
	} else {
		if unix.Statfs(filepath.Join(Root, "unified"), &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			f.mode = Hybrid
		}
		f.mounts = mountsV1()
		for name := range f.mounts {
			f.controllers.Names = append(f.controllers.Names, name)
		}
	}
	slices.Sort(f.controllers.Names)
	for _, dir := range f.mounts {
		if !slices.Contains(f.dirs, dir) {
			f.dirs = append(f.dirs, dir)
		}
	}
	if f.mode == Hybrid { // nothing is limited there, but cgroups are made in it
		f.mounts[""] = filepath.Join(Root, "unified")
		f.dirs = append(f.dirs, f.mounts[""])
	}
	slices.Sort(f.dirs)
	f.controllers.Mode = f.mode
	if f.controllers.Has("hugetlb") {
		f.controllers.HugePageSizes = cgroups.HugePageSizes()
	}
	f.controllers.Swap = swapAccounted(f)
	return f
}

// mountsV1 maps each mounted version 1 controller to its mount point; the named
// hierarchy of systemd is "name=systemd". The first mount of each counts.
func mountsV1() map[string]string {
	mounts := map[string]string{}
	known, _ := os.ReadFile("/proc/cgroups")
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mounts
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 || right[0] != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(right[2], ",") {
			if !strings.HasPrefix(option, "name=") && !strings.Contains(string(known), "\n"+option+"\t") {
				continue // "rw", "xattr" and the like
			}
			if _, have := mounts[option]; !have {
				mounts[option] = left[4]
			}
		}
	}
	return mounts
}

// swapAccounted looks for the swap limit's file; version 2 has none in the root,
// so a cgroup below it is asked.
func swapAccounted(f facts) bool {
	if f.mode != V2 {
		return exists(filepath.Join(f.mounts["memory"], "memory.memsw.limit_in_bytes"))
	}
	entries, _ := os.ReadDir(Root)
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() && exists(filepath.Join(Root, e.Name(), "memory.swap.max"))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// clean checks that a path names a cgroup below the root; the root itself belongs
// to the machine and is refused.
func clean(path string) (string, error) {
	if !strings.HasPrefix(path, "/") || path == "/" || filepath.Clean(path) != path || strings.ContainsAny(path, "\x00\n") {
		return "", errs.Invalid("cgroup path %q must be absolute, below the root, and without \".\" and \"..\"", path)
	}
	return path, nil
}

// Dirs returns the folders of a cgroup in all hierarchies, existing or not.
func Dirs(path string) []string {
	dirs := make([]string, 0, len(host().dirs))
	for _, d := range host().dirs {
		dirs = append(dirs, d+path)
	}
	return dirs
}

// DirFor returns the folder of a cgroup that a controller's files are in; empty
// if the controller is not mounted.
func DirFor(controller, path string) string {
	if Unified() {
		return Root + path
	}
	if m := host().mounts[controller]; m != "" {
		return m + path
	}
	return ""
}

// Exists tells whether a cgroup exists in at least one hierarchy.
func Exists(path string) bool {
	return slices.ContainsFunc(Dirs(path), exists)
}

// Processes lists the pids in a cgroup and all below it; a cgroup that does not
// exist has none.
func Processes(path string) ([]int, error) {
	path, err := clean(path)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range Dirs(path) {
		more, err := pidsBelow(dir)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func pidsBelow(dir string) ([]int, error) {
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil // it went away while we looked
	}
	return pids, err
}

// OpenDir opens a cgroup's folder for clone3's CLONE_INTO_CGROUP. Only version 2
// has that: KindUnimplemented elsewhere.
func OpenDir(path string) (*os.File, error) {
	path, err := clean(path)
	if err != nil {
		return nil, err
	}
	if !Unified() {
		return nil, errs.Unimplemented("cannot start a process inside cgroup %s: the host has cgroup %s, version 2 is needed", path, Mode())
	}
	f, err := os.OpenFile(Root+path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.NotFound("cgroup", path)
	}
	return f, err
}

// Of returns the cgroup that a process is in: the memory hierarchy's on version
// 1. KindNotFound if there is no such process.
func Of(pid int) (string, error) {
	groups, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", errs.NotFound("process", strconv.Itoa(pid))
	}
	names := []string{"memory", "devices", "pids", "cpu"}
	if Unified() {
		names = []string{""}
	}
	for _, name := range names {
		if path, ok := groups[name]; ok {
			return path, nil
		}
	}
	return "", errs.NotFound("cgroup of process", strconv.Itoa(pid))
}
