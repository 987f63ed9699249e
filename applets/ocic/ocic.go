// Package ocic is a test client of the CRI: it runs pods and containers from the
// JSON files that crictl takes, against any runtime that serves the CRI.
//
// People get tables, programs JSON (-o json). It exits with 1 when a call fails,
// and `ctr exec` with the code of the command.
package ocic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	defaultSocket = "/var/run/crio/crio.sock"
	maxMessage    = 80 << 20 // bytes, as the daemon's
)

// client is one invocation: the flags that all commands have, and the connection.
type client struct {
	socket  string
	output  string
	timeout time.Duration

	conn   *grpc.ClientConn
	rt     cri.RuntimeServiceClient
	images cri.ImageServiceClient
}

// exitCode ends the program with the code of a command that ran elsewhere.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("the command exited with code %d", int(e)) }

// Main runs the applet ocic.
func Main(args []string) int {
	c := &client{}
	root := &cobra.Command{Use: "ocic", Short: "Test client of the Container Runtime Interface", SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.connect() }}
	f := root.PersistentFlags()
	f.StringVarP(&c.socket, "socket", "s", defaultSocket, "CRI socket")
	f.StringVarP(&c.output, "output", "o", "table", "table or json")
	f.DurationVarP(&c.timeout, "timeout", "t", 5*time.Minute, "longest wait for one call")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(c.podCommand(), c.ctrCommand(), c.imageCommand(),
		&cobra.Command{Use: "info", Short: "show the runtime and its state", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error { return c.info(cmd.Context()) }})
	root.SetArgs(args[1:])
	err := root.ExecuteContext(context.Background())
	if c.conn != nil {
		err = errors.Join(err, c.conn.Close())
	}
	var code exitCode
	switch {
	case errors.As(err, &code):
		return int(code)
	case err != nil:
		fmt.Fprintln(os.Stderr, "ocic:", explain(err))
		return 1
	}
	return 0
}

// explain shows a gRPC error as its code and text.
func explain(err error) string {
	var e interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &e) {
		return err.Error()
	}
	s := e.GRPCStatus()
	return fmt.Sprintf("%s: %s", s.Code(), s.Message())
}

func (c *client) connect() error {
	if c.output != "table" && c.output != "json" {
		return fmt.Errorf("--output %q: table or json", c.output)
	}
	path := strings.TrimPrefix(c.socket, "unix://")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("there is no CRI socket at %s (is the daemon running? --socket says where it listens): %w", path, err)
	}
	var err error
	c.conn, err = grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	c.rt, c.images = cri.NewRuntimeServiceClient(c.conn), cri.NewImageServiceClient(c.conn)
	return nil
}

// within bounds one call.
func (c *client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

// verb makes a command that does one thing to each of the objects named.
func (c *client) verb(use, short string, do func(ctx context.Context, id string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: manual.Words(1, -1), RunE: func(cmd *cobra.Command, ids []string) error {
		var failed error
		for _, id := range ids {
			ctx, cancel := c.within(cmd.Context())
			err := do(ctx, id)
			cancel()
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s: %s", id, explain(err)))
			}
		}
		return failed
	}}
}

func (c *client) info(ctx context.Context) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	v, err := c.rt.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return err
	}
	st, err := c.rt.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	if c.output == "json" {
		return printJSON(map[string]any{"version": v, "status": st})
	}
	t := newTable("WHAT", "VALUE")
	t.row("runtime", v.GetRuntimeName()+" "+v.GetRuntimeVersion())
	t.row("CRI version", v.GetRuntimeApiVersion())
	for _, cond := range st.GetStatus().GetConditions() {
		text := "yes"
		if !cond.GetStatus() {
			text = "no: " + cond.GetReason() + ": " + cond.GetMessage()
		}
		t.row(cond.GetType(), text)
	}
	for _, h := range st.GetRuntimeHandlers() {
		if h.GetName() != "" {
			t.row("handler "+h.GetName(), features(h.GetFeatures()))
		}
	}
	return t.print()
}

func features(f *cri.RuntimeHandlerFeatures) string {
	var list []string
	if f.GetRecursiveReadOnlyMounts() {
		list = append(list, "recursive read-only mounts")
	}
	if f.GetUserNamespaces() {
		list = append(list, "user namespaces")
	}
	return strings.Join(list, ", ")
}
