package split

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rig splits a unix socket; what comes to gRPC's half is echoed, HTTP's is served.
type rig struct {
	*Splitter
	t    *testing.T
	path string
	two  atomic.Int32 // connections of HTTP/2
}

func newRig(t *testing.T, patience time.Duration) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	r.Splitter = New(l, patience, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Serve(); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() {
		for {
			c, err := r.GRPC().Accept()
			if err != nil {
				return
			}
			r.two.Add(1)
			wg.Go(func() { defer c.Close(); io.Copy(c, c) })
		}
	})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, "path "+q.URL.Path) })}
	wg.Go(func() { srv.Serve(r.HTTP()) })
	t.Cleanup(func() {
		r.Close()
		srv.Close()
		wg.Wait()
	})
	return r
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// echo speaks the preface, in pieces, and wants all of it back: nothing was eaten.
func (r *rig) echo(pieces ...string) {
	r.t.Helper()
	c := r.dial()
	for _, p := range pieces {
		io.WriteString(c, p)
		time.Sleep(time.Millisecond)
	}
	want := strings.Join(pieces, "")
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		r.t.Errorf("%q came back, %v", got, err)
	}
	c.Close()
}

func (r *rig) get(path string) {
	r.t.Helper()
	c := r.dial()
	io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		r.t.Error(err)
		return
	}
	body, _ := io.ReadAll(resp.Body)
	if string(body) != "path "+path {
		r.t.Errorf("%q", body)
	}
	c.Close()
}

// TestSplit: each kind of client gets to its server, however its words are cut.
func TestSplit(t *testing.T) {
	r := newRig(t, time.Hour)
	r.echo(preface + "frames")
	r.echo("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "\nframes")
	r.echo(strings.SplitAfter(preface+"x", "")...)
	r.get("/a")
	for _, begin := range []string{"P", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n"} { // not the preface after all
		c := r.dial()
		io.WriteString(c, begin)
		time.Sleep(time.Millisecond)
		io.WriteString(c, "GARBAGE\r\n\r\n")
		answer, _ := io.ReadAll(c)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 ") { // what it says is the HTTP server's to judge
			t.Errorf("%q: %q", begin, answer)
		}
	}
	if n := r.two.Load(); n != 3 {
		t.Errorf("%d connections of HTTP/2", n)
	}
}

// TestSilent: hundreds that say nothing, or not enough, delay nobody and are given up.
func TestSilent(t *testing.T) {
	r := newRig(t, 300*time.Millisecond)
	var idle []net.Conn
	for i := range 300 {
		c := r.dial()
		if i%3 == 0 {
			io.WriteString(c, "PRI * HTTP/2.0")
		}
		idle = append(idle, c)
	}
	gone := r.dial()
	gone.Close()
	r.echo(preface)
	r.get("/b")
	for _, c := range idle {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
			t.Fatalf("a silent client: %v", err)
		}
	}
}

// TestTrickle: one byte at a time does not win more time.
func TestTrickle(t *testing.T) {
	r := newRig(t, 200*time.Millisecond)
	c := r.dial()
	for i := 0; ; i++ {
		if _, err := c.Write([]byte(preface)[i%20 : i%20+1]); err != nil {
			break
		}
		if i >= 20 {
			t.Fatal("it is served")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestClose: an end of the splitter lets the silent go and keeps those handed out.
func TestClose(t *testing.T) {
	r := newRig(t, time.Hour)
	c := r.dial()
	io.WriteString(c, preface)
	if _, err := io.ReadFull(c, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	silent := r.dial()
	for { // until it is accepted
		r.mu.Lock()
		n := len(r.looking)
		r.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	r.Close()
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("the silent one is not let go")
	}
	io.WriteString(c, "on")
	if _, err := io.ReadFull(c, make([]byte, 2)); err != nil {
		t.Errorf("one that was handed out: %v", err)
	}
	c.Close()
	if _, err := r.GRPC().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestHalfClosed: a server that is gone does not keep the other from being served.
func TestHalfClosed(t *testing.T) {
	r := newRig(t, time.Hour)
	r.GRPC().Close()
	c := r.dial()
	io.WriteString(c, preface)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it is served")
	}
	r.get("/c")
}
