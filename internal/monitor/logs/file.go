package logs

import (
	"syscall"

	"github.com/monocrio/monocrio/internal/monitor/bare"
)

// file writes records of the form "TIME STREAM F|P TEXT" (the CRI log format).
// There is one writer and each write(2) holds whole records only, so a reader never
// sees a torn line of ours and a reopen falls between records.
type file struct {
	path    string
	flags   int // of open(2)
	fd      int
	size    int64 // bytes in the file, not counting out
	max     int64 // <= 0: no limit
	total   int64 // bytes of all records
	end     int64 // of total; <= 0: none
	backups int   // how many old files are kept
	out     []byte
	n       int  // bytes of out in use
	high    int  // most of out in use since it was released
	torn    bool // the file ends in the middle of a record
	lost    bool // the last write failed; it is reported once
	warn    func(string)
}

const (
	outSize  = 128 << 10
	appendTo = syscall.O_WRONLY | syscall.O_APPEND | syscall.O_CREAT | syscall.O_CLOEXEC
)

// open opens the file for appending, making it if needed.
func (l *file) open() error {
	fd, err := syscall.Open(l.path, appendTo|l.flags, 0o640)
	if err != nil {
		return bare.Cannot("open log file "+l.path, err)
	}
	l.adopt(fd)
	return nil
}

func (l *file) adopt(fd int) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err == nil {
		l.size = st.Size
	}
	if l.fd >= 0 {
		syscall.Close(l.fd)
	}
	l.fd, l.torn = fd, false
}

// reopen begins a new file at the path, or goes on with the one that is there: it
// was moved away, or it was not. On failure the old file stays in use.
func (l *file) reopen() {
	l.flush()
	if err := l.open(); err != nil {
		l.warn(err.Error())
	}
}

// restart replaces the file by an empty one: it has reached its greatest size.
func (l *file) restart() {
	l.flush()
	if err := l.backup(); err != nil {
		l.warn(err.Error())
		l.size = 0 // or each record would try again
		return
	}
	tmp := l.path + ".tmp"
	fd, err := syscall.Open(tmp, appendTo|l.flags|syscall.O_TRUNC, 0o640)
	if err == nil {
		if err = syscall.Rename(tmp, l.path); err != nil {
			syscall.Close(fd)
			syscall.Unlink(tmp)
		}
	}
	if err != nil {
		l.warn(bare.Cannot("restart log file "+l.path, err).Error())
		l.size = 0
		return
	}
	l.adopt(fd)
}

// record adds one record; text has at most contract.MaxOutput bytes and no newline.
func (l *file) record(stamp []byte, stream string, tag byte, text []byte) {
	if l.fd < 0 {
		return
	}
	size := len(stamp) + len(stream) + len(text) + 5
	if l.end > 0 && l.total+int64(size) > l.end {
		l.total = l.end // and whatever is shorter does not go in either: no gaps
		return
	}
	l.total += int64(size)
	if l.n+size > len(l.out) {
		l.flush()
	}
	if l.max > 0 && l.size+int64(l.n+size) > l.max && l.size+int64(l.n) > 0 {
		l.restart()
	}
	b := append(l.out[:l.n], stamp...)
	b = append(append(b, ' '), stream...)
	b = append(append(b, ' ', tag, ' '), text...)
	l.n = len(append(b, '\n'))
	l.high = max(l.high, l.n)
}

// flush writes what has been added.
func (l *file) flush() {
	b := l.out[:l.n]
	l.n = 0
	if len(b) > 0 && l.torn {
		// The disk was full in the middle of a record.
		if _, err := syscall.Write(l.fd, []byte{'\n'}); err != nil {
			return
		}
		l.torn = false
		l.size++
	}
	for written := false; len(b) > 0; {
		n, err := syscall.Write(l.fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			// What does not fit is lost: the container must not stand still for its
			// log. The end of a record tells whether the file ends in the middle.
			l.torn = l.torn || written && !l.endsRecord(b)
			if !l.lost {
				l.warn(bare.Cannot("write log file "+l.path+": output is lost", err).Error())
			}
			l.lost = true
			return
		}
		l.lost = false
		b, written = b[n:], true
		l.size += int64(n)
	}
}

// endsRecord tells whether what stands in out before rest ends with a newline.
func (l *file) endsRecord(rest []byte) bool {
	whole := l.out[:cap(l.out)]
	at := cap(l.out) - cap(rest)
	return at > 0 && whole[at-1] == '\n'
}

// close ends the log; sync also brings it to the disk.
func (l *file) close(sync bool) {
	if l.fd < 0 {
		return
	}
	l.flush()
	if sync {
		syscall.Fsync(l.fd)
	}
	syscall.Close(l.fd)
	l.fd = -1
}
