// Package notify stands between a container and the service manager (sd_notify(3)):
// it passes on how the service fares, and nothing by which a container could speak
// for others.
//
// It imports nothing that package bare would not: see package loop for why.
package notify

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// The container's socket, below the bundle.
const (
	Folder = "notify"
	Socket = "notify.sock"
)

// Proxy is an open socket; a nil one does nothing.
type Proxy struct {
	FD int // non-blocking; readable when there is something to pass on
	to syscall.SockaddrUnix
}

// Open makes the container's socket in the bundle. to is the manager's: a path, or
// @NAME.
func Open(bundle, to string) (*Proxy, error) {
	dir := bundle + "/" + Folder
	if err := syscall.Mkdir(dir, 0o755); err != nil && err != syscall.EEXIST {
		return nil, bare.Cannot("make folder "+dir, err)
	}
	const oPath = 0x200000
	at, err := syscall.Open(dir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, bare.Cannot("open folder "+dir, err)
	}
	defer syscall.Close(at)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, bare.Cannot("make a socket for notifications", err)
	}
	// The folder's path may be longer than a socket's may be.
	path := "/proc/self/fd/" + bare.Itoa(int64(at)) + "/" + Socket
	syscall.Unlink(path)
	old := syscall.Umask(0) // every user of the container may speak
	err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
	syscall.Umask(old)
	if err != nil {
		syscall.Close(fd)
		return nil, bare.Cannot("listen on "+dir+"/"+Socket, err)
	}
	return &Proxy{FD: fd, to: syscall.SockaddrUnix{Name: to}}, nil
}

// Pass passes on what has arrived. Descriptors that came along are closed by the
// kernel, since nobody takes them; that is the answer to BARRIER=1.
func (p *Proxy) Pass(buf []byte) {
	if p == nil {
		return
	}
	for range 64 { // others have their turn
		n, err := bare.ReadNow(p.FD, buf)
		if err != nil {
			return
		}
		if n = filter(buf[:n]); n > 0 {
			// A manager that is gone or does not read is no harm to the container.
			_ = syscall.Sendto(p.FD, buf[:n], syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, &p.to)
		}
	}
}

// Close ends it.
func (p *Proxy) Close() {
	if p != nil {
		syscall.Close(p.FD)
	}
}

// filter leaves the lines that may pass at the beginning of a message and returns
// their length.
func filter(msg []byte) int {
	out := 0
	for from := 0; from < len(msg); {
		end := from
		for end < len(msg) && msg[end] != '\n' {
			end++
		}
		if may(msg[from:end]) {
			if out > 0 {
				msg[out] = '\n'
				out++
			}
			out += copy(msg[out:], msg[from:end])
		}
		from = end + 1
	}
	return out
}

func may(line []byte) bool {
	switch string(line) {
	case "READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger":
		return true
	}
	for _, name := range [...]string{"STATUS=", "ERRNO=", "BUSERROR=", "MONOTONIC_USEC="} {
		if len(line) >= len(name) && string(line[:len(name)]) == name {
			return true
		}
	}
	return false
}
