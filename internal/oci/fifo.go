package oci

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Paths are the named pipes of a process's standard streams; "" for one that it has
// not. A terminal is two of them, its input and its output.
type Paths struct{ Stdin, Stdout, Stderr string }

// OpenFIFOs makes the streams of a request as named pipes in a folder, for a process
// that cannot inherit descriptors. Child has our copies of the process's ends: while
// they are open, nothing is lost that is written before the process opens its own,
// and no stream seems to have ended.
func OpenFIFOs(req *ExecRequest, dir string) (_ *Streams, p Paths, err error) {
	s := &Streams{done: make(chan struct{})}
	defer func() {
		if err != nil {
			s.CloseChild()
			s.Close()
		}
	}()
	if req.Stdin != nil {
		p.Stdin = filepath.Join(dir, "stdin")
		if s.Child[0], s.stdin, err = openFIFO(p.Stdin); err != nil {
			return nil, p, err
		}
	}
	stdout, stderr := req.Stdout, req.Stderr
	if req.Process.Terminal {
		stderr = nil
		if stdout == nil {
			stdout = io.Discard
		}
	}
	for i, to := range []io.Writer{stdout, stderr} {
		if to == nil {
			continue
		}
		path := filepath.Join(dir, [2]string{"stdout", "stderr"}[i])
		*[2]*string{&p.Stdout, &p.Stderr}[i] = path
		from, child, err := openFIFO(path)
		if err != nil {
			return nil, p, err
		}
		s.Child[i+1] = child
		s.outputs = append(s.outputs, &output{from: from, to: to, finished: make(chan struct{})})
	}
	return s, p, nil
}

// openFIFO makes a named pipe and opens both ends, non-blocking so that reads know
// deadlines; the reader first, without whom there is no writer (fifo(7)).
func openFIFO(path string) (reader, writer *os.File, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, nil, fmt.Errorf("cannot make named pipe %s: %w", path, err)
	}
	if reader, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, err
	}
	if writer, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
		reader.Close()
		return nil, nil, err
	}
	return reader, writer, nil
}
