package check

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"golang.org/x/sys/unix"
)

// Kernel asks the kernel for what containers need. driver is the storage driver.
func Kernel(driver string) Look {
	return func(context.Context) (list []Finding) {
		list = append(list, namespaces()...)
		list = append(list, calls()...)
		list = append(list, files(driver)...)
		list = append(list, limits()...)
		return append(list, modules())
	}
}

func namespaces() (list []Finding) {
	var missing []string
	for _, n := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		if _, err := os.Lstat("/proc/self/ns/" + n); err != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		list = append(list, found("kernel", Fail, "use a kernel with CONFIG_NAMESPACES and its parts", "there are no %s namespaces", strings.Join(missing, ", ")))
	} else {
		list = append(list, ok("kernel", "namespaces: mnt, pid, net, ipc, uts"))
	}
	if n, err := number("/proc/sys/user/max_user_namespaces"); err != nil || n == 0 {
		list = append(list, found("kernel", Note, "sysctl -w user.max_user_namespaces=65536", "user namespaces are off: pods with hostUsers: false are refused"))
	}
	if _, err := os.Lstat("/proc/self/ns/cgroup"); err != nil {
		list = append(list, found("kernel", Note, "use Linux 4.6 or newer", "there are no cgroup namespaces"))
	}
	return list
}

// calls tries system calls with arguments that cannot do anything.
func calls() (list []Finding) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(pidfd)
	} else {
		list = append(list, found("kernel", Fail, "use Linux 5.3 or newer", "pidfd_open(2): %v: ends of containers cannot be seen", err))
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH})
	if err == nil {
		unix.Close(fd)
	} else {
		list = append(list, found("kernel", Warn, "use Linux 5.6 or newer", "openat2(2): %v: paths in containers are resolved more slowly", err))
	}
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
		list = append(list, found("kernel", Note, "use Linux 5.12 or newer", "mount_setattr(2) is lacking: no recursive read-only and no idmapped mounts"))
	}
	if _, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail"); err != nil {
		list = append(list, found("kernel", Fail, "use a kernel with CONFIG_SECCOMP_FILTER", "there are no seccomp filters: containers with a profile are refused"))
	}
	if len(list) == 0 {
		list = append(list, ok("kernel", "pidfd_open, openat2, mount_setattr, seccomp filters"))
	}
	return list
}

func files(driver string) (list []Finding) {
	data, err := os.ReadFile("/proc/filesystems")
	switch {
	case driver != "overlay":
	case err == nil && slices.Contains(strings.Fields(string(data)), "overlay"):
		list = append(list, ok("kernel", "file systems: overlay"))
	default: // it may be a module that is loaded with the first mount
		list = append(list, found("kernel", Warn, "modprobe overlay, or storage_driver = \"vfs\" (slow)", "the overlay file system is not there yet"))
	}
	if n, err := number("/proc/sys/fs/may_detach_mounts"); err == nil && n == 0 {
		list = append(list, found("kernel", Fail, "sysctl -w fs.may_detach_mounts=1", "mounts that others see cannot be detached: pods cannot be removed"))
	}
	return list
}

func limits() (list []Finding) {
	for _, l := range []struct {
		name string
		min  int
		why  string
	}{
		{"fs.inotify.max_user_instances", 128, "programs in pods run out of inotify instances"},
		{"fs.inotify.max_user_watches", 8192, "programs in pods run out of inotify watches"},
		{"kernel.pid_max", 32768, "processes run out"},
		{"fs.file-max", 65536, "open files run out"},
	} {
		n, err := number("/proc/sys/" + strings.ReplaceAll(l.name, ".", "/"))
		if err == nil && n >= 0 && n < l.min {
			list = append(list, found("kernel", Warn, "sysctl -w "+l.name+"="+strconv.Itoa(8*l.min), "%s is %d: %s", l.name, n, l.why))
		}
	}
	return list
}

func modules() Finding {
	var on []string
	if lsm.AppArmorEnabled() {
		on = append(on, "AppArmor")
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		on = append(on, "SELinux")
	}
	if len(on) == 0 {
		return found("kernel", Note, "", "neither AppArmor nor SELinux: pods that ask for a profile are refused or run without")
	}
	return ok("kernel", "%s", strings.Join(on, ", "))
}

func number(path string) (int, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return int(min(n, 1<<62)), err
}

// Cgroups looks whether pods can be limited, and whether the driver fits the machine.
func Cgroups(d cgroup.Driver) Look {
	return func(context.Context) (list []Finding) {
		ctl := cgroup.Available()
		mode := map[cgroup.Version]string{cgroup.V1: "version 1", cgroup.Hybrid: "version 1 (hybrid)", cgroup.V2: "version 2"}[ctl.Mode]
		for _, n := range []string{"cpu", "memory", "pids", "cpuset"} {
			if !slices.Contains(ctl.Names, n) {
				list = append(list, found("cgroups", Fail, "mount it, or boot with cgroup_enable="+n, "the controller %s is lacking: limits of pods have no effect", n))
			}
		}
		if !slices.Contains(ctl.Names, "hugetlb") {
			list = append(list, found("cgroups", Note, "", "the controller hugetlb is lacking: limits of huge pages have no effect"))
		}
		if !ctl.Swap {
			list = append(list, found("cgroups", Note, "boot with swapaccount=1", "swap cannot be limited"))
		}
		_, err := os.Stat("/run/systemd/system")
		switch {
		case d == cgroup.Systemd && err != nil:
			list = append(list, found("cgroups", Fail, "cgroup_manager = \"cgroupfs\", in the kubelet too", "the driver is systemd, which does not run here"))
		case d == cgroup.Cgroupfs && err == nil:
			list = append(list, found("cgroups", Warn, "cgroup_manager = \"systemd\", in the kubelet too", "the driver is cgroupfs, and systemd runs here: two masters of one tree"))
		default:
			list = append(list, ok("cgroups", "%s, driver %s: %s", mode, d, strings.Join(ctl.Names, " ")))
		}
		return list
	}
}
