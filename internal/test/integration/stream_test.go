package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// The clients of these tests are kubectl's own (k8s.io/client-go); where it has none, a
// WebSocket is spoken by hand.

// speaker makes the client side of one protocol.
type speaker struct {
	name     string
	halfable bool // stdin can be closed alone
	errors   bool // a failure is reported at all
	exits    bool // the exit code comes as a number
	sizes    bool // the terminal's size is passed on
	executor func(t testing.TB, c *rest.Config, address string) remotecommand.Executor
}

func bySPDY(protocols ...string) func(testing.TB, *rest.Config, string) remotecommand.Executor {
	return func(t testing.TB, c *rest.Config, address string) remotecommand.Executor {
		t.Helper()
		u, err := url.Parse(address)
		must(t, err)
		if len(protocols) == 0 { // what kubectl offers
			e, err := remotecommand.NewSPDYExecutor(c, "POST", u)
			must(t, err)
			return e
		}
		transport, upgrader, err := spdy.RoundTripperFor(c)
		must(t, err)
		e, err := remotecommand.NewSPDYExecutorForProtocols(transport, upgrader, "POST", u, protocols...)
		must(t, err)
		return e
	}
}

func byWebSocket(protocols ...string) func(testing.TB, *rest.Config, string) remotecommand.Executor {
	return func(t testing.TB, c *rest.Config, address string) remotecommand.Executor {
		t.Helper()
		e, err := remotecommand.NewWebSocketExecutorForProtocols(c, "GET", address, protocols...)
		must(t, err)
		return e
	}
}

func byFallback(t testing.TB, c *rest.Config, address string) remotecommand.Executor {
	t.Helper()
	e, err := remotecommand.NewFallbackExecutor(byWebSocket("v6.channel.k8s.io")(t, c, address), bySPDY()(t, c, address), func(error) bool { return true })
	must(t, err)
	return e
}

var speakers = []speaker{
	{"SPDY v1", false, false, false, false, bySPDY("channel.k8s.io")},
	{"SPDY v2", true, true, false, false, bySPDY("v2.channel.k8s.io")},
	{"SPDY v3", true, true, false, true, bySPDY("v3.channel.k8s.io")},
	{"SPDY v4", true, true, true, true, bySPDY("v4.channel.k8s.io")},
	{"SPDY as kubectl", true, true, true, true, bySPDY()},
	{"WebSocket v4", false, true, true, true, byWebSocket("v4.channel.k8s.io")},
	{"WebSocket v5", true, true, true, true, byWebSocket("v5.channel.k8s.io")},
	{"WebSocket refused, then SPDY", true, true, true, true, byFallback},
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plain is a client's configuration without TLS.
func plain(address string) *rest.Config {
	u, _ := url.Parse(address)
	return &rest.Config{Host: u.Scheme + "://" + u.Host}
}

// execURL asks for the address of an exec.
func execURL(w *world.World, r *cri.ExecRequest) string {
	w.T.Helper()
	resp, err := w.RuntimeServiceClient.Exec(w.Ctx(), r)
	must(w.T, err)
	return resp.GetUrl()
}

func attachURL(w *world.World, r *cri.AttachRequest) string {
	w.T.Helper()
	resp, err := w.Attach(w.Ctx(), r)
	must(w.T, err)
	return resp.GetUrl()
}

// shell is a request to run a script, with all streams or with a terminal.
func shell(id, script string, tty bool) *cri.ExecRequest {
	return &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Stdin: true, Stdout: true, Stderr: !tty, Tty: tty}
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// within runs a session that must end by itself.
func within(t testing.TB, what string, f func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := f(ctx)
	if ctx.Err() != nil {
		t.Fatalf("%s does not end", what)
	}
	return err
}

// screen is a buffer that may be read while it is written.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// atRest waits until the daemon has nothing left of any stream: no descriptor more than
// before, no goroutine.
func atRest(w *world.World, fds int) {
	w.T.Helper()
	stacks := ""
	defer func() {
		if w.T.Failed() {
			w.T.Log(stacks)
		}
	}()
	w.Eventually(fmt.Sprintf("the daemon has its %d descriptors and no stream's goroutine", fds), func() bool {
		n, left := w.FDs(), streamGoroutines(w)
		stacks = fmt.Sprintf("%d descriptors\n", n) + strings.Join(left, "\n\n")
		return n <= fds && len(left) == 0
	})
}

// streamGoroutines are the daemon's goroutines that belong to streams.
func streamGoroutines(w *world.World) (list []string) {
	for _, g := range w.Stacks() {
		if belongs.MatchString(g) && !strings.Contains(g, "stream.(*Server).Serve(") {
			list = append(list, g)
		}
	}
	return list
}

var belongs = regexp.MustCompile(`internal/stream|spdystream|cri-streaming|k8s.io/streaming|net/websocket|oci\.\(\*(Streams|output)|monitor\.(Attach|pass)`)

func streaming(t *testing.T, api string) *world.World {
	return streamingWith(t, world.Options{API: api})
}

func streamingWith(t *testing.T, o world.Options) *world.World {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // clients that are cut off say so at length
	w := world.New(t, o)
	w.Pull()
	return w
}

func TestExecProtocols(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("exec", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	for _, s := range speakers {
		t.Run(s.name, func(t *testing.T) {
			script := "cat; echo err >&2; exit 7"
			if !s.halfable {
				script = "head -c 6; echo err >&2; exit 7"
			}
			var out, errOut screen
			err := within(t, s.name, func(ctx context.Context) error {
				address := execURL(w, shell(id, script, false))
				return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n"), Stdout: &out, Stderr: &errOut})
			})
			if out.String() != "hello\n" || errOut.String() != "err\n" {
				t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
			}
			wantExit(t, s, err, 7)
			err = within(t, s.name, func(ctx context.Context) error {
				address := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
				return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
			})
			if err != nil {
				t.Errorf("true: %v", err)
			}
			err = within(t, s.name, func(ctx context.Context) error {
				address := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/not/there"}, Stdout: true})
				return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
			})
			if s.errors && (err == nil || !strings.Contains(err.Error(), "/not/there")) {
				t.Errorf("a command that is not there: %v", err)
			}
		})
	}
	atRest(w, fds)
}

func wantExit(t *testing.T, s speaker, err error, code int) {
	t.Helper()
	var exit utilexec.CodeExitError
	if s.exits && (!errors.As(err, &exit) || exit.Code != code) {
		t.Errorf("%T %v, want exit code %d", err, err, code)
	}
	if s.errors && !s.exits && (err == nil || !strings.Contains(err.Error(), fmt.Sprintf("non-zero exit code: %d", code))) {
		t.Errorf("%v, want it to name the exit code %d", err, code)
	}
}

// sizes is a terminal that changes its size when it is told.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	if size, ok := <-s; ok {
		return &size
	}
	return nil
}

func TestExecTerminal(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("tty", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	// Nothing tells when a size has arrived but the terminal itself.
	script := `tty; echo "$TERM"; until [ "$(stty size)" = "40 100" ]; do sleep 0.05; done; echo first
		read word; until [ "$(stty size)" = "50 120" ]; do sleep 0.05; done; echo "second $word"; echo err >&2; exit 3`
	for _, s := range speakers {
		if !s.sizes {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			var out screen
			keys, typing := io.Pipe()
			window := make(sizes, 1)
			defer close(window)
			defer typing.Close()
			window <- remotecommand.TerminalSize{Width: 100, Height: 40}
			go func() {
				for !strings.Contains(out.String(), "first\r\n") {
					time.Sleep(5 * time.Millisecond)
				}
				window <- remotecommand.TerminalSize{Width: 120, Height: 50}
				io.WriteString(typing, "word\n")
			}()
			err := within(t, s.name, func(ctx context.Context) error {
				address := execURL(w, shell(id, script, true))
				return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: keys, Stdout: &out, Tty: true, TerminalSizeQueue: window})
			})
			for _, want := range []string{"/dev/pts/", "xterm\r\n", "first\r\n", "second word\r\n", "err\r\n"} {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in %q", want, out.String())
				}
			}
			if s.exits {
				wantExit(t, s, err, 3)
			} else if err == nil {
				t.Error("the exit code is lost")
			}
		})
	}
	atRest(w, fds)
}

func TestStreamRequests(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("requests", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	made := w.Create(pod, "made", "exec sleep 1000", nil)
	ended := w.Ctr(pod, "ended", "true", nil)
	w.WaitExit(ended)
	for _, c := range []struct {
		name, code string
		call       func() error
	}{
		{"unknown container", "NotFound", func() error { return execErr(w, shell("feed", "true", false)) }},
		{"no container", "NotFound", func() error { return execErr(w, shell("", "true", false)) }},
		{"tty and stderr", "InvalidArgument", func() error {
			r := shell(id, "true", true)
			r.Stderr = true
			return execErr(w, r)
		}},
		{"no stream", "InvalidArgument", func() error { return execErr(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}}) }},
		{"no command", "InvalidArgument", func() error { return execErr(w, &cri.ExecRequest{ContainerId: id, Stdout: true}) }},
		{"exec before the start", "FailedPrecondition", func() error { return execErr(w, shell(made, "true", false)) }},
		{"exec after the end", "FailedPrecondition", func() error { return execErr(w, shell(ended, "true", false)) }},
		{"attach to nothing", "NotFound", func() error { return attachErr(w, &cri.AttachRequest{ContainerId: "feed", Stdout: true}) }},
		{"attach without streams", "InvalidArgument", func() error { return attachErr(w, &cri.AttachRequest{ContainerId: id}) }},
		{"attach before the start", "FailedPrecondition", func() error { return attachErr(w, &cri.AttachRequest{ContainerId: made, Stdout: true}) }},
		{"attach after the end", "FailedPrecondition", func() error { return attachErr(w, &cri.AttachRequest{ContainerId: ended, Stdout: true}) }},
		{"ports of nothing", "NotFound", func() error { return forwardErr(w, &cri.PortForwardRequest{PodSandboxId: "feed"}) }},
		{"no such port", "InvalidArgument", func() error { return forwardErr(w, &cri.PortForwardRequest{PodSandboxId: pod, Port: []int32{65536}}) }},
	} {
		if err := c.call(); err == nil || !strings.Contains(err.Error(), "code = "+c.code) {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
	}
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	if err := forwardErr(w, &cri.PortForwardRequest{PodSandboxId: pod}); err == nil || !strings.Contains(err.Error(), "code = FailedPrecondition") {
		t.Errorf("ports of a stopped pod: %v", err)
	}
}

func execErr(w *world.World, r *cri.ExecRequest) error {
	_, err := w.RuntimeServiceClient.Exec(w.Ctx(), r)
	return err
}

func attachErr(w *world.World, r *cri.AttachRequest) error {
	_, err := w.Attach(w.Ctx(), r)
	return err
}

func forwardErr(w *world.World, r *cri.PortForwardRequest) error {
	_, err := w.PortForward(w.Ctx(), r)
	return err
}

// An address works once, for its verb, and a request that cannot be meant does not use
// it up.
func TestStreamAddresses(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("once", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	address := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"echo", "hi"}, Stdout: true})
	if !strings.HasPrefix(address, "http://127.0.0.1:") {
		t.Error(address)
	}
	status := func(address string, header http.Header) int {
		req, err := http.NewRequest("POST", address, nil)
		must(t, err)
		req.Header = header.Clone()
		resp, err := http.DefaultTransport.RoundTrip(req)
		must(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}}
	u, err := url.Parse(address)
	must(t, err)
	for path, want := range map[string]int{
		"/": 404, "/exec/": 404, "/exec/0000": 404, strings.Replace(u.Path, "/exec/", "/attach/", 1): 404, u.Path + "/x": 404, u.Path + "x": 404,
	} {
		if got := status("http://"+u.Host+path, upgrade); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	if got := status(address, http.Header{}); got != 400 {
		t.Errorf("without an upgrade: %d", got)
	}
	var out screen
	run := func() error {
		return within(t, "exec", func(ctx context.Context) error {
			return bySPDY()(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out})
		})
	}
	if err := run(); err != nil || out.String() != "hi\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "404") && !strings.Contains(err.Error(), "not found") {
		t.Errorf("the second use: %v", err)
	}
	if got := status(address, upgrade); got != 404 {
		t.Errorf("the third use: %d", got)
	}
}
