// Package status is crio-status: it asks a running daemon about itself. The commands
// are those of internal/inspect/client.
package status

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"github.com/monocrio/monocrio/internal/inspect/client"
	"github.com/monocrio/monocrio/internal/version"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// name is the applet's.
const name = "crio-status"

// Main runs the applet crio-status.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := client.Command(name)
	root.Version = version.Version
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(completion())
	root.SetArgs(args[1:])
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "\n"+name+": "))
		return 1
	}
	return 0
}

func completion() *cobra.Command {
	shells := []string{"bash", "fish", "zsh"}
	return &cobra.Command{Use: "complete [bash|fish|zsh]", Aliases: []string{"completion"}, Short: "print the completion script of a shell (bash if none is named)",
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs), ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			switch strings.Join(args, "") {
			case "fish":
				return root.GenFishCompletion(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			}
			return root.GenBashCompletionV2(w, true)
		}}
}
