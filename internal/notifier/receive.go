package notifier

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/seccomp/listener"
	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	patience   = 10 * time.Second // for a runtime that has connected
	maxMessage = 1 << 20
)

// accept takes listeners from runtimes.
func (n *Notifier) accept() {
	for {
		conn, err := n.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			n.o.Log.Error("cannot take a seccomp listener", "err", err)
			time.Sleep(time.Second) // too many open files, most likely
			continue
		}
		n.wg.Go(func() {
			defer conn.Close()
			if err := n.take(conn); err != nil {
				n.o.Log.Error("cannot use what was sent as a seccomp listener; calls that it was to hear of fail with ENOSYS", "err", err)
			}
		})
	}
}

// take reads one container process state with its descriptor.
func (n *Notifier) take(conn *net.UnixConn) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	data, fds, err := read(conn)
	var s specs.ContainerProcessState
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	at := slices.Index(s.Fds, specs.SeccompFdName)
	for i, fd := range fds {
		if i != at || err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return err
	}
	if at < 0 || at >= len(fds) {
		return errs.Invalid("container %q: no descriptor %s came with its state", s.State.ID, specs.SeccompFdName)
	}
	l, err := listener.Open(fds[at])
	if err != nil {
		return err
	}
	var r spec.Refusals
	if err = json.Unmarshal([]byte(s.Metadata), &r); err == nil {
		err = n.watch(s.State.ID, r, l)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	return nil
}

// read reads up to the end; descriptors come with the first bytes.
func read(conn *net.UnixConn) (data []byte, fds []int, err error) {
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*8))
	for len(data) <= maxMessage {
		got, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
		if oobn > 0 {
			fds = append(fds, rights(oob[:oobn])...)
		}
		data = append(data, buf[:max(got, 0)]...)
		if errors.Is(err, io.EOF) || err == nil && got == 0 {
			return data, fds, nil
		} else if err != nil {
			return data, fds, err
		}
	}
	return data, fds, errs.Invalid("the state of a container process has more than %d bytes", maxMessage)
}

func rights(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if list, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, list...)
		}
	}
	return fds
}
