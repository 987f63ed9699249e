package crio

import (
	"log/slog"
	"os"

	"github.com/monocrio/monocrio/internal/puller"
	"github.com/spf13/cobra"
)

// pullCommand is how the daemon runs itself for a pull in another cgroup.
func pullCommand() *cobra.Command {
	return &cobra.Command{Use: puller.Command, Hidden: true, Short: "pull an image for the daemon", RunE: func(*cobra.Command, []string) error {
		return puller.Run(os.Stdin, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	}}
}
