package integration

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/net/websocket"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client is one session that runs beside the test.
type client struct {
	out, err screen
	leave    context.CancelFunc
	done     chan error
}

func start(t *testing.T, s speaker, address string, o remotecommand.StreamOptions) *client {
	c := &client{done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	c.leave = cancel
	if o.Stdout == nil {
		o.Stdout = &c.out
	}
	if !o.Tty {
		o.Stderr = &c.err
	}
	e := s.executor(t, plain(address), address)
	go func() { c.done <- e.StreamWithContext(ctx, o) }()
	return c
}

// wait returns the session's result.
func (c *client) wait(t *testing.T, what string) error {
	t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
		return nil
	}
}

// current are the protocols that today's kubectl speaks.
func current() (list []speaker) {
	for _, s := range speakers {
		if s.name == "SPDY as kubectl" || s.name == "WebSocket v5" {
			list = append(list, s)
		}
	}
	return list
}

func TestAttachMany(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("many", nil)
	id := w.Ctr(pod, "main", "read go; echo out $go; echo err >&2; exit 5", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	fds := w.FDs()
	var clients []*client
	keys, typing := io.Pipe()
	for i, s := range []speaker{speakers[3], speakers[5], speakers[6], speakers[1]} {
		r := &cri.AttachRequest{ContainerId: id, Stdout: true, Stderr: true}
		o := remotecommand.StreamOptions{}
		if i == 0 {
			r.Stdin, o.Stdin = true, keys
		}
		clients = append(clients, start(t, s, attachURL(w, r), o))
	}
	attached(w, id, len(clients))
	// One that only listens comes and goes: the input must stay open.
	brief := start(t, speakers[3], attachURL(w, &cri.AttachRequest{ContainerId: id, Stdout: true, Stderr: true}), remotecommand.StreamOptions{})
	attached(w, id, len(clients)+1)
	brief.leave()
	brief.wait(t, "the brief client")
	attached(w, id, len(clients))
	io.WriteString(typing, "now\n")
	for i, c := range clients {
		if err := c.wait(t, fmt.Sprint("client ", i)); err != nil {
			t.Errorf("client %d: %v", i, err)
		}
		if c.out.String() != "out now\n" || c.err.String() != "err\n" {
			t.Errorf("client %d: stdout %q, stderr %q", i, c.out.String(), c.err.String())
		}
	}
	typing.Close()
	if st := w.WaitExit(id); st.GetExitCode() != 5 {
		t.Errorf("exit code %d", st.GetExitCode())
	}
	atRest(w, fds)
}

// attached waits until so many clients are connected to a container's monitor.
func attached(w *world.World, id string, n int) {
	w.T.Helper()
	w.Eventually(fmt.Sprintf("%d clients are attached", n), func() bool { return monitorClients(w, id) == n })
}

// TestAttachInput: with stdin_once the first client's end is the input's end, without it
// clients come and go.
func TestAttachInput(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("input", nil)
	for _, s := range current() {
		t.Run(s.name, func(t *testing.T) {
			name := strings.ReplaceAll(strings.ToLower(s.name), " ", "-")
			once := w.Ctr(pod, name+"-once", "cat; echo end", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			request := func(id string) string {
				return attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
			}
			c := start(t, s, request(once), remotecommand.StreamOptions{Stdin: strings.NewReader("words\n")})
			if err := c.wait(t, "attach"); err != nil || c.out.String() != "words\nend\n" {
				t.Errorf("half-close: %q, %v", c.out.String(), err)
			}
			gone := w.Ctr(pod, name+"-gone", "cat; echo end", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
			keys, typing := io.Pipe()
			c = start(t, s, request(gone), remotecommand.StreamOptions{Stdin: keys})
			io.WriteString(typing, "words\n")
			w.Eventually("the answer", func() bool { return c.out.String() == "words\n" })
			c.leave()
			typing.Close()
			if st := w.WaitExit(gone); w.LogText(st.GetLogPath()) != "words\nend\n" {
				t.Errorf("a client that went: log %q", w.LogText(st.GetLogPath()))
			}
			open := w.Ctr(pod, name+"-open", "read a; echo $a; read b; echo $b", func(c *cri.ContainerConfig) { c.Stdin = true })
			for _, word := range []string{"first", "second"} {
				// Half-closed, and gone before the answer: what was sent counts.
				c := start(t, s, request(open), remotecommand.StreamOptions{Stdin: strings.NewReader(word + "\n")})
				w.Eventually(word, func() bool { return strings.Contains(w.LogText(w.Status(open).GetLogPath()), word+"\n") })
				c.leave()
				c.wait(t, "attach")
			}
			if st := w.WaitExit(open); st.GetExitCode() != 0 {
				t.Errorf("exit code %d", st.GetExitCode())
			}
		})
	}
}

func TestAttachTerminal(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("tty", nil)
	for _, s := range current() {
		t.Run(s.name, func(t *testing.T) {
			id := w.Ctr(pod, strings.ReplaceAll(strings.ToLower(s.name), " ", "-"),
				`read word; until [ "$(stty size)" = "41 101" ]; do sleep 0.05; done; echo "got $word"; echo err >&2`,
				func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
			window := make(sizes, 1)
			defer close(window)
			window <- remotecommand.TerminalSize{Width: 101, Height: 41}
			c := start(t, s, attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: true}),
				remotecommand.StreamOptions{Stdin: strings.NewReader("word\n"), Tty: true, TerminalSizeQueue: window})
			if err := c.wait(t, "attach"); err != nil {
				t.Error(err)
			}
			if out := c.out.String(); !strings.Contains(out, "got word\r\n") || !strings.Contains(out, "err\r\n") {
				t.Errorf("output %q", out)
			}
		})
	}
}

// stuck is a reader that takes one byte and then nothing.
type stuck struct{ release chan struct{} }

func (s stuck) Write(b []byte) (int, error) {
	<-s.release
	return 0, errors.New("released")
}

// TestAttachStuck: a client that does not read is dropped and holds neither the container
// nor the other clients; after the idle timeout the daemon has nothing left of it.
func TestAttachStuck(t *testing.T) {
	w := streaming(t, `stream_idle_timeout = "3s"`)
	pod := w.Pod("stuck", nil)
	const size = 32 << 20
	for _, s := range current() {
		t.Run(s.name, func(t *testing.T) {
			id := w.Ctr(pod, strings.ReplaceAll(strings.ToLower(s.name), " ", "-"), fmt.Sprintf("read go; yes 0123456789abcde | head -c %d; sleep 1000", size),
				func(c *cri.ContainerConfig) { c.Stdin = true })
			w.Exec(id, "true")
			fds := w.FDs()
			release := make(chan struct{})
			lazy := start(t, s, attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true}),
				remotecommand.StreamOptions{Stdin: strings.NewReader("go\n"), Stdout: stuck{release}})
			w.Eventually("the container has written all", func() bool {
				return len(w.LogText(w.Status(id).GetLogPath())) == size
			})
			attached(w, id, 0)
			// The client is still there and still does not read.
			atRest(w, fds)
			close(release)
			lazy.leave()
			lazy.wait(t, "the lazy client")
		})
	}
}

// TestExecStuck: a client of exec that does not read slows its own command down, until
// the idle timeout; then the command gets SIGPIPE.
func TestExecStuck(t *testing.T) {
	w := streaming(t, `stream_idle_timeout = "2s"`)
	pod := w.Pod("stuck", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	for _, s := range current() {
		t.Run(s.name, func(t *testing.T) {
			release := make(chan struct{})
			c := start(t, s, execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"yes"}, Stdout: true, Stderr: true}), remotecommand.StreamOptions{Stdout: stuck{release}})
			w.Eventually("the command runs", func() bool { out, _ := w.Exec(id, "pidof yes"); return out != "" })
			w.Eventually("the command is gone", func() bool { out, _ := w.Exec(id, "pidof yes"); return out == "" })
			atRest(w, fds)
			close(release)
			c.leave()
			c.wait(t, "the client")
		})
	}
}

// TestStreamIdle: a connection on which nothing moves is closed, and the command gets
// what a broken line gives.
//
// Options: crio.api.stream_idle_timeout
func TestStreamIdle(t *testing.T) {
	w := streaming(t, `stream_idle_timeout = "1s"`)
	pod := w.Pod("idle", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	for _, s := range []speaker{speakers[3], speakers[5]} { // client-go's v5 sends pings
		for _, c := range []struct {
			name string
			r    *cri.ExecRequest
		}{
			{"input", &cri.ExecRequest{ContainerId: id, Cmd: []string{"cat"}, Stdin: true, Stdout: true, Stderr: true}},
			{"terminal", &cri.ExecRequest{ContainerId: id, Cmd: []string{"sleep", "4321"}, Stdin: true, Stdout: true, Tty: true}},
		} {
			if s.name == "WebSocket v4" {
				rawIdle(t, execURL(w, c.r))
			} else {
				keys, typing := io.Pipe()
				x := start(t, s, execURL(w, c.r), remotecommand.StreamOptions{Stdin: keys, Tty: c.r.Tty})
				_ = x.wait(t, s.name+" "+c.name)
				typing.Close()
			}
			w.Eventually(c.name+": the command is gone", func() bool {
				out, _ := w.Exec(id, "ps -o args")
				return !strings.Contains(out, "4321") && !strings.Contains(out, "\ncat")
			})
		}
	}
	atRest(w, fds)
}

// rawIdle opens a WebSocket, says nothing and waits for its end.
func rawIdle(t *testing.T, address string) {
	t.Helper()
	ws := dialWebSocket(t, address, "v4.channel.k8s.io")
	defer ws.Close()
	ws.SetReadDeadline(time.Now().Add(patience))
	for {
		var data []byte
		if err := websocket.Message.Receive(ws, &data); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the end is %v", err)
			}
			return
		}
	}
}

func dialWebSocket(t *testing.T, address, protocol string) *websocket.Conn {
	t.Helper()
	conf, err := websocket.NewConfig(strings.Replace(address, "http", "ws", 1), "http://localhost")
	must(t, err)
	if protocol != "" {
		conf.Protocol = []string{protocol}
	}
	ws, err := conf.DialContext(context.Background())
	must(t, err)
	return ws
}

// TestExecHangup: whoever goes takes the streams along; a command on a terminal and one
// that writes or reads end by that.
func TestExecHangup(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("hangup", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	for _, s := range current() {
		for _, c := range []struct {
			script string
			tty    bool
		}{
			{"echo up; sleep 4321", true}, {"echo up; cat; sleep 0.1", false}, {"echo up; while :; do echo x; sleep 0.1; done", false},
			{"stty -echo raw; echo up; sleep 4322", true}, // gets input that it does not read
		} {
			keys, typing := io.Pipe()
			x := start(t, s, execURL(w, shell(id, c.script, c.tty)), remotecommand.StreamOptions{Stdin: keys, Tty: c.tty})
			w.Eventually("output", func() bool { return strings.HasPrefix(x.out.String(), "up") })
			if strings.Contains(c.script, "4322") {
				// As much as the kernel takes before the end, or it would not deliver the end.
				_, err := io.CopyN(typing, rand.NewChaCha8([32]byte{3}), 128<<10)
				must(t, err)
			}
			x.leave()
			typing.Close()
			x.wait(t, s.name)
			w.Eventually(s.name+": "+c.script+" is gone", func() bool {
				out, _ := w.Exec(id, "ps -o args | grep -v ps")
				return !strings.Contains(out, "echo up")
			})
		}
	}
	atRest(w, fds)
}

// TestExecEnds: the container ends under the command.
func TestExecEnds(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("ends", nil)
	w.Exec(w.Ctr(pod, "first", "exec sleep 1000", nil), "true") // opens what stays open
	fds := w.FDs()
	for i, s := range current() {
		id := w.Ctr(pod, fmt.Sprint("main", i), "exec sleep 1000", nil)
		x := start(t, s, execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo up; exec sleep 1000"}, Stdout: true, Stderr: true}), remotecommand.StreamOptions{})
		late := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
		w.Eventually("output", func() bool { return x.out.String() == "up\n" })
		if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		var exit utilexec.CodeExitError
		if err := x.wait(t, s.name); !errors.As(err, &exit) || exit.Code != 137 {
			t.Errorf("%s: %v, want exit code 137", s.name, err)
		}
		err := within(t, "a late exec", func(ctx context.Context) error {
			return s.executor(t, plain(late), late).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
		})
		if err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("%s: exec in the ended container: %v", s.name, err)
		}
	}
	atRest(w, fds)
}

// sum counts and hashes what is written.
type sum struct {
	mu sync.Mutex
	n  int
	h  hash.Hash
}

func (s *sum) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n += len(b)
	return s.h.Write(b)
}

// TestExecBulk sends 100 MB through a command and back.
func TestExecBulk(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("bulk", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	const size = 100 << 20
	for _, s := range current() {
		sent, got := &sum{h: sha256.New()}, &sum{h: sha256.New()}
		in := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
		began := time.Now()
		err := within(t, s.name, func(ctx context.Context) error {
			address := execURL(w, &cri.ExecRequest{ContainerId: id, Cmd: []string{"cat"}, Stdin: true, Stdout: true})
			return s.executor(t, plain(address), address).StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: got})
		})
		if err != nil || got.n != size || string(got.h.Sum(nil)) != string(sent.h.Sum(nil)) {
			t.Errorf("%s: %v; %d of %d bytes, or others", s.name, err, got.n, sent.n)
		}
		t.Logf("%s: %.0f MB/s there and back", s.name, size/1e6/time.Since(began).Seconds())
	}
	atRest(w, fds)
}

// TestWebSocketForms speaks the forms for which client-go has no client.
func TestWebSocketForms(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("forms", nil)
	id := w.Ctr(pod, "main", "exec sleep 1000", nil)
	w.Exec(id, "true")
	fds := w.FDs()
	for _, c := range []struct{ protocol, in, out, errOut, status string }{
		{"", "\x00hi\n", "\x01hi\n", "\x02oops\n", "\x03command terminated with non-zero exit code: 4"},
		{"channel.k8s.io", "\x00hi\n", "\x01hi\n", "\x02oops\n", "\x03command terminated with non-zero exit code: 4"},
		{"base64.channel.k8s.io", "0aGkK", "1aGkK", "2b29wcwo=", "3Y29tbWFuZCB0ZXJtaW5hdGVkIHdpdGggbm9uLXplcm8gZXhpdCBjb2RlOiA0"},
		{"v4.channel.k8s.io", "\x00hi\n", "\x01hi\n", "\x02oops\n", `"message":"4"`},
		{"v4.base64.channel.k8s.io", "0aGkK", "1aGkK", "2b29wcwo=", "3eyJ"},
		{"v5.channel.k8s.io", "\x00hi\n\xff\x00", "\x01hi\n", "\x02oops\n", `"message":"4"`},
	} {
		script := "head -n 1; echo oops >&2; exit 4"
		if c.protocol == "v5.channel.k8s.io" {
			script = "cat; echo oops >&2; exit 4"
		}
		ws := dialWebSocket(t, execURL(w, shell(id, script, false)), c.protocol)
		ws.SetDeadline(time.Now().Add(patience))
		send := func(s string) {
			if strings.Contains(c.protocol, "base64") {
				must(t, websocket.Message.Send(ws, s))
			} else {
				must(t, websocket.Message.Send(ws, []byte(s)))
			}
		}
		in, half, _ := strings.Cut(c.in, "\xff")
		send(in)
		if half != "" {
			send("\xff" + half)
		}
		all := map[byte]string{}
		for {
			var data []byte
			err := websocket.Message.Receive(ws, &data)
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			if len(data) > 1 { // the first message is empty: connected
				all[data[0]] += string(data)
			}
		}
		ws.Close()
		if all[c.out[0]] != c.out || all[c.errOut[0]] != c.errOut || !strings.Contains(all[c.status[0]]+all[3], c.status) {
			t.Errorf("%q: got %q", c.protocol, all)
		}
	}
	atRest(w, fds)
}

// TestStreamsAndRestart: sessions end with the daemon, containers do not.
func TestStreamsAndRestart(t *testing.T) {
	w := streaming(t, "")
	pod := w.Pod("restart", nil)
	id := w.Ctr(pod, "main", "while read line; do echo $line; done", func(c *cri.ContainerConfig) { c.Stdin = true })
	for _, end := range []struct {
		name string
		f    func()
	}{{"SIGTERM", w.Stop}, {"SIGKILL", w.Kill}} {
		var open []*client
		var inputs []*io.PipeWriter
		for _, s := range current() {
			for _, address := range []string{
				execURL(w, shell(id, "echo up; cat", false)), execURL(w, shell(id, "echo up; sleep 4321", true)),
				attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true}),
			} {
				keys, typing := io.Pipe()
				inputs = append(inputs, typing)
				tty := len(inputs)%3 == 2
				open = append(open, start(t, s, address, remotecommand.StreamOptions{Stdin: keys, Tty: tty}))
			}
		}
		attached(w, id, 2)
		for i, c := range open {
			if i%3 != 2 {
				w.Eventually("output", func() bool { return strings.HasPrefix(c.out.String(), "up") })
			}
		}
		end.f()
		for i, c := range open {
			// When the daemon is killed, client-go's SPDY takes the end for success.
			if err := c.wait(t, "a session"); err == nil && i%3 != 2 && end.name == "SIGTERM" {
				t.Errorf("%s: the client of an exec was told of success", end.name)
			}
			inputs[i].Close()
		}
		w.Start()
		w.Redial()
		w.Eventually(end.name+": the commands are gone", func() bool {
			out, _ := w.Exec(id, "ps -o args | grep -v ps")
			return !strings.Contains(out, "echo up") && !strings.Contains(out, "4321")
		})
		attached(w, id, 0)
		c := start(t, speakers[3], attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true}),
			remotecommand.StreamOptions{Stdin: strings.NewReader("after " + end.name + "\n")})
		w.Eventually("the container still echoes", func() bool { return c.out.String() == "after "+end.name+"\n" })
		c.leave()
		c.wait(t, "attach")
	}
}

// monitorClients counts the connections of a container's monitor.
func monitorClients(w *world.World, id string) (n int) {
	w.T.Helper()
	r, err := w.ContainerStatus(w.Ctx(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	must(w.T, err)
	var info struct{ MonitorPid int }
	must(w.T, json.Unmarshal([]byte(r.GetInfo()["info"]), &info))
	own := map[string]bool{}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", info.MonitorPid))
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			own[to] = true
		}
	}
	data, err := os.ReadFile("/proc/net/unix")
	must(w.T, err)
	for _, line := range strings.Split(string(data), "\n") {
		// Num RefCount Protocol Flags Type St Inode Path; 03 is connected
		if f := strings.Fields(line); len(f) == 8 && f[5] == "03" && own["socket:["+f[6]+"]"] && strings.HasSuffix(f[7], "/attach") {
			n++
		}
	}
	return n
}

// TestStreamsForeign: an external runtime and conmon serve the same streams.
func TestStreamsForeign(t *testing.T) {
	for _, path := range []string{"/usr/sbin/runc", "/usr/bin/conmon"} {
		if _, err := os.Stat(path); err != nil {
			t.Skip(err)
		}
	}
	w := streamingWith(t, world.Options{Extra: "[crio.runtime]\ndefault_runtime = \"peer\"\nconmon = \"/usr/bin/conmon\"\n[crio.runtime.runtimes.peer]\nruntime_path = \"/usr/sbin/runc\"\n"})
	pod := w.Pod("foreign", nil)
	id := w.Ctr(pod, "main", "read word; echo got $word; exec sleep 1000", func(c *cri.ContainerConfig) { c.Stdin = true })
	w.Exec(id, "true")
	fds := w.FDs()
	for _, s := range current() {
		window := make(sizes, 2)
		window <- remotecommand.TerminalSize{Width: 100, Height: 40}
		c := start(t, s, execURL(w, shell(id, `until [ "$(stty size)" = "40 100" ]; do sleep 0.05; done; echo first
			until [ "$(stty size)" = "50 120" ]; do sleep 0.05; done; read word; echo "second $word"; exit 3`, true)),
			remotecommand.StreamOptions{Stdin: strings.NewReader("word\n"), Tty: true, TerminalSizeQueue: window})
		// Not the whole line: runc takes a moment until only one of two terminals adds
		// carriage returns.
		w.Eventually("the first size", func() bool { return strings.Contains(c.out.String(), "first\r") })
		window <- remotecommand.TerminalSize{Width: 120, Height: 50}
		wantExit(t, s, c.wait(t, s.name), 3)
		if !strings.Contains(c.out.String(), "second word\r\n") {
			t.Errorf("%s: %q", s.name, c.out.String())
		}
		close(window)
		c = start(t, s, execURL(w, shell(id, "cat; exit 4", false)), remotecommand.StreamOptions{Stdin: strings.NewReader("words")})
		wantExit(t, s, c.wait(t, s.name), 4)
		if c.out.String() != "words" {
			t.Errorf("%s: %q", s.name, c.out.String())
		}
		gone := start(t, s, execURL(w, shell(id, "echo up; sleep 4321", true)), remotecommand.StreamOptions{Tty: true, Stdin: strings.NewReader("")})
		w.Eventually("output", func() bool { return strings.HasPrefix(gone.out.String(), "up") })
		gone.leave()
		gone.wait(t, s.name)
		w.Eventually("the command is gone", func() bool { out, _ := w.Exec(id, "ps -o args | grep -v ps"); return !strings.Contains(out, "4321") })
	}
	c := start(t, current()[0], attachURL(w, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true}), remotecommand.StreamOptions{Stdin: strings.NewReader("hello\n")})
	w.Eventually("the answer", func() bool { return c.out.String() == "got hello\n" })
	c.leave()
	c.wait(t, "attach")
	atRest(w, fds)
}
