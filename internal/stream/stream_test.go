package stream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
)

// fakePods has one running container and one pod, in the test's own network.
type fakePods struct {
	exec    func(context.Context, pod.ExecRequest) (int, error)
	stopped chan struct{}
}

func (f *fakePods) Container(id string) (v state.ContainerView, err error) {
	if id != "ctr" {
		return v, errs.NotFound("container", id)
	}
	v.ID, v.Status.StartedAt = id, 1
	return v, nil
}

func (f *fakePods) Pod(id string) (v state.PodView, err error) {
	if id != "pod" {
		return v, errs.NotFound("pod sandbox", id)
	}
	v.ID = id
	return v, nil
}

func (f *fakePods) Exec(ctx context.Context, _ string, r pod.ExecRequest) (int, error) {
	return f.exec(ctx, r)
}

func (f *fakePods) Attach(context.Context, string, monitor.AttachStreams) error { return nil }

func (f *fakePods) NetNS(string) (string, <-chan struct{}, error) { return "", f.stopped, nil }

func serve(t *testing.T, f *fakePods, o Options) *Server {
	t.Helper()
	f.stopped = make(chan struct{})
	o.Pods, o.Log = f, slog.New(slog.DiscardHandler)
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	o.Port = "0"
	s := New(o)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTickets(t *testing.T) {
	var ts tickets
	token, err := ts.add(ticket{verb: "exec", id: "a"})
	if err != nil || len(token) < 22 { // 128 bits
		t.Fatal(token, err)
	}
	if _, ok := ts.take("attach", token); ok {
		t.Error("a ticket of exec is good for attach")
	}
	if got, ok := ts.take("exec", token); !ok || got.id != "a" {
		t.Error("the ticket is not good")
	}
	if _, ok := ts.take("exec", token); ok {
		t.Error("the ticket is good twice")
	}
	for range maxTickets {
		if token, err = ts.add(ticket{verb: "exec"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ts.add(ticket{verb: "exec"}); !errs.Is(err, errs.KindExhausted) {
		t.Errorf("one too many: %v", err)
	}
	for k, old := range ts.all { // time passes
		old.until = time.Now().Add(-time.Second)
		ts.all[k] = old
	}
	if _, ok := ts.take("exec", token); ok {
		t.Error("an old ticket is good")
	}
	if _, err := ts.add(ticket{verb: "exec"}); err != nil || len(ts.all) != 1 {
		t.Errorf("old tickets stay: %d, %v", len(ts.all), err)
	}
}

func TestLanguage(t *testing.T) {
	for _, c := range []struct {
		verb, upgrade, protocols string
		want                     int
	}{
		{"exec", "", "", unknown},
		{"exec", "SPDY/3.1", "", byLibrary},
		{"exec", "spdy/3.1", "", byLibrary},
		{"exec", "h2c", "", unknown},
		{"exec", "websocket", "", byLibrary},
		{"exec", "websocket", "v4.channel.k8s.io", byLibrary},
		{"exec", "websocket", "v6.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io", closeSignals},
		{"attach", "WebSocket", "base64.channel.k8s.io,v5.channel.k8s.io", byLibrary},
		{"exec", "websocket", "v6.channel.k8s.io", unknown},
		{"exec", "websocket", "SPDY/3.1+portforward.k8s.io", unknown},
		{"portforward", "websocket", "SPDY/3.1+portforward.k8s.io", tunnelled},
		{"portforward", "websocket", "v5.channel.k8s.io", unknown},
		{"portforward", "websocket", "channel.k8s.io", unknown},
		{"portforward", "websocket", "v4.base64.channel.k8s.io", byLibrary},
	} {
		r := &http.Request{Header: http.Header{}}
		if c.upgrade != "" {
			r.Header.Set("Connection", "keep-alive, Upgrade")
			r.Header.Set("Upgrade", c.upgrade)
		}
		if c.protocols != "" {
			r.Header.Set("Sec-Websocket-Protocol", c.protocols)
		}
		if got := language(r, c.verb); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestAddresses(t *testing.T) {
	for bind, want := range map[string]string{"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "::1": "::1"} {
		s := serve(t, &fakePods{}, Options{Address: bind})
		address, err := s.PortForward(&cri.PortForwardRequest{PodSandboxId: "pod"})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(address)
		if err != nil || u.Hostname() != want || u.Port() == "0" || !strings.HasPrefix(u.Path, "/portforward/") {
			t.Errorf("%s: %s, %v", bind, address, err)
		}
	}
	s := New(Options{Pods: &fakePods{}, Log: slog.New(slog.DiscardHandler)})
	if _, err := s.PortForward(&cri.PortForwardRequest{PodSandboxId: "pod"}); !errs.Is(err, errs.KindUnavailable) {
		t.Errorf("before Listen: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close without Listen: %v", err)
	}
}

// dial opens a connection of SPDY to an address for ports.
func dial(t *testing.T, s *Server) httpstream.Connection {
	t.Helper()
	address, err := s.PortForward(&cri.PortForwardRequest{PodSandboxId: "pod"})
	if err != nil {
		t.Fatal(err)
	}
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest("POST", address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, "portforward.k8s.io")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	c, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func open(t *testing.T, c httpstream.Connection, headers ...string) (httpstream.Stream, error) {
	t.Helper()
	h := http.Header{}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return c.CreateStream(h)
}

// TestForwardStreams: which streams make a forwarded connection, and which are refused.
func TestForwardStreams(t *testing.T) {
	s := serve(t, &fakePods{}, Options{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	c := dial(t, s)
	for _, bad := range [][]string{
		{"streamType", "data", "requestID", "1"}, {"port", "0", "streamType", "data"}, {"port", "65536", "streamType", "data"},
		{"port", port, "streamType", "other"}, {"port", port},
	} {
		if _, err := open(t, c, bad...); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	echo := func(data httpstream.Stream) {
		t.Helper()
		if _, err := io.WriteString(data, "hi"); err != nil {
			t.Fatal(err)
		}
		data.Close()
		if got, err := io.ReadAll(data); err != nil || string(got) != "hi" {
			t.Errorf("%q, %v", got, err)
		}
	}
	// The order does not matter, a second stream of a kind is refused.
	data, err := open(t, c, "port", port, "streamType", "data", "requestID", "7")
	if err != nil {
		t.Fatal(err)
	}
	double, err := open(t, c, "port", port, "streamType", "data", "requestID", "7")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(double); err != nil || len(got) > 0 {
		t.Errorf("the second data stream: %q, %v", got, err)
	}
	if _, err := open(t, c, "port", port, "streamType", "error", "requestID", "7"); err != nil {
		t.Fatal(err)
	}
	echo(data)
	// Without ids: error first, data two numbers later.
	for range 2 {
		if _, err := open(t, c, "port", port, "streamType", "error"); err != nil {
			t.Fatal(err)
		}
		if data, err = open(t, c, "port", port, "streamType", "data"); err != nil {
			t.Fatal(err)
		}
		echo(data)
	}
}

// TestNoReader: a client that does not read is given up after the idle timeout, although
// the library holds a lock while it writes.
func TestNoReader(t *testing.T) {
	f := &fakePods{}
	s := serve(t, f, Options{IdleTimeout: 300 * time.Millisecond})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	flooded := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			flooded <- nil
			return
		}
		defer c.Close()
		_, err = io.Copy(c, zeros{})
		flooded <- err
	}()
	c := dial(t, s)
	if _, err := open(t, c, "port", port, "streamType", "error", "requestID", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, c, "port", port, "streamType", "data", "requestID", "1"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-flooded:
		if err == nil {
			t.Error("an endless copy ended")
		}
	case <-time.After(time.Minute):
		t.Fatal("the port is still written to")
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		n := len(s.conns)
		s.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are left", n)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestLastWords: a client that is still sending when the server closes gets what was
// written to it.
func TestLastWords(t *testing.T) {
	f := &fakePods{}
	s := serve(t, f, Options{})
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(connKey{}).(*conn)
		c.streaming.Store(true)
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(nc, "exit code 7")
		nc.Close()
	})
	for range 20 {
		c, err := net.Dial("tcp", s.base.Host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n\r\n"+strings.Repeat("x", 200<<10)); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if string(got) != "exit code 7" || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
		c.Close()
	}
}

// TestCloseKills: the end of the server ends a command, whose client is told.
func TestCloseKills(t *testing.T) {
	begun := make(chan struct{})
	f := &fakePods{exec: func(ctx context.Context, _ pod.ExecRequest) (int, error) {
		close(begun)
		<-ctx.Done()
		return 0, ctx.Err()
	}}
	s := serve(t, f, Options{})
	address, err := s.Exec(&cri.ExecRequest{ContainerId: "ctr", Cmd: []string{"x"}, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(address)
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET "+u.Path+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-begun
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(got), "try again") {
		t.Errorf("the client got %q, %v", got, err)
	}
}
