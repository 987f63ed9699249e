// Package logs keeps what a container says: in files of the CRI's form, which may be
// rotated, and in the system's journal.
//
// It runs in the monitor process and imports nothing that package bare would not: see
// package loop for why. What happens often allocates nothing.
package logs

import (
	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/monitor/contract"
	"github.com/monocrio/monocrio/internal/monitor/journal"
)

// Options says what to keep where.
type Options struct {
	Paths     []string // files of the CRI's form
	SizeMax   int64    // bytes after which a file is begun anew; <= 0: never
	GlobalMax int64    // bytes in all, beyond which a file gets no more; <= 0: no end
	Rotate    bool     // keep what a file held as PATH.1, PATH.2, ...
	MaxFiles  int      // how many of them
	Allowed   []string // folders in which the files must lie; empty: anywhere
	Journal   *journal.Options
	NoSync    bool // do not wait for the disk at the end
	// UTCOffset returns the seconds local time is ahead; nil: none.
	UTCOffset func(sec int64) int
}

// Stream is one output of the container, as its records need it.
type Stream struct {
	Name     string // in files
	Priority byte   // in the journal, as syslog(3) has them: '0' to '7'
	Open     bool   // the last record was a partial one

	current byte // priority of the line that is being written
}

// Logs are all the places where a container's output is kept; the zero value keeps
// nothing.
type Logs struct {
	files   []file
	one     [1]file          // room for the usual case
	journal *journal.Journal // nil: none
	clock   clock
	noSync  bool
}

// Open opens all; warn is told what is lost later.
func (l *Logs) Open(o *Options, warn func(string)) error {
	l.files, l.clock.offset, l.noSync = l.one[:0], o.UTCOffset, o.NoSync
	for _, path := range o.Paths {
		f := file{path: path, fd: -1, max: o.SizeMax, end: o.GlobalMax, warn: warn}
		if o.Rotate {
			f.backups = o.MaxFiles
		}
		err := f.allow(o.Allowed)
		if err == nil {
			f.out, err = bare.Anonymous(outSize)
		}
		if err == nil {
			err = f.open()
		}
		if err != nil {
			l.Close(false)
			return err
		}
		l.files = append(l.files, f)
	}
	if o.Journal != nil {
		j, err := journal.Open(o.Journal, warn)
		if err != nil {
			l.Close(false)
			return err
		}
		l.journal = j
	}
	return nil
}

// Stamp is the present time as records have it; it is valid until the next call.
func (l *Logs) Stamp() []byte { return l.clock.stamp(bare.Now()) }

// Lines cuts data of one stream into records and returns how many bytes it took:
// whole lines and pieces of full length. With last set it takes all, the end as P.
func (l *Logs) Lines(s *Stream, data []byte, stamp []byte, last bool) (taken int) {
	for taken < len(data) {
		rest := data[taken:]
		window := rest[:min(len(rest), contract.MaxOutput)]
		if i := bare.IndexNewline(window); i >= 0 {
			l.record(s, stamp, 'F', window[:i])
			taken += i + 1
			continue
		}
		if len(window) < contract.MaxOutput && !last {
			break
		}
		l.record(s, stamp, 'P', window)
		taken += len(window)
	}
	return taken
}

// Last adds the end of a stream, which lacks a newline.
func (l *Logs) Last(s *Stream, stamp, text []byte) { l.record(s, stamp, 'F', text) }

// Finish closes an open sequence of partial records.
func (l *Logs) Finish(s *Stream) {
	if s.Open {
		l.record(s, l.Stamp(), 'F', nil)
	}
}

// record adds one record everywhere; text has at most contract.MaxOutput bytes and no
// newline.
func (l *Logs) record(s *Stream, stamp []byte, tag byte, text []byte) {
	for i := range l.files {
		l.files[i].record(stamp, s.Name, tag, text)
	}
	if l.journal != nil {
		if !s.Open {
			s.current = s.Priority
			if n, rest := journal.Priority(text); n != 0 {
				s.current, text = n, rest
			}
		}
		l.journal.Send(s.current, tag == 'P', text)
	}
	s.Open = tag == 'P'
}

// Flush brings to the files what has been added.
func (l *Logs) Flush() {
	for i := range l.files {
		l.files[i].flush()
	}
}

// Reopen begins new files where the old ones have been moved away.
func (l *Logs) Reopen() {
	for i := range l.files {
		l.files[i].reopen()
	}
}

// Warm tells whether more than size bytes of a file's buffer have been used since Rest.
func (l *Logs) Warm(size int) bool {
	for i := range l.files {
		if l.files[i].high > size {
			return true
		}
	}
	return false
}

// Rest gives the memory of a burst back to the system.
func (l *Logs) Rest() {
	for i := range l.files {
		f := &l.files[i]
		bare.Release(f.out[:cap(f.out)])
		f.high = 0
	}
}

// Close ends all; sync also brings the files to the disk.
func (l *Logs) Close(sync bool) {
	for i := range l.files {
		l.files[i].close(sync && !l.noSync)
	}
	if l.journal != nil {
		l.journal.Close()
	}
}
