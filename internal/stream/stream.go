// Package stream is the server on which a client meets a container's standard streams
// (exec, attach) and a pod's ports (port forward). A call of the CRI checks the request
// and answers with an address; the kubelet connects its own client through to it.
//
// How bytes are framed is the business of k8s.io/cri-streaming, the kubelet's own code:
// SPDY and WebSocket in all the versions that it knows. Ours are two more WebSocket
// protocols that newer clients speak (websocket.go), and everything around: addresses
// that work once, TLS, and the connection, which notices when its client is gone or
// does not read. The library's own HTTP server is not used: it would choose gRPC codes,
// has addresses of 48 random bits, learns its port after it was asked for addresses, and
// links a web framework.
//
// The package knows package pod's requests and the CRI's messages.
package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
)

// Pods is what the server needs to know of pods and containers (pod.Manager). Unknown
// ids are errors of kind NotFound, wrong states Precondition.
type Pods interface {
	// Container returns a container by id or the beginning of it.
	Container(id string) (state.ContainerView, error)
	// Pod returns a pod by id or the beginning of it.
	Pod(id string) (state.PodView, error)
	// Exec runs a command and returns its exit code; the end of ctx kills it.
	Exec(ctx context.Context, id string, r pod.ExecRequest) (int, error)
	// Attach returns when the container's output or ctx ends.
	Attach(ctx context.Context, id string, s monitor.AttachStreams) error
	// NetNS tells in which network namespace a pod's ports are, "" for the host's; the
	// channel is closed when the pod stops.
	NetNS(id string) (path string, stopped <-chan struct{}, err error)
}

// Options say where and how to serve.
type Options struct {
	Address, Port string // port "0": any
	// IdleTimeout closes a connection on which nothing moves; 0: never.
	IdleTimeout time.Duration
	// TLS is nil for plain HTTP.
	TLS  *TLS
	Pods Pods
	Log  *slog.Logger
}

// Limits that nobody needs to choose.
const (
	headerTime = 30 * time.Second // for a client to say what it wants
	endTime    = 5 * time.Second  // for sessions to say goodbye when the server ends
)

// Server is the streaming server.
type Server struct {
	o       Options
	http    *http.Server
	tickets tickets
	ctx     context.Context // ends all sessions
	cancel  context.CancelFunc
	served  chan struct{}

	mu       sync.Mutex // guards what follows
	base     url.URL    // before Listen: without host
	listener net.Listener
	conns    map[*conn]struct{}
	sessions sync.WaitGroup
	closed   bool
}

// New makes a server that does not listen yet.
func New(o Options) *Server {
	s := &Server{o: o, conns: map[*conn]struct{}{}, served: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	// The library logs by klog, mostly of clients' doings.
	klog.SetSlogLogger(slog.New(quiet{o.Log.Handler()}))
	s.http = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: headerTime, IdleTimeout: headerTime, MaxHeaderBytes: 64 << 10,
		ErrorLog: log.New(httpLog{o.Log}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, inner(c))
		},
		Protocols: new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true) // a connection of HTTP/2 cannot be taken over
	return s
}

// Listen opens the port and reads the certificates. Addresses are handed out from here.
func (s *Server) Listen() error {
	var config *tls.Config
	s.base.Scheme = "http"
	if s.o.TLS != nil {
		var err error
		if config, err = s.o.TLS.config(s.o.Log); err != nil {
			return err
		}
		s.base.Scheme = "https"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.o.Address, s.o.Port))
	if err != nil {
		return fmt.Errorf("cannot serve streams ([crio.api] stream_address and stream_port): %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	addr := l.Addr().(*net.TCPAddr)
	if addr.IP.IsUnspecified() { // the caller is on this machine
		addr.IP = net.IPv4(127, 0, 0, 1)
		if ip := net.ParseIP(s.o.Address); ip != nil && ip.To4() == nil {
			addr.IP = net.IPv6loopback
		}
	}
	s.base.Host = addr.String()
	s.listener = listener{l, s}
	if config != nil {
		s.listener = tls.NewListener(s.listener, config)
	}
	return nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	defer close(s.served)
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve streams on %s: %w", s.base.Host, err)
	}
	return nil
}

// Close ends all sessions: commands that were run by exec are killed, attached
// containers go on. It may be called without Listen and Serve.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	l := s.listener
	s.mu.Unlock()
	s.cancel()
	err := s.http.Close()
	if l == nil {
		return err
	}
	_ = l.Close() // if it was never served
	ended := make(chan struct{})
	go func() { s.sessions.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(endTime):
		s.o.Log.Warn("streams are cut off: their clients do not read")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Conn.Close()
	}
	return err
}

// Exec checks a request and returns the address at which the command is run.
func (s *Server) Exec(r *cri.ExecRequest) (string, error) {
	if len(r.GetCmd()) == 0 {
		return "", errs.Invalid("cannot exec: the command is empty")
	}
	return s.container("exec", r, r.GetCmd())
}

// Attach checks a request and returns the address at which the container's own streams
// are.
func (s *Server) Attach(r *cri.AttachRequest) (string, error) { return s.container("attach", r, nil) }

// streams is what both requests say.
type streams interface {
	GetContainerId() string
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}

func (s *Server) container(verb string, r streams, command []string) (string, error) {
	v, err := s.o.Pods.Container(r.GetContainerId())
	switch {
	case err != nil:
		return "", err
	case r.GetTty() && r.GetStderr():
		return "", errs.Invalid("cannot %s: tty and stderr exclude each other: a terminal has one output", verb)
	case !r.GetStdin() && !r.GetStdout() && !r.GetStderr():
		return "", errs.Invalid("cannot %s: at least one of stdin, stdout and stderr is needed", verb)
	case v.Status.State() != cri.ContainerState_CONTAINER_RUNNING:
		return "", errs.Precondition("cannot %s: container %s is not running", verb, v.ID)
	}
	return s.address(ticket{verb: verb, id: v.ID, command: command, stdin: r.GetStdin(), stdout: r.GetStdout(), stderr: r.GetStderr(), tty: r.GetTty()})
}

// PortForward checks a request and returns the address at which the pod's ports are.
func (s *Server) PortForward(r *cri.PortForwardRequest) (string, error) {
	v, err := s.o.Pods.Pod(r.GetPodSandboxId())
	if err != nil {
		return "", err
	}
	if _, _, err := s.o.Pods.NetNS(v.ID); err != nil {
		return "", err
	}
	for _, p := range r.GetPort() {
		if p < 1 || p > 65535 {
			return "", errs.Invalid("cannot forward port %d: ports are 1 to 65535", p)
		}
	}
	return s.address(ticket{verb: "portforward", id: v.ID, ports: r.GetPort()})
}

func (s *Server) address(t ticket) (string, error) {
	s.mu.Lock()
	base := s.base
	s.mu.Unlock()
	if base.Host == "" {
		return "", errs.Unavailable("cannot %s: streams are not served yet", t.verb)
	}
	token, err := s.tickets.add(t)
	if err != nil {
		return "", err
	}
	return base.JoinPath(t.verb, token).String(), nil
}

// serve answers one request: it finds out whether the client's way of speaking is known
// before it uses up the address.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	verb, token, _ := cutPath(r.URL.Path)
	how := language(r, verb)
	if how == unknown {
		refuse(w, "this address wants an upgrade to SPDY/3.1 or to a WebSocket with one of the protocols "+spoken(verb), http.StatusBadRequest)
		return
	}
	t, ok := s.tickets.take(verb, token)
	c, _ := r.Context().Value(connKey{}).(*conn)
	if !ok || c == nil || !s.enter() {
		refuse(w, "404 page not found", http.StatusNotFound)
		return
	}
	defer s.sessions.Done()
	c.streaming.Store(true)
	defer c.Close()
	go c.watch()
	x := &session{s: s, t: t, conn: c}
	if verb == "portforward" {
		// The library's part ends with the connection only.
		defer context.AfterFunc(s.ctx, func() { c.Close() })()
		_, stopped, err := s.o.Pods.NetNS(t.id)
		if err != nil {
			refuse(w, err.Error(), http.StatusInternalServerError)
			return
		}
		go c.closeWith(stopped)
	}
	s.o.Log.Debug("a stream begins", "verb", verb, "id", t.id)
	x.serve(how, w, r)
	s.o.Log.Debug("a stream ended", "verb", verb, "id", t.id)
}

// refuse answers with an error and ends the connection: client-go leaves one whose
// upgrade was refused open, and it would be kept for the next request.
func refuse(w http.ResponseWriter, text string, code int) {
	w.Header().Set("Connection", "close")
	http.Error(w, text, code)
}

// enter counts a session, unless the server ends.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.sessions.Add(1)
	}
	return !s.closed
}

// serve lets the library speak, or websocket.go.
func (x *session) serve(how int, w http.ResponseWriter, r *http.Request) {
	idle, t := x.s.o.IdleTimeout, &x.t
	o := &remotecommand.Options{Stdin: t.stdin, Stdout: t.stdout, Stderr: t.stderr, TTY: t.tty}
	switch {
	case how == closeSignals:
		x.serveCloseSignals(w, r)
	case how == tunnelled:
		x.serveTunnel(w, r)
	case t.verb == "exec":
		remotecommand.ServeExec(w, r, x, "", "", t.id, t.command, o, idle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	case t.verb == "attach":
		remotecommand.ServeAttach(w, r, x, "", "", t.id, o, idle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
	case wsstream.IsWebSocketRequest(r):
		portforward.ServePortForward(w, r, x, t.id, "", &portforward.V4Options{Ports: t.ports}, idle, remotecommand.DefaultStreamCreationTimeout, nil)
	default:
		x.servePorts(w, r)
	}
}

// quiet is a log handler that makes everything a debug message: what goes wrong on a
// client's connection is the client's news.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = slog.LevelDebug; !q.Enabled(ctx, r.Level) { // not everybody asks first
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.Handler.WithGroup(name)} }

// httpLog takes the lines of net/http: clients' faults, and panics, which are ours.
type httpLog struct{ log *slog.Logger }

func (h httpLog) Write(line []byte) (int, error) {
	text, level := strings.TrimSpace(string(line)), slog.LevelDebug
	if strings.Contains(text, "panic serving") {
		level = slog.LevelError
	}
	h.log.Log(context.Background(), level, "the streaming server says", "text", text)
	return len(line), nil
}

// timedOut tells a deadline from a broken connection.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
