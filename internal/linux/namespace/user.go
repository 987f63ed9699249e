package namespace

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// helperName is argv[0] of the helper child, which is this executable again: under
// that name it must do nothing until it is killed.
const helperName = "pause"

// pinWithUser makes the namespaces in a child, since a user namespace demands a
// process of one thread. All of them are owned by the new user namespace.
func pinWithUser(r *PinRequest, keep func(task string) error) error {
	flags := uintptr(0)
	for _, k := range r.Kinds {
		flags |= uintptr(k.flag())
	}
	cmd := exec.Cmd{
		Path: "/proc/self/exe", Args: []string{helperName}, Env: []string{},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags:                 flags,
			UidMappings:                idMap(r.UserMap.UIDs),
			GidMappings:                idMap(r.UserMap.GIDs),
			GidMappingsEnableSetgroups: true,
			Pdeathsig:                  syscall.SIGKILL,
		},
	}
	// The child must die with this process, and Linux ties that to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make namespaces %v with mappings %v: %w", r.Kinds, *r.UserMap, err)
	}
	defer func() {
		cmd.Process.Kill()
		_ = cmd.Wait() // killed: its status says nothing
	}()
	task := strconv.Itoa(cmd.Process.Pid)
	if r.Hostname != "" || len(r.Sysctls) > 0 {
		if err := onLostThread(func() error { return prepareAs(r, task) }); err != nil {
			return err
		}
	}
	return keep(task)
}

func idMap(maps []Mapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)}
	}
	return out
}

// prepareAs enters the child's namespaces, all but the user namespace. Network
// sysctls want its capabilities; those of ipc, since Linux 6.1, the id of the user
// namespace's root (ipc_namespaces(7)), which costs the capabilities. So what
// root may not write there is tried again as that id.
func prepareAs(r *PinRequest, task string) error {
	for _, k := range pinnable {
		if k == User || !slices.Contains(r.Kinds, k) {
			continue
		}
		f, err := os.Open("/proc/" + task + "/ns/" + string(k))
		if err != nil {
			return fmt.Errorf("cannot open new %s namespace: %w", k, err)
		}
		err = unix.Setns(int(f.Fd()), k.flag())
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot enter new %s namespace: %w", k, err)
		}
	}
	ipc, others := make(map[string]string), make(map[string]string)
	for name, value := range r.Sysctls {
		if sysctlKind(name) == IPC {
			ipc[name] = value
		} else {
			others[name] = value
		}
	}
	if err := prepare(&PinRequest{Hostname: r.Hostname, Sysctls: others}); err != nil {
		return err
	}
	if err := writeSysctls(ipc); !errors.Is(err, os.ErrPermission) {
		return err
	}
	// Raw calls: package syscall's would change every thread of the process.
	gid, uid := uintptr(hostID(r.UserMap.GIDs, 0)), uintptr(hostID(r.UserMap.UIDs, 0))
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return fmt.Errorf("cannot become gid %d for sysctls: %w", gid, e)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return fmt.Errorf("cannot become uid %d for sysctls: %w", uid, e)
	}
	return writeSysctls(ipc)
}
