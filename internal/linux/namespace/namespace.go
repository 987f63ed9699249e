// Package namespace makes Linux namespaces and keeps them without a process, as
// bind mounts of /proc/PID/ns files (namespaces(7)).
//
// A thread that has entered a namespace is never given back to the Go runtime: it
// ends locked. Only a user namespace needs a process of its own, because the
// kernel refuses it to a process with several threads: a helper child is started
// with clone flags and mappings, its namespaces are pinned, and it is killed.
//
// The package imports the standard library, x/sys and ground; it knows neither
// pods nor containers.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Kind is a kind of namespace; its text is the name of the file below /proc/PID/ns.
type Kind string

// The kinds. PID and mount namespaces cannot be kept by Pin: the first dies with
// its first process, the second would hold the mounts that hold it.
const (
	User   Kind = "user"
	UTS    Kind = "uts"
	IPC    Kind = "ipc"
	Net    Kind = "net"
	Cgroup Kind = "cgroup"
	PID    Kind = "pid"
	Mnt    Kind = "mnt"
)

// pinnable lists what Pin can make, in the order in which it is pinned.
var pinnable = [...]Kind{User, UTS, IPC, Net, Cgroup}

func (k Kind) flag() int {
	switch k {
	case User:
		return unix.CLONE_NEWUSER
	case UTS:
		return unix.CLONE_NEWUTS
	case IPC:
		return unix.CLONE_NEWIPC
	case Net:
		return unix.CLONE_NEWNET
	case Cgroup:
		return unix.CLONE_NEWCGROUP
	case PID:
		return unix.CLONE_NEWPID
	case Mnt:
		return unix.CLONE_NEWNS
	}
	return 0
}

// Mapping is one line of a uid_map or gid_map (user_namespaces(7)).
type Mapping struct{ Container, Host, Size uint32 }

// UserMap is the translation of a user namespace. Id 0 must be mapped in both.
type UserMap struct{ UIDs, GIDs []Mapping }

// PinRequest says what to make and where to keep it.
type PinRequest struct {
	Kinds    []Kind
	Dir      string            // folder of the pins, made with mode 0700 if absent; one file per kind: DIR/net
	Hostname string            // of the new uts namespace; empty: as the host's
	Sysctls  map[string]string // written inside; see CheckSysctls
	UserMap  *UserMap          // required with User, refused without
}

func (r *PinRequest) check() error {
	if len(r.Kinds) == 0 {
		return errs.Invalid("cannot pin namespaces in %s: no kind is asked for", r.Dir)
	}
	for i, k := range r.Kinds {
		if !slices.Contains(pinnable[:], k) {
			return errs.Unimplemented("cannot pin namespaces in %s: kind %q cannot be kept without a process", r.Dir, k)
		}
		if slices.Contains(r.Kinds[:i], k) {
			return errs.Invalid("cannot pin namespaces in %s: kind %q is asked for twice", r.Dir, k)
		}
	}
	if slices.Contains(r.Kinds, User) != (r.UserMap != nil) {
		return errs.Invalid("cannot pin namespaces in %s: a user namespace needs mappings, and mappings a user namespace", r.Dir)
	}
	if r.UserMap != nil && (hostID(r.UserMap.UIDs, 0) < 0 || hostID(r.UserMap.GIDs, 0) < 0) {
		return errs.Invalid("cannot pin namespaces in %s: the mappings leave out uid or gid 0 of the container", r.Dir)
	}
	if r.Hostname != "" && !slices.Contains(r.Kinds, UTS) {
		return errs.Invalid("cannot set hostname %q: the uts namespace is the host's", r.Hostname)
	}
	if len(r.Hostname) > 64 {
		return errs.Invalid("cannot set hostname %q: it is longer than the kernel's 64 bytes", r.Hostname)
	}
	return CheckSysctls(r.Sysctls, r.Kinds)
}

// hostID translates an id of the container; -1 if it is not mapped.
func hostID(maps []Mapping, id uint32) int64 {
	for _, m := range maps {
		if id >= m.Container && uint64(id) < uint64(m.Container)+uint64(m.Size) {
			return int64(m.Host) + int64(id-m.Container)
		}
	}
	return -1
}

// Pin makes new namespaces, prepares them (hostname, sysctls) and keeps them in
// r.Dir. On an error nothing of it is left. A pin of the same name that is already
// there is an error of kind AlreadyExists: Unpin first.
func Pin(ctx context.Context, r PinRequest) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := openDir(r.Dir, true)
	if err != nil {
		return err
	}
	defer dir.Close()
	var made []Kind
	defer func() {
		if err != nil {
			for _, k := range made {
				err = errors.Join(err, unpin(dir, k))
			}
		}
	}()
	keep := func(task string) error {
		for _, k := range pinnable {
			if !slices.Contains(r.Kinds, k) {
				continue
			}
			if err := pin(dir, k, task); err != nil {
				return err
			}
			made = append(made, k)
		}
		return nil
	}
	if r.UserMap != nil {
		return pinWithUser(&r, keep)
	}
	return onLostThread(func() error {
		flags := 0
		for _, k := range r.Kinds {
			flags |= k.flag()
		}
		if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("cannot make namespaces %v: %w", r.Kinds, err)
		}
		if err := prepare(&r); err != nil {
			return err
		}
		return keep(strconv.Itoa(unix.Gettid()))
	})
}

// onLostThread runs f on a thread that ends afterwards, whatever f did to it. It is
// never the process's first thread: that one cannot end, and /proc/self shows its
// namespaces as those of the process.
func onLostThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			done <- onLostThread(f) // on another thread, since we hold this one
			runtime.UnlockOSThread()
			return
		}
		err := errors.New("a thread that had switched namespaces ended by a panic")
		defer func() { done <- err }()
		err = f()
	}()
	return <-done
}

// prepare sets hostname and sysctls; the calling thread is in the namespaces.
func prepare(r *PinRequest) error {
	if r.Hostname != "" {
		if err := unix.Sethostname([]byte(r.Hostname)); err != nil {
			return fmt.Errorf("cannot set hostname %q: %w", r.Hostname, err)
		}
	}
	return writeSysctls(r.Sysctls)
}

// openDir opens the folder of the pins without following a link in its last part.
func openDir(path string, create bool) (*os.File, error) {
	if create {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot make folder of namespaces: %w", err)
		}
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// pin binds a namespace of a task on the file dir/kind, which it makes.
func pin(dir *os.File, k Kind, task string) error {
	at := dir.Name() + "/" + string(k)
	fd, err := unix.Openat(int(dir.Fd()), string(k), unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return errs.Errorf(errs.KindAlreadyExists, "cannot pin %s namespace: %s exists; unpin it first", k, at)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", at, err)
	}
	defer unix.Close(fd)
	source := "/proc/" + task + "/ns/" + string(k)
	if err := unix.Mount(source, fdPath(fd), "", unix.MS_BIND, ""); err != nil {
		err = fmt.Errorf("cannot pin %s namespace at %s: %w", k, at, err)
		return errors.Join(err, unix.Unlinkat(int(dir.Fd()), string(k), 0))
	}
	return nil
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Unpin lets go of whatever Pin keeps in a folder; the folder stays. What is not
// there, the folder included, is no error.
func Unpin(path string) error {
	dir, err := openDir(path, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot unpin namespaces: %w", err)
	}
	defer dir.Close()
	var all error
	for _, k := range pinnable {
		all = errors.Join(all, unpin(dir, k))
	}
	return all
}

func unpin(dir *os.File, k Kind) error {
	target := fdPath(int(dir.Fd())) + "/" + string(k)
	for { // whoever pinned twice, by whatever way, is undone twice
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // no mount, or no file
		}
		return fmt.Errorf("cannot unpin %s/%s: %w", dir.Name(), k, err)
	}
	if err := unix.Unlinkat(int(dir.Fd()), string(k), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove %s/%s: %w", dir.Name(), k, err)
	}
	return nil
}

// Do runs f on a thread inside the namespace kept at path. The thread ends
// afterwards, so f may change it as it likes, but goroutines that f starts run
// elsewhere. A user or mount namespace cannot be entered this way.
func Do(path string, k Kind, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return errs.NotFound(string(k)+" namespace", path)
	}
	if err != nil {
		return fmt.Errorf("cannot open %s namespace %s: %w", k, path, err)
	}
	defer unix.Close(fd)
	return onLostThread(func() error {
		if err := unix.Setns(fd, k.flag()); err != nil {
			return fmt.Errorf("cannot enter %s namespace %s: %w", k, path, err)
		}
		return f()
	})
}
