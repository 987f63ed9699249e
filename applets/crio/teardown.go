package crio

import (
	"github.com/monocrio/monocrio/internal/daemon"
	"github.com/spf13/cobra"
)

func (c *command) teardownCommand() *cobra.Command {
	return &cobra.Command{Use: "teardown", Short: "without pods and daemon: take down bridges, packet filter tables and mounts that are kept between runs",
		Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			conf, l, control, err := c.start()
			if err != nil {
				return err
			}
			control.Set("warn", nil)
			return daemon.Teardown(cmd.Context(), conf, l)
		}}
}
