package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
)

// Outside does pulls in processes of their own, so that what they cost is charged to a
// cgroup that the administrator names. Package daemon starts them.
type Outside interface {
	// Place is where a pull goes for a pod with this cgroup parent; "": the daemon
	// does it itself.
	Place(parent string) (string, error)
	// Start starts the process and hands it the job. What it reports is read until
	// its end; Close waits for that, or brings it about.
	Start(ctx context.Context, place string, j Job) (io.ReadCloser, error)
}

// Job is a pull for another process.
type Job struct {
	Ref         string
	Auth        Auth
	Namespace   string
	Artifact    bool              // what is wanted is an artifact
	Logins      map[string]string // files with credentials, by the image's name
	Rules       Rules
	BigFilesDir string
}

// line is one of what the process tells: how far it is, or how it ended.
type line struct {
	Pull   *Progress   `json:"pull,omitempty"`
	Done   bool        `json:"done,omitempty"`
	ID     string      `json:"id,omitempty"`
	Error  string      `json:"error,omitempty"`
	Kind   errs.Kind   `json:"kind,omitempty"`
	Reason errs.Reason `json:"reason,omitempty"`
}

// outside lets another process pull.
func (s *Service) outside(p *Pull, place string, j Job) (id string, err error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	out, err := s.opts.Outside.Start(ctx, place, j)
	if err != nil {
		return "", fmt.Errorf("cannot pull %s in cgroup %s: %w", p.Ref, place, err)
	}
	defer out.Close()
	for d := json.NewDecoder(out); ; {
		var r line
		if err := d.Decode(&r); err != nil {
			cancel()
			if cause := context.Cause(s.ctx); cause != nil {
				return "", cause
			}
			return "", fmt.Errorf("cannot pull %s: the process that pulls ended without a result: %w", p.Ref, errors.Join(err, out.Close()))
		}
		if r.Pull != nil {
			p.mu.Lock()
			p.told = r.Pull
			p.mu.Unlock()
		}
		switch {
		case !r.Done:
		case r.Error == "":
			s.opts.Log.Info("pulled", "image", p.Ref, "id", r.ID, "dur", time.Since(p.Started), "cgroup", place)
			return r.ID, nil
		default:
			if r.Kind == errs.KindExhausted {
				s.full.Store(true)
			}
			if r.Reason != "" {
				return "", errs.Errorf(r.Kind, "%.0w%s", r.Reason, r.Error)
			}
			return "", errs.Errorf(r.Kind, "%s", r.Error)
		}
	}
}

// reportEvery is how often a process that pulls tells how far it is.
const reportEvery = 500 * time.Millisecond

// Work does a job for a daemon, and reports to it. It collects nothing: the daemon
// knows who else pulls.
func (s *Service) Work(j Job, w io.Writer) error {
	out := json.NewEncoder(w)
	p := &Pull{Ref: j.Ref, Started: time.Now(), last: time.Now()}
	done := make(chan line, 1)
	go func() {
		id, err := s.work(p, j)
		r := line{Done: true, ID: id}
		if err != nil {
			r.Error, r.Kind = err.Error(), errs.KindOf(err)
			_ = errors.As(err, &r.Reason) // without one it stays empty
		}
		done <- r
	}()
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	var told Progress
	for {
		select {
		case r := <-done:
			last := p.Progress()
			r.Pull = &last
			return out.Encode(r)
		case <-t.C:
			now := p.Progress()
			if reflect.DeepEqual(now, told) {
				continue
			}
			told = now
			if err := out.Encode(line{Pull: &now}); err != nil {
				return err
			}
		}
	}
}

func (s *Service) work(p *Pull, j Job) (string, error) {
	names, err := s.toPull(j.Ref)
	if err != nil {
		return "", err
	}
	return s.run(p, names, &j)
}
