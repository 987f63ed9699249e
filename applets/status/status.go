// Package status is crio-status: it asks a running daemon about itself. The commands
// are those of internal/inspect/client.
package status

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/monocrio/monocrio/internal/inspect/client"
	"github.com/monocrio/monocrio/internal/manual"
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
	root := tree()
	root.SetArgs(args[1:])
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "\n"+name+": "))
		return 1
	}
	return 0
}

func tree() *cobra.Command {
	root := client.Command(name)
	root.Version = version.Version
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(completion(),
		&cobra.Command{Use: "man", Short: "print the manual page for man(1)", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return page(cmd.Root()).Man(cmd.OutOrStdout()) }},
		&cobra.Command{Use: "markdown", Aliases: []string{"md"}, Short: "print the manual page as Markdown", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return page(cmd.Root()).Markdown(cmd.OutOrStdout()) }})
	root.InitDefaultHelpCmd()
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Aliases = []string{"h"}
	}
	return root
}

func completion() *cobra.Command {
	return &cobra.Command{Use: "completion [bash|fish|zsh]", Aliases: []string{"complete"}, Short: "print a script that completes command lines in a shell, bash if none is named",
		Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs), ValidArgs: []string{"bash", "fish", "zsh"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return script(cmd.Root(), cmd.OutOrStdout(), strings.Join(args, ""))
		}}
}

func script(root *cobra.Command, w io.Writer, shell string) error {
	switch shell {
	case "fish":
		return root.GenFishCompletion(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	}
	return root.GenBashCompletionV2(w, true)
}

// page is crio-status(8).
func page(root *cobra.Command) manual.Page {
	return manual.Command(root, 8,
		manual.Heading("What the tables say"),
		manual.Text("A pod or container that stands still is in a step, which waits for something. Steps of a pod are files, cgroup, namespaces, network, ...; of a container rootfs, bundle, process, ...; each is undone in the reverse order. Calls are start, stop and remove. \"undo\" before a step means that it is taken back, after a failure or for a removal."),
		manual.Text("What could not be made is shown as failed for an hour, or until it could. What is owed is tried again by the daemon, less and less often: a CNI plugin that did not take a pod off its network does not hold the pod."),
		manual.Text("Steps are kept in memory. After a restart of the daemon, only states and results of what was done before are known."),
		manual.Heading("Exit status"),
		manual.Text("0, or 1 if the daemon could not be asked or does not know what was asked for; the message tells which."),
		manual.Heading("Files"),
		manual.Term(client.DefaultSocket, "The daemon's socket. It answers HTTP: /info, /containers/ID, /config, /pause/ID, /unpause/ID, /debug/goroutines, /debug/heap; and below /v1 pods, pods/ID, pulls and media, whose JSON only grows."),
		manual.Heading("Examples"),
		manual.Code("crio-status pods -p                  # what is under way or went wrong\ncrio-status why web                  # why does this pod not come up?\ncrio-status pulls -w                 # how far are the images?\ncrio-status pods --json | jq '.pods[] | select(.doing) | .doing'\ncurl --unix-socket /var/run/crio/crio.sock http://crio/pause/ID"),
		manual.Heading("See also"),
		manual.Text("crio(8), crio.conf(5)"))
}
