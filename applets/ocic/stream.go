package ocic

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// dialStream connects to an address that the runtime has answered with, in SPDY.
func dialStream(address, protocol string) (httpstream.Connection, error) {
	// The address came over the CRI socket; like the kubelet we trust it as it is.
	rt, err := spdy.NewRoundTripper(&tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", req.URL.Host, err)
	}
	return rt.NewConnection(resp)
}

// headers are those of a new stream.
func headers(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Set(kv[i], kv[i+1])
	}
	return h
}

// session carries our standard streams to a process.
type session struct {
	conn       httpstream.Connection
	stdin, tty bool
	copies     sync.WaitGroup
}

// run opens the streams, carries them, and returns how the process ended.
func (s *session) run() error {
	defer s.conn.Close()
	errs, err := s.conn.CreateStream(headers("streamType", "error"))
	if err != nil {
		return err
	}
	defer func() { _ = errs.Reset() }()
	_ = errs.Close() // we send nothing on it
	if s.stdin {
		in, err := s.conn.CreateStream(headers("streamType", "stdin"))
		if err != nil {
			return err
		}
		go func() {
			_, _ = io.Copy(in, os.Stdin)
			_ = in.Close()
		}()
	}
	if err := s.output("stdout", os.Stdout); err != nil {
		return err
	}
	if s.tty {
		restore, err := s.terminal()
		if err != nil {
			return err
		}
		defer restore()
	} else if err := s.output("stderr", os.Stderr); err != nil {
		return err
	}
	text, err := io.ReadAll(errs)
	s.copies.Wait()
	return errors.Join(err, ending(text))
}

func (s *session) output(kind string, to io.Writer) error {
	out, err := s.conn.CreateStream(headers("streamType", kind))
	if err == nil {
		s.copies.Go(func() { _, _ = io.Copy(to, out) })
	}
	return err
}

// terminal hands our terminal's size, and every key, to the process's.
func (s *session) terminal() (restore func(), err error) {
	sizes, err := s.conn.CreateStream(headers("streamType", "resize"))
	if err != nil {
		return nil, err
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	send := func() {
		if width, height, err := term.GetSize(0); err == nil {
			_ = json.NewEncoder(sizes).Encode(map[string]int{"Width": width, "Height": height})
		}
	}
	send()
	go func() {
		for range changed {
			send()
		}
	}()
	old, _ := term.MakeRaw(0) // nil when we have no terminal ourselves
	return func() {
		signal.Stop(changed)
		close(changed)
		if old != nil {
			_ = term.Restore(0, old)
		}
	}, nil
}

// ending reads the status that comes at the end (metav1.Status of Kubernetes).
func ending(text []byte) error {
	var st struct {
		Status, Message string
		Details         struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return fmt.Errorf("the connection ended without saying how the command ended: %q", text)
	}
	if st.Status == "Success" {
		return nil
	}
	for _, cause := range st.Details.Causes {
		if code, err := strconv.Atoi(cause.Message); err == nil && cause.Reason == "ExitCode" {
			return exitCode(code)
		}
	}
	return errors.New(st.Message)
}

const remoteCommand = "v4.channel.k8s.io"

// execStreams is exec over the streaming server.
func (c *client) execStreams(ctx context.Context, id string, command []string, stdin, tty bool) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	resp, err := c.rt.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: command, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	if err != nil {
		return err
	}
	conn, err := dialStream(resp.GetUrl(), remoteCommand)
	if err != nil {
		return err
	}
	return (&session{conn: conn, stdin: stdin, tty: tty}).run()
}

func (c *client) ctrAttach() *cobra.Command {
	var stdin, tty bool
	cmd := &cobra.Command{Use: "attach ID", Short: "connect to a container's own streams, until it ends", Args: manual.Words(1, 1), RunE: func(cmd *cobra.Command, args []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.Attach(ctx, &cri.AttachRequest{ContainerId: args[0], Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
		if err != nil {
			return err
		}
		conn, err := dialStream(resp.GetUrl(), remoteCommand)
		if err != nil {
			return err
		}
		return (&session{conn: conn, stdin: stdin, tty: tty}).run()
	}}
	streamFlags(cmd, &stdin, &tty)
	return cmd
}

func streamFlags(cmd *cobra.Command, stdin, tty *bool) {
	cmd.Flags().BoolVarP(stdin, "stdin", "i", false, "pass our standard input on")
	cmd.Flags().BoolVar(tty, "tty", false, "the process has a terminal")
}

func (c *client) podForward() *cobra.Command {
	return &cobra.Command{Use: "forward ID [LOCAL:]PORT...", Short: "carry connections to 127.0.0.1:LOCAL to ports of a pod", Args: manual.Words(2, -1), RunE: func(cmd *cobra.Command, args []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: args[0]})
		if err != nil {
			return err
		}
		conn, err := dialStream(resp.GetUrl(), "portforward.k8s.io")
		if err != nil {
			return err
		}
		defer conn.Close()
		f := &forwarder{conn: conn}
		for _, arg := range args[1:] {
			local, port, ok := strings.Cut(arg, ":")
			if !ok {
				port = local
			}
			if err := f.listen(local, port); err != nil {
				return err
			}
		}
		<-conn.CloseChan()
		return errors.New("the connection to the runtime has ended")
	}}
}

// forwarder carries connections over one connection to the runtime.
type forwarder struct {
	conn  httpstream.Connection
	mu    sync.Mutex
	count int
}

func (f *forwarder) listen(local, port string) error {
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q: a number up to 65535 is needed", port)
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", local))
	if err != nil {
		return err
	}
	fmt.Printf("%s -> %s\n", l.Addr(), port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if err := f.carry(c.(*net.TCPConn), port); err != nil {
					fmt.Fprintln(os.Stderr, "ocic:", err)
				}
			}()
		}
	}()
	return nil
}

func (f *forwarder) carry(c *net.TCPConn, port string) error {
	f.mu.Lock()
	f.count++
	id := strconv.Itoa(f.count)
	f.mu.Unlock()
	errs, err := f.conn.CreateStream(headers("streamType", "error", "port", port, "requestID", id))
	if err != nil {
		return err
	}
	_ = errs.Close()
	data, err := f.conn.CreateStream(headers("streamType", "data", "port", port, "requestID", id))
	if err != nil {
		return err
	}
	defer f.conn.RemoveStreams(errs, data)
	defer func() { _ = data.Reset() }()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(data, c)
		_ = data.Close()
	})
	_, err = io.Copy(c, data)
	if text, _ := io.ReadAll(errs); len(text) > 0 {
		return errors.New(string(text))
	}
	if err == nil {
		_ = c.CloseWrite() // our side may go on
		up.Wait()
	}
	return err
}
