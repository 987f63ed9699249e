package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// streamed is how much goes through each stream.
const streamed = 256 << 20

// BenchmarkStream measures what kubectl would see of exec and port forward: the time of
// `exec true`, and the throughput one way.
func BenchmarkStream(b *testing.B) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	w := world.New(b, world.Options{})
	w.Pull()
	pod := w.Pod("stream", nil)
	id := w.Ctr(pod, "main", "exec sleep 100000", plain)
	for _, p := range []struct {
		name string
		make func(c *rest.Config, u *url.URL) (remotecommand.Executor, error)
	}{
		{"SPDY", func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(c, "POST", u)
		}},
		{"WebSocket", func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(c, "GET", u.String())
		}},
	} {
		run := func(in io.Reader, out io.Writer, command ...string) time.Duration {
			b.Helper()
			began := time.Now()
			r, err := w.RuntimeServiceClient.Exec(w.Ctx(), &cri.ExecRequest{ContainerId: id, Cmd: command, Stdin: in != nil, Stdout: true})
			if err != nil {
				b.Fatal(err)
			}
			u, err := url.Parse(r.GetUrl())
			if err != nil {
				b.Fatal(err)
			}
			e, err := p.make(&rest.Config{Host: "http://" + u.Host}, u)
			if err == nil {
				err = e.StreamWithContext(context.Background(), remotecommand.StreamOptions{Stdin: in, Stdout: out})
			}
			if err != nil {
				b.Fatal(err)
			}
			return time.Since(began)
		}
		b.Run(p.name, func(b *testing.B) {
			var times []time.Duration
			for b.Loop() {
				times = append(times, run(nil, io.Discard, "true"))
			}
			report(b, "true", times)
			out := run(nil, io.Discard, "dd", "if=/dev/zero", "bs=65536", fmt.Sprint("count=", streamed/65536))
			b.ReportMetric(streamed/1e6/out.Seconds(), "stdout-MB/s")
			in := run(io.LimitReader(zeros{}, streamed), io.Discard, "sh", "-c", "cat >/dev/null")
			b.ReportMetric(streamed/1e6/in.Seconds(), "stdin-MB/s")
		})
	}
	b.Run("PortForward", func(b *testing.B) { forwarded(b, w) })
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// forwarded measures connections through a port of the host's network.
func forwarded(b *testing.B, w *world.World) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	size := 1
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(c, zeros{}, int64(size))
			c.Close()
		}
	}()
	pod := w.Pod("ports", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	})
	r, err := w.PortForward(w.Ctx(), &cri.PortForwardRequest{PodSandboxId: pod})
	if err != nil {
		b.Fatal(err)
	}
	u, err := url.Parse(r.GetUrl())
	if err != nil {
		b.Fatal(err)
	}
	d, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, &rest.Config{Host: "http://" + u.Host})
	if err != nil {
		b.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	f, err := portforward.NewOnAddressesForStreaming(d, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", l.Addr().(*net.TCPAddr).Port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	go f.ForwardPorts()
	<-ready
	ports, err := f.GetPorts()
	if err != nil {
		b.Fatal(err)
	}
	get := func() time.Duration {
		began := time.Now()
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		if n, err := io.Copy(io.Discard, c); err != nil || n != int64(size) {
			b.Fatal(n, err)
		}
		return time.Since(began)
	}
	var times []time.Duration
	for b.Loop() {
		times = append(times, get())
	}
	report(b, "connection", times)
	size = streamed
	b.ReportMetric(streamed/1e6/get().Seconds(), "MB/s")
}
