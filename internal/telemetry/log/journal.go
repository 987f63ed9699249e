package log

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// journalSocket is where systemd's journal listens for messages in fields, see
// systemd.io/JOURNAL_NATIVE_PROTOCOL.
const journalSocket = "/run/systemd/journal/socket"

// IsJournal tells whether a file is the stream by which systemd connects a service to
// the journal, systemd.exec(5), $JOURNAL_STREAM. env is the variable's value.
func IsJournal(f *os.File, env string) bool {
	var st unix.Stat_t
	if env == "" || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return env == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// NewJournal is New for a log in the journal: attributes become fields, CRIO_POD for
// pod, so that `journalctl CRIO_POD=ID` finds what is about one pod; the message has
// them for people. What cannot be sent goes to fallback.
func NewJournal(socket string, fallback io.Writer) (*slog.Logger, *Control, error) {
	if socket == "" {
		socket = journalSocket
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach the journal: %w", err)
	}
	c := &Control{}
	l := route(&journal{conn: conn, c: c, fallback: slog.NewTextHandler(fallback, &slog.HandlerOptions{Level: &c.level})}, c)
	return l, c, nil
}

// journal is a slog.Handler.
type journal struct {
	conn     *net.UnixConn
	c        *Control
	attrs    []slog.Attr
	group    string // before the names of attributes that follow
	fallback slog.Handler
}

// Enabled implements slog.Handler.
func (j *journal) Enabled(_ context.Context, l slog.Level) bool { return l >= j.c.level.Level() }

// WithAttrs implements slog.Handler.
func (j *journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *j
	next.attrs = append([]slog.Attr(nil), j.attrs...)
	for _, a := range attrs {
		next.attrs = append(next.attrs, slog.Attr{Key: j.group + a.Key, Value: a.Value})
	}
	next.fallback = j.fallback.WithAttrs(attrs)
	return &next
}

// WithGroup implements slog.Handler.
func (j *journal) WithGroup(name string) slog.Handler {
	next := *j
	next.group += name + "."
	next.fallback = j.fallback.WithGroup(name)
	return &next
}

// Handle implements slog.Handler.
func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	attrs := append([]slog.Attr(nil), j.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		if !noError(a) {
			attrs = append(attrs, slog.Attr{Key: j.group + a.Key, Value: a.Value})
		}
		return true
	})
	text := r.Message
	var fields bytes.Buffer
	for _, a := range attrs {
		v := a.Value.Resolve().String()
		field(&fields, "CRIO_"+fieldName(a.Key), v)
		if strings.ContainsAny(v, " \"=\n") || v == "" {
			v = fmt.Sprintf("%q", v)
		}
		text += " " + a.Key + "=" + v
	}
	field(&fields, "MESSAGE", text)
	field(&fields, "PRIORITY", priority(r.Level))
	field(&fields, "SYSLOG_IDENTIFIER", "crio")
	if err := j.send(fields.Bytes()); err != nil {
		return j.fallback.Handle(ctx, r)
	}
	return nil
}

// priority is that of syslog(3).
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "3"
	case l >= slog.LevelWarn:
		return "4"
	case l >= slog.LevelInfo:
		return "6"
	}
	return "7"
}

// fieldName makes of a name what a field may be called: capitals, digits, '_'.
func fieldName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
}

// field appends one; a value of several lines has its length before it.
func field(b *bytes.Buffer, name, value string) {
	b.WriteString(name)
	if !strings.Contains(value, "\n") {
		b.WriteString("=" + value + "\n")
		return
	}
	b.WriteByte('\n')
	_ = binary.Write(b, binary.LittleEndian, uint64(len(value)))
	b.WriteString(value + "\n")
}

// send sends one message; one that is too large for a datagram goes as a sealed file.
func (j *journal) send(data []byte) error {
	_, err := j.conn.Write(data)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	fd, err := unix.MemfdCreate("journal-message", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "journal-message")
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return err
	}
	raw, err := j.conn.SyscallConn()
	if err != nil {
		return err
	}
	// The library refuses to send rights through a datagram socket that is connected.
	e := raw.Write(func(to uintptr) bool {
		err = unix.Sendmsg(int(to), nil, unix.UnixRights(fd), nil, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(err, e)
}
