package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/linux/namespace"
	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/net/websocket"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
)

func forwardURL(w *world.World, pod string, ports ...int32) string {
	w.T.Helper()
	resp, err := w.PortForward(w.Ctx(), &cri.PortForwardRequest{PodSandboxId: pod, Port: ports})
	must(w.T, err)
	return resp.GetUrl()
}

// dialers are the two ways in which kubectl forwards ports.
var dialers = []struct {
	name string
	make func(t *testing.T, address string) httpstream.Dialer
}{
	{"SPDY", func(t *testing.T, address string) httpstream.Dialer {
		transport, upgrader, err := spdy.RoundTripperFor(plain(address))
		must(t, err)
		u, err := url.Parse(address)
		must(t, err)
		return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", u)
	}},
	{"WebSocket", func(t *testing.T, address string) httpstream.Dialer {
		u, err := url.Parse(address)
		must(t, err)
		d, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, plain(address))
		must(t, err)
		return d
	}},
}

// forward runs kubectl's port forwarder until the test ends, and returns the local ports.
func forward(t *testing.T, d httpstream.Dialer, ports ...int) (local []uint16, ended <-chan error) {
	t.Helper()
	var wish []string
	for _, p := range ports {
		wish = append(wish, fmt.Sprintf("0:%d", p))
	}
	stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewOnAddressesForStreaming(d, []string{"127.0.0.1"}, wish, stop, ready, io.Discard, io.Discard)
	must(t, err)
	go func() { done <- f.ForwardPorts() }()
	t.Cleanup(func() { close(stop) })
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("the forwarder does not become ready")
	}
	got, err := f.GetPorts()
	must(t, err)
	for _, p := range got {
		local = append(local, p.Local)
	}
	return local, done
}

// serveConns answers each connection until the listener is closed.
func serveConns(l net.Listener, answer func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			answer(c)
		}()
	}
}

// serveIn listens in a network namespace ("" is the test's own) and answers each
// connection, after its input's end, with the input's hash.
func serveIn(t *testing.T, netns, addr string) (port int, stop func()) {
	t.Helper()
	var l net.Listener
	listen := func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}
	if netns == "" {
		must(t, listen())
	} else {
		must(t, namespace.Do(netns, namespace.Net, listen))
	}
	go serveConns(l, func(c net.Conn) {
		h := sha256.New()
		if _, err := io.Copy(h, c); err == nil {
			fmt.Fprintf(c, "%x", h.Sum(nil))
		}
	})
	return l.Addr().(*net.TCPAddr).Port, func() { l.Close() }
}

func netns(w *world.World, pod string) string { return filepath.Join(w.Dir, "run/pods", pod, "net") }

// ask sends data through a local port, half-closes, and wants the hash.
func ask(t *testing.T, port uint16, data []byte) {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	must(t, err)
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	_, err = c.Write(data)
	must(t, err)
	must(t, c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	if h := sha256.Sum256(data); err != nil || string(got) != hex.EncodeToString(h[:]) {
		t.Errorf("%d bytes through port %d: answer %q, %v", len(data), port, got, err)
	}
}

func TestPortForward(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("forward", nil)
	host := w.Pod("host", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	fds := w.FDs()
	four, stop4 := serveIn(t, netns(w, pod), "127.0.0.1:0")
	six, stop6 := serveIn(t, netns(w, pod), "[::1]:0")
	both, stopBoth := serveIn(t, netns(w, pod), ":0")
	here, stopHere := serveIn(t, "", "127.0.0.1:0")
	for _, stop := range []func(){stop4, stop6, stopBoth, stopHere} {
		defer stop()
	}
	big := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{2}).Read(big)
	for _, d := range dialers {
		t.Run(d.name, func(t *testing.T) {
			ports, _ := forward(t, d.make(t, forwardURL(w, pod)), four, six, both)
			for _, p := range ports {
				ask(t, p, []byte("hello"))
				ask(t, p, nil)
			}
			ask(t, ports[0], big)
			var wg sync.WaitGroup
			for i := range 60 {
				wg.Go(func() { ask(t, ports[i%3], big[:i*1000]) })
			}
			wg.Wait()
			ports, _ = forward(t, d.make(t, forwardURL(w, host)), here)
			ask(t, ports[0], []byte("in the host's network"))
		})
	}
	atRest(w, fds)
}

// pair opens the two streams of one forwarded connection.
func pair(t *testing.T, c httpstream.Connection, port, id int) (data, errs httpstream.Stream) {
	t.Helper()
	h := http.Header{}
	h.Set("port", fmt.Sprint(port))
	h.Set("requestID", fmt.Sprint(id))
	h.Set("streamType", "error")
	errs, err := c.CreateStream(h)
	must(t, err)
	errs.Close()
	h.Set("streamType", "data")
	data, err = c.CreateStream(h)
	must(t, err)
	return data, errs
}

func TestPortForwardEnds(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("ends", nil)
	fds := w.FDs()
	for _, d := range dialers {
		t.Run(d.name, func(t *testing.T) {
			// The port's side speaks: it closes its output first, and reads on.
			var l net.Listener
			must(t, namespace.Do(netns(w, pod), namespace.Net, func() (err error) {
				l, err = net.Listen("tcp", "127.0.0.1:0")
				return err
			}))
			defer l.Close()
			port := l.Addr().(*net.TCPAddr).Port
			conn, _, err := d.make(t, forwardURL(w, pod)).Dial("portforward.k8s.io")
			must(t, err)
			defer conn.Close()
			data, _ := pair(t, conn, port, 1)
			peer, err := l.Accept()
			must(t, err)
			io.WriteString(peer, "last words")
			must(t, peer.(*net.TCPConn).CloseWrite())
			if got, err := io.ReadAll(data); err != nil || string(got) != "last words" {
				t.Errorf("%q, %v", got, err)
			}
			io.WriteString(data, "answer")
			must(t, data.Close())
			peer.SetDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(peer); err != nil || string(got) != "answer" {
				t.Errorf("after the half-close: %q, %v", got, err)
			}
			peer.Close()
			// A reset reaches the port, which is not written to any more either.
			data, _ = pair(t, conn, port, 2)
			peer, err = l.Accept()
			must(t, err)
			must(t, data.Reset())
			peer.SetDeadline(time.Now().Add(patience))
			if _, err := io.Copy(peer, &endless{}); err == nil || isTimeout(err) {
				t.Errorf("after a reset: %v", err)
			}
			peer.Close()
			// Nobody listens: the error names pod and port, other forwards go on.
			free := port
			l.Close()
			data, errs := pair(t, conn, free, 3)
			text, _ := io.ReadAll(errs)
			for _, want := range []string{fmt.Sprint("port ", free), "default/ends", "refused"} {
				if !strings.Contains(string(text), want) {
					t.Errorf("refused: no %q in %q", want, text)
				}
			}
			data.Reset()
			again, stop := serveIn(t, netns(w, pod), "127.0.0.1:0")
			defer stop()
			data, _ = pair(t, conn, again, 4)
			data.Close()
			if got, err := io.ReadAll(data); err != nil || len(got) != 64 {
				t.Errorf("after an error: %q, %v", got, err)
			}
		})
	}
	atRest(w, fds)
	// A pod that stops takes its forwards along, although the port is still there.
	for i, d := range dialers {
		t.Run(d.name+" and the pod's stop", func(t *testing.T) {
			p := w.Pod(fmt.Sprint("stop", i), nil)
			var l net.Listener
			must(t, namespace.Do(netns(w, p), namespace.Net, func() (err error) {
				l, err = net.Listen("tcp", "127.0.0.1:0")
				return err
			}))
			defer l.Close()
			ports, ended := forward(t, d.make(t, forwardURL(w, p)), l.Addr().(*net.TCPAddr).Port)
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0]))
			must(t, err)
			defer c.Close()
			peer, err := l.Accept()
			must(t, err)
			defer peer.Close()
			if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: p}); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Error("the forwarder goes on")
			}
			c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("the connection: %v", err)
			}
		})
	}
	atRest(w, fds)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// endless is input without an end.
type endless struct{}

func (*endless) Read(b []byte) (int, error) { return len(b), nil }

// TestPortForwardChannels speaks the WebSocket protocol with one pair of channels for
// each port, for which client-go has no client.
func TestPortForwardChannels(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("channels", nil)
	fds := w.FDs()
	var l net.Listener
	must(t, namespace.Do(netns(w, pod), namespace.Net, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	go serveConns(l, func(c net.Conn) {
		buf := make([]byte, 100)
		n, _ := c.Read(buf)
		c.Write(bytes.ToUpper(buf[:n]))
	})
	for protocol, text := range map[string][2]string{
		"v4.channel.k8s.io": {"\x00hi", "\x00HI"}, "v4.base64.channel.k8s.io": {"0aGk=", "0SEk="}, "": {"\x00hi", "\x00HI"},
	} {
		// The second port has nobody that listens.
		ws := dialWebSocket(t, forwardURL(w, pod, int32(port), 1), protocol)
		ws.SetDeadline(time.Now().Add(patience))
		if strings.Contains(protocol, "base64") {
			must(t, websocket.Message.Send(ws, text[0]))
		} else {
			must(t, websocket.Message.Send(ws, []byte(text[0])))
		}
		all, first := "", map[byte]string{}
		for {
			var data []byte
			if err := websocket.Message.Receive(ws, &data); errors.Is(err, io.EOF) {
				break
			} else {
				must(t, err)
			}
			if _, ok := first[data[0]]; !ok { // each channel begins with its port's number
				first[data[0]] = string(data)
				continue
			}
			all += string(data)
		}
		ws.Close()
		if len(first) != 4 || !strings.Contains(all, text[1]) {
			t.Errorf("%q: channels %q, then %q", protocol, first, all)
		}
		if !strings.Contains(protocol, "base64") && !strings.Contains(all, "\x03error forwarding port 1 to pod "+pod) {
			t.Errorf("%q: no error of the second port in %q", protocol, all)
		}
	}
	atRest(w, fds)
}
