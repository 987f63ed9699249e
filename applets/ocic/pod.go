package ocic

import (
	"context"
	"fmt"
	"strings"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/monocrio/monocrio/internal/podfile"
	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *client) podCommand() *cobra.Command {
	pod := &cobra.Command{Use: "pod", Short: "pod sandboxes"}
	var config, handler string
	run := &cobra.Command{Use: "run --config FILE", Short: "make a pod; prints its id", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		req := &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{}, RuntimeHandler: handler}
		if err := podfile.Read(config, req.Config); err != nil {
			return err
		}
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.RunPodSandbox(ctx, req)
		if err == nil {
			fmt.Println(resp.GetPodSandboxId())
		}
		return err
	}}
	run.Flags().StringVar(&config, "config", "", "JSON file with a PodSandboxConfig")
	run.Flags().StringVar(&handler, "runtime", "", "runtime handler")
	must(run, "config")
	pod.AddCommand(run, c.podList(), c.podForward(),
		c.verb("status ID...", "show pods", c.podStatus),
		c.verb("stop ID...", "stop pods with their containers", func(ctx context.Context, id string) error {
			_, err := c.rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
			return err
		}),
		c.verb("remove ID...", "remove pods with their containers", func(ctx context.Context, id string) error {
			_, err := c.rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
			return err
		}))
	return pod
}

// must makes a flag obligatory; it fails only for a flag that does not exist.
func must(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err)
	}
}

func (c *client) podStatus(ctx context.Context, id string) error {
	resp, err := c.rt.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: c.output == "json"})
	if err != nil {
		return err
	}
	if c.output == "json" {
		return printJSON(resp)
	}
	st := resp.GetStatus()
	t := newTable("POD", st.GetId())
	t.row("name", st.GetMetadata().GetName())
	t.row("namespace", st.GetMetadata().GetNamespace())
	t.row("uid", st.GetMetadata().GetUid())
	t.row("attempt", fmt.Sprint(st.GetMetadata().GetAttempt()))
	t.row("state", podState(st.GetState()))
	t.row("created", ago(st.GetCreatedAt()))
	t.row("addresses", strings.Join(addresses(st.GetNetwork()), ", "))
	t.row("handler", st.GetRuntimeHandler())
	return t.print()
}

func addresses(n *cri.PodSandboxNetworkStatus) (list []string) {
	if n.GetIp() != "" {
		list = append(list, n.GetIp())
	}
	for _, a := range n.GetAdditionalIps() {
		list = append(list, a.GetIp())
	}
	return list
}

func podState(s cri.PodSandboxState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SANDBOX_"))
}

func (c *client) podList() *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "list pods", Args: manual.Words(0, 0), RunE: func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := c.within(cmd.Context())
		defer cancel()
		resp, err := c.rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil || c.output == "json" {
			return orJSON(resp, err)
		}
		t := newTable("POD", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "HANDLER")
		for _, p := range resp.GetItems() {
			if quiet {
				fmt.Println(p.GetId())
				continue
			}
			t.row(ident.Short(p.GetId()), ago(p.GetCreatedAt()), podState(p.GetState()), p.GetMetadata().GetName(), p.GetMetadata().GetNamespace(),
				fmt.Sprint(p.GetMetadata().GetAttempt()), p.GetRuntimeHandler())
		}
		if quiet {
			return nil
		}
		return t.print()
	}}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "whole ids only")
	return cmd
}

func orJSON(v any, err error) error {
	if err != nil {
		return err
	}
	return printJSON(v)
}
