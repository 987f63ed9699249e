package bare

import (
	"syscall"
	"unsafe"
)

const (
	sysPidfdOpen   = 434 // the same number on every architecture
	prSetSubreaper = 36
	clockRealtime  = 0
	clockMonotonic = 1
	efdNonblock    = syscall.O_NONBLOCK
	efdCloexec     = syscall.O_CLOEXEC
)

// Fault is an error that is its text.
type Fault string

func (f Fault) Error() string { return string(f) }

// Cannot makes an error of the house's form.
func Cannot(what string, err error) error {
	return Fault("cannot " + what + ": " + err.Error())
}

// ErrnoOf makes an error of a raw call's result.
func ErrnoOf(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// Now is the time of day.
func Now() (sec int64, nsec int64) {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockRealtime, uintptr(unsafe.Pointer(&ts)), 0)
	return int64(ts.Sec), int64(ts.Nsec)
}

// PidfdOpen returns a descriptor of a process (pidfd_open(2)).
func PidfdOpen(pid int) (int, error) {
	fd, _, e := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), 0, 0)
	return int(fd), ErrnoOf(e)
}

// Eventfd makes a counter (eventfd(2)).
func Eventfd() (int, error) {
	fd, _, e := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, efdNonblock|efdCloexec, 0)
	return int(fd), ErrnoOf(e)
}

// Alarm makes a timer descriptor that becomes readable once, after so many
// milliseconds.
func Alarm(ms int64) (int, error) {
	fd, _, e := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, efdNonblock|efdCloexec, 0)
	if e != 0 {
		return -1, e
	}
	spec := [2]syscall.Timespec{1: syscall.NsecToTimespec(ms * 1e6)}
	_, _, e = syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	if e != 0 {
		syscall.Close(int(fd))
		return -1, e
	}
	return int(fd), nil
}

// Ioctl is ioctl(2).
func Ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return ErrnoOf(e)
}

// BecomeSubreaper makes the container's process, whose parent is the runtime, a
// child of this process when the runtime ends.
func BecomeSubreaper() error {
	_, _, e := syscall.RawSyscall(syscall.SYS_PRCTL, prSetSubreaper, 1, 0)
	return ErrnoOf(e)
}

// Anonymous maps zeroed memory outside the Go heap. Pages cost nothing before they
// are touched, and Release gives them back.
func Anonymous(size int) ([]byte, error) {
	return syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

const madvDontneed = 4

// Release gives the pages of Anonymous back to the system.
func Release(b []byte) {
	syscall.RawSyscall(syscall.SYS_MADVISE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), madvDontneed)
}

// ReadNow reads from a non-blocking descriptor.
func ReadNow(fd int, b []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, b)
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// ReadSmall returns the beginning of a file, as much as fits in buf; the kernel's
// small files come whole with one read.
func ReadSmall(path string, buf []byte) (string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	n, err := ReadNow(fd, buf)
	syscall.Close(fd)
	if err != nil {
		return "", err
	}
	return unsafe.String(&buf[0], n), nil
}

// DropFile lets go of the pages of the executable that were needed to get here. The
// kernel maps sixteen for each one that is touched; the few that are needed again come
// back from the page cache, which everybody shares.
func DropFile(buf []byte) {
	_ = ScanLines("/proc/self/maps", buf, func(line string) bool { // 00401000-0152a000 r-xp 00000000 fe:00 12 /path
		start, rest, ok := hex(line)
		if !ok || len(rest) == 0 || rest[0] != '-' {
			return true
		}
		end, rest, ok := hex(rest[1:])
		if ok && len(rest) > 5 && rest[2] == '-' && rest[4] == 'p' && rest[len(rest)-1] != ']' && slash(rest) {
			syscall.RawSyscall(syscall.SYS_MADVISE, uintptr(start), uintptr(end-start), madvDontneed)
		}
		return true
	})
}

// hex reads a number at the beginning of a text.
func hex(s string) (n uint64, rest string, ok bool) {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return n, s[i:], i > 0
		}
	}
	return n, "", len(s) > 0
}

func slash(s string) bool {
	for i := range len(s) {
		if s[i] == '/' {
			return true
		}
	}
	return false
}

// ScanLines calls f for each line of a file until f says no. The lines lie in buf,
// which must hold the longest; longer ones are skipped.
func ScanLines(path string, buf []byte, f func(line string) bool) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	for kept := 0; ; {
		n, err := ReadNow(fd, buf[kept:])
		if err != nil || n == 0 {
			return err
		}
		have := kept + n
		from := 0
		for {
			i := IndexNewline(buf[from:have])
			if i < 0 {
				break
			}
			if i > 0 && !f(unsafe.String(&buf[from], i)) {
				return nil
			}
			from += i + 1
		}
		if kept = copy(buf, buf[from:have]); kept == len(buf) {
			kept = 0
		}
	}
}

// WriteFile replaces or makes a file in place.
func WriteFile(path, text string, flags int, mode uint32) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC|flags, mode)
	if err != nil {
		return err
	}
	if text != "" {
		_, err = syscall.Write(fd, []byte(text))
	}
	if e := syscall.Close(fd); err == nil {
		err = e
	}
	return err
}

// ReplaceFile writes a file aside and renames it in, so that a reader finds
// nothing or the whole.
func ReplaceFile(dir, name, text string) error {
	tmp := dir + "/." + name + "." + Itoa(int64(syscall.Getpid()))
	err := WriteFile(tmp, text, syscall.O_CREAT|syscall.O_TRUNC|syscall.O_NOFOLLOW, 0o644)
	if err == nil {
		err = syscall.Rename(tmp, dir+"/"+name)
	}
	if err != nil {
		syscall.Unlink(tmp)
		return Cannot("write "+dir+"/"+name, err)
	}
	return nil
}
