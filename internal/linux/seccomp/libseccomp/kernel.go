package seccomp

import (
	"fmt"
	"sync"
	"syscall"
	"unsafe"
)

// VersionError: the kernel is too old for something.
type VersionError struct {
	what        string
	have, wants uint // levels, as GetAPI counts them
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s needs a newer kernel: seccomp API level is %d, wanted %d", e.what, e.have, e.wants)
}

// GetLibraryVersion returns the version of libseccomp whose features callers may
// count on: 2.6.0 is the first with SetWaitKill. It is no version of this package.
func GetLibraryVersion() (major, minor, micro uint) { return 2, 6, 0 }

// GetAPI returns what this kernel can do, by the levels of seccomp_api_get(3):
//
//	1  filters
//	2  seccomp(2), thread synchronisation
//	3  the log flag and action, the action that kills the process
//	4  SECCOMP_FILTER_FLAG_SPEC_ALLOW
//	5  the action that asks a listener
//	6  listener and thread synchronisation together
//	7  SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
func GetAPI() (uint, error) { return apiLevel(), nil }

var api struct {
	sync.Once
	level uint
}

// apiLevel asks the kernel once in a process.
func apiLevel() uint {
	api.Do(func() { api.level = probe(kernel{}) })
	return api.level
}

// kernel answers what it supports; a test has another.
type kernel struct{}

// Operations and flags of seccomp(2), linux/seccomp.h.
const (
	setModeFilter  = 1
	getActionAvail = 2

	flagTsync        = 1 << 0
	flagLog          = 1 << 1
	flagSpecAllow    = 1 << 2
	flagNewListener  = 1 << 3
	flagTsyncESRCH   = 1 << 4
	flagWaitKillable = 1 << 5
)

// action tells whether the kernel knows an action.
func (kernel) action(a ScmpAction) bool {
	code, err := a.code()
	return err == nil && seccomp(getActionAvail, 0, &code) == 0
}

// flags tells whether the kernel knows flags: it looks at them before the program,
// which is not there.
func (kernel) flags(flags uint32) bool { return seccomp(setModeFilter, flags, nil) == syscall.EFAULT }

// probe climbs the levels; each takes those below for granted.
func probe(k interface {
	action(ScmpAction) bool
	flags(uint32) bool
}) uint {
	for level, ok := range [...]func() bool{
		2: func() bool { return k.flags(flagTsync) },
		3: func() bool { return k.flags(flagLog) && k.action(ActLog) && k.action(ActKillProcess) },
		4: func() bool { return k.flags(flagSpecAllow) },
		5: func() bool { return k.flags(flagNewListener) && k.action(ActNotify) },
		6: func() bool { return k.flags(flagTsync | flagNewListener | flagTsyncESRCH) },
		7: func() bool { return k.flags(flagNewListener | flagWaitKillable) },
	} {
		if ok != nil && !ok() {
			return uint(level) - 1
		}
	}
	return 7
}

// seccomp is seccomp(2).
func seccomp(operation, flags uint32, arg *uint32) syscall.Errno {
	nr, err := GetSyscallFromName("seccomp")
	if err != nil {
		return syscall.ENOSYS
	}
	_, _, errno := syscall.RawSyscall(uintptr(nr), uintptr(operation), uintptr(flags), uintptr(unsafe.Pointer(arg)))
	return errno
}
