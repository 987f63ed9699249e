package ocic

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/monocrio/monocrio/internal/podfile"
	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *client) ctrCommand() *cobra.Command {
	ctr := &cobra.Command{Use: "ctr", Short: "containers"}
	var grace int64
	stop := c.verb("stop ID...", "stop containers", func(ctx context.Context, id string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout+time.Duration(grace)*time.Second)
		defer cancel()
		_, err := c.rt.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: grace})
		return err
	})
	stop.Flags().Int64Var(&grace, "grace", 10, "seconds before SIGKILL")
	ctr.AddCommand(c.ctrCreate(), c.ctrList(), c.ctrExec(), c.ctrAttach(), c.ctrLogs(), stop,
		c.verb("start ID...", "start containers", func(ctx context.Context, id string) error {
			_, err := c.rt.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			return err
		}),
		c.verb("status ID...", "show containers", c.ctrStatus),
		c.verb("remove ID...", "kill and remove containers", func(ctx context.Context, id string) error {
			_, err := c.rt.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			return err
		}))
	return ctr
}

func (c *client) ctrCreate() *cobra.Command {
	var pod, config string
	cmd := &cobra.Command{Use: "create --pod ID --config FILE", Short: "make a container in a pod; prints its id", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		req := &cri.CreateContainerRequest{PodSandboxId: pod, Config: &cri.ContainerConfig{}}
		if err := podfile.Read(config, req.Config); err != nil {
			return err
		}
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.CreateContainer(ctx, req)
		if err == nil {
			fmt.Println(resp.GetContainerId())
		}
		return err
	}}
	cmd.Flags().StringVar(&pod, "pod", "", "id of the pod")
	cmd.Flags().StringVar(&config, "config", "", "JSON file with a ContainerConfig")
	must(cmd, "pod")
	must(cmd, "config")
	return cmd
}

func (c *client) ctrStatus(ctx context.Context, id string) error {
	resp, err := c.rt.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: c.output == "json"})
	if err != nil {
		return err
	}
	if c.output == "json" {
		return printJSON(resp)
	}
	st := resp.GetStatus()
	t := newTable("CONTAINER", st.GetId())
	t.row("name", st.GetMetadata().GetName())
	t.row("attempt", fmt.Sprint(st.GetMetadata().GetAttempt()))
	t.row("image", st.GetImage().GetImage())
	t.row("state", ctrState(st.GetState()))
	t.row("created", ago(st.GetCreatedAt()))
	t.row("started", ago(st.GetStartedAt()))
	if st.GetState() == cri.ContainerState_CONTAINER_EXITED {
		t.row("finished", ago(st.GetFinishedAt()))
		t.row("exit code", fmt.Sprint(st.GetExitCode()))
		t.row("reason", st.GetReason())
		t.row("message", st.GetMessage())
	}
	t.row("log", st.GetLogPath())
	return t.print()
}

func ctrState(s cri.ContainerState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "CONTAINER_"))
}

func (c *client) ctrList() *cobra.Command {
	var quiet bool
	var pod string
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "list containers", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: pod}})
		if err != nil || c.output == "json" {
			return orJSON(resp, err)
		}
		t := newTable("CONTAINER", "CREATED", "STATE", "NAME", "ATTEMPT", "IMAGE", "POD")
		for _, e := range resp.GetContainers() {
			if quiet {
				fmt.Println(e.GetId())
				continue
			}
			t.row(ident.Short(e.GetId()), ago(e.GetCreatedAt()), ctrState(e.GetState()), e.GetMetadata().GetName(),
				fmt.Sprint(e.GetMetadata().GetAttempt()), e.GetImage().GetImage(), ident.Short(e.GetPodSandboxId()))
		}
		if quiet {
			return nil
		}
		return t.print()
	}}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	cmd.Flags().StringVar(&pod, "pod", "", "only those of this pod")
	return cmd
}

func (c *client) ctrExec() *cobra.Command {
	var seconds int64
	var stdin, tty bool
	cmd := &cobra.Command{Use: "exec ID COMMAND [ARG...]", Short: "run a command in a container; exits with its code", Args: manual.Words(2, -1), RunE: func(cmd *cobra.Command, args []string) error {
		if stdin || tty {
			return c.execStreams(cmd.Context(), args[0], args[1:], stdin, tty)
		}
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: args[0], Cmd: args[1:], Timeout: seconds})
		if err != nil {
			return err
		}
		os.Stdout.Write(resp.GetStdout())
		os.Stderr.Write(resp.GetStderr())
		if code := resp.GetExitCode(); code != 0 {
			return exitCode(code)
		}
		return nil
	}}
	cmd.Flags().SetInterspersed(false) // flags after the id are the command's
	cmd.Flags().Int64Var(&seconds, "limit", 0, "seconds after which the command is killed; 0: never; not with --stdin or --tty")
	streamFlags(cmd, &stdin, &tty)
	return cmd
}

func (c *client) ctrLogs() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{Use: "logs ID", Short: "print a container's log", Args: manual.Words(1, 1), RunE: func(cmd *cobra.Command, args []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: args[0]})
		if err != nil {
			return err
		}
		f, err := os.Open(resp.GetStatus().GetLogPath())
		if err != nil {
			return fmt.Errorf("cannot open the log of container %s: %w", args[0], err)
		}
		defer f.Close()
		return c.printLog(cmd.Context(), f, args[0], follow)
	}}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the container ends")
	return cmd
}

// printLog prints what lines of a CRI log say, each on the stream that it came from.
func (c *client) printLog(ctx context.Context, f io.Reader, id string, follow bool) error {
	r := bufio.NewReaderSize(f, 64<<10)
	half := ""
	for {
		line, err := r.ReadString('\n')
		if half += line; strings.HasSuffix(half, "\n") {
			if err := printLine(half); err != nil {
				return err
			}
			half = ""
		}
		switch {
		case err == nil:
		case err != io.EOF:
			return err
		case !follow:
			return nil
		default:
			st, err := c.rt.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
			if err != nil {
				return err
			}
			follow = st.GetStatus().GetState() == cri.ContainerState_CONTAINER_RUNNING
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// printLine prints one record: TIME STREAM TAG TEXT. P marks a part of a line.
func printLine(line string) error {
	part := strings.SplitN(line, " ", 4)
	if len(part) != 4 {
		return fmt.Errorf("this is no line of a CRI log: %q", line)
	}
	w, text := os.Stdout, part[3]
	if part[1] == "stderr" {
		w = os.Stderr
	}
	if part[2] == "P" {
		text = strings.TrimSuffix(text, "\n")
	}
	_, err := io.WriteString(w, text)
	return err
}
