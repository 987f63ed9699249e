// Package inspect shows the daemon's inside to people and to programs on the node: the
// HTTP API on the CRI socket. It reads what the model and the engines know and decides
// nothing; pausing a container is the one thing that it has done.
//
// The paths without a version are those that cAdvisor and others know from CRI-O. Those
// below /v1 are ours: fields are added to their answers, never changed or taken away.
// The types of all answers are in answer.go; package client is their reader.
package inspect

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	runtimepprof "runtime/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/cni/owed"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/preload"
	"github.com/monocrio/monocrio/internal/step"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Model is where pods and containers live (package pod).
type Model interface {
	// Lives are all objects, Losses those that could not be made, Pending those that
	// are being made, Debts what removed pods owe.
	Lives() ([]state.Life[state.PodView], []state.Life[state.ContainerView])
	Losses() []step.Loss
	Pending() []step.Loss
	Debts() ([]owed.Due, error)
	Container(id string) (state.ContainerView, error)
	Pod(id string) (state.PodView, error)
	Spec(id string) (*specs.Spec, error)
	// SetPaused is KindNotFound for an unknown container and KindPrecondition in the
	// wrong state.
	SetPaused(ctx context.Context, id string, paused bool) error
}

// Images tells of pulls (package image).
type Images interface {
	Pulls() []*image.Pull
	Ended() []image.Progress
}

// Options are what is shown.
type Options struct {
	Model  Model
	Images Images
	// Media tells of the images that come by files.
	Media func() (dir string, list []preload.Medium, problem string)
	Info  Info
	// Config is the configuration in force, as TOML.
	Config func() (string, error)
	// PodDir is the folder of a pod's files.
	PodDir func(id string) string
	// Profile serves pprof's pages too.
	Profile bool
	Log     *slog.Logger
}

// Times of a client: it may not hold a connection for longer. An answer may be a
// profile of some minutes.
const (
	readTime  = 5 * time.Second
	idleTime  = 30 * time.Second
	writeTime = 5 * time.Minute
	pauseTime = 30 * time.Second
	maxHeader = 64 << 10 // bytes
)

// server answers.
type server struct {
	Options
	started time.Time
	dumping sync.Mutex    // one heap dump at a time
	ledger  chan struct{} // held while the ledger of debts is read
}

// New makes the HTTP server.
func New(o Options) *http.Server {
	s := &server{Options: o, started: time.Now(), ledger: make(chan struct{}, 1)}
	return &http.Server{Handler: s.paths(), ReadTimeout: readTime, ReadHeaderTimeout: readTime, IdleTimeout: idleTime, WriteTimeout: writeTime,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)}
}

func (s *server) paths() http.Handler {
	mux := http.NewServeMux()
	answers := func(path string, f func(*http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { s.json(w, r, f) })
	}
	answers("/info", func(*http.Request) (any, error) { return s.Info, nil })
	answers("/containers/{id}", func(r *http.Request) (any, error) { return s.container(r.PathValue("id")) })
	answers("/v1/pods", func(*http.Request) (any, error) { return s.pods(), nil })
	answers("/v1/pods/{id}", func(r *http.Request) (any, error) { return s.why(r.PathValue("id")) })
	answers("/v1/pulls", func(*http.Request) (any, error) { return s.pulls(), nil })
	answers("/v1/media", func(*http.Request) (any, error) { return s.media(), nil })
	mux.HandleFunc("GET /config", s.config)
	mux.HandleFunc("GET /pause/{id}", s.pause(true))
	mux.HandleFunc("GET /unpause/{id}", s.pause(false))
	mux.HandleFunc("GET /debug/goroutines", goroutines)
	mux.HandleFunc("GET /debug/heap", s.heap)
	if s.Profile {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// status is the HTTP status of a kind of failure.
func status(err error) int {
	switch errs.KindOf(err) {
	case errs.KindNotFound:
		return http.StatusNotFound
	case errs.KindInvalid:
		return http.StatusBadRequest
	case errs.KindPrecondition:
		return http.StatusConflict
	case errs.KindUnavailable, errs.KindExhausted:
		return http.StatusServiceUnavailable
	case errs.KindDeadline, errs.KindCanceled:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.Log.Debug("a question was not answered", "path", r.URL.Path, "err", err)
	http.Error(w, err.Error(), status(err))
}

func (s *server) json(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, error)) {
	v, err := f(r)
	var data []byte
	if err == nil {
		data, err = json.Marshal(v)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	write(w, "application/json", data)
}

// write sends a whole answer. A client that is gone misses it, and nothing else.
func write(w http.ResponseWriter, contentType string, data []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

func (s *server) config(w http.ResponseWriter, r *http.Request) {
	text, err := s.Config()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	write(w, "application/toml", []byte(text))
}

func (s *server) pause(paused bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pauseTime)
		defer cancel()
		id := r.PathValue("id")
		v, err := s.Model.Container(id)
		if err == nil && v.ID != id {
			err = errs.NotFound("container", id) // the beginning of an id is not enough to change something
		}
		if err == nil {
			err = s.Model.SetPaused(ctx, id, paused)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.Log.Info("a container was paused or unpaused by hand", "ctr", id, "paused", paused)
		write(w, "text/html", []byte("200 OK"))
	}
}

func goroutines(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	_ = runtimepprof.Lookup("goroutine").WriteTo(w, 2) // the client may be gone
}

// heap sends a dump of the heap. The world stands while it is written, so it goes to a
// file first, and not to a client that may be slow.
func (s *server) heap(w http.ResponseWriter, r *http.Request) {
	f, err := s.dump()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}

// dump writes the heap to a file that has no name any more.
func (s *server) dump() (*os.File, error) {
	s.dumping.Lock()
	defer s.dumping.Unlock()
	f, err := os.CreateTemp("", "crio-heap-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	debug.WriteHeapDump(f.Fd())
	return f, nil
}
