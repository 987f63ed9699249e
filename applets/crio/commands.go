package crio

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/monocrio/monocrio/internal/version/build"
	"github.com/spf13/cobra"
)

// noArgs says what is wrong with a word that is no command.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("there is no command %q; %s --help lists them", args[0], cmd.CommandPath())
	}
	return nil
}

func (c *command) configCommand() *cobra.Command {
	var defaults bool
	cmd := &cobra.Command{Use: "config", Short: "print the configuration as a commented file", Args: noArgs,
		Long: "Print the configuration that the files, the environment and the flags make, as a file that means the same. " +
			"Options that have their defaults are comments. Wrong values are told, and nothing is printed. The node is not touched.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf := config.Default()
			if !defaults {
				var err error
				if conf, _, _, err = c.start(); err != nil {
					return err
				}
			}
			text, err := conf.Text()
			fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		}}
	cmd.Flags().BoolVar(&defaults, "default", false, "print the defaults instead")
	return cmd
}

func versionCommand() *cobra.Command {
	var asJSON, verbose bool
	cmd := &cobra.Command{Use: "version", Short: "print the version and how it was built", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		i := build.Get()
		i.Linkmode, i.AppArmorEnabled = linkmode("/proc/self/exe"), lsm.AppArmorEnabled()
		_, err := os.Stat("/proc/sys/kernel/seccomp")
		i.SeccompEnabled = err == nil
		if !asJSON {
			i.Print(cmd.OutOrStdout(), verbose)
			return nil
		}
		if !verbose {
			i.Dependencies = nil
		}
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(i)
	}}
	cmd.Flags().BoolVarP(&asJSON, "json", "j", false, "print JSON")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the modules that are linked in as well")
	return cmd
}

// linkmode is static if an executable names no interpreter, elf(5).
func linkmode(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "dynamic"
		}
	}
	return "static"
}

// completionCommand prints what a shell reads to complete our command lines.
func completionCommand() *cobra.Command {
	return &cobra.Command{Use: "completion bash|fish|zsh", Aliases: []string{"complete"}, Short: "print a script that completes command lines in a shell",
		Long:      "Print a script for a shell. For bash: crio completion bash >/etc/bash_completion.d/crio.",
		ValidArgs: []string{"bash", "fish", "zsh"}, Args: cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return completion(cmd.Root(), cmd.OutOrStdout(), args[0])
		}}
}

func completion(root *cobra.Command, w io.Writer, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "fish":
		return root.GenFishCompletion(w, true)
	}
	return root.GenZshCompletion(w)
}

func manCommand() *cobra.Command {
	return &cobra.Command{Use: "man [crio|crio.conf|crio.conf.d]", Short: "print a manual page for man(1)",
		ValidArgs: pageNames, Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return page(cmd.Root(), args).Man(cmd.OutOrStdout())
		}}
}

func markdownCommand() *cobra.Command {
	return &cobra.Command{Use: "markdown [crio|crio.conf|crio.conf.d]", Aliases: []string{"md"}, Short: "print a manual page as Markdown",
		ValidArgs: pageNames, Args: cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return page(cmd.Root(), args).Markdown(cmd.OutOrStdout())
		}}
}

// pageNames are the pages that there are, the usual one first.
var pageNames = []string{"crio", "crio.conf", "crio.conf.d"}

func page(root *cobra.Command, args []string) manual.Page {
	switch name := append(args, "crio")[0]; name {
	case "crio.conf":
		return confPage()
	case "crio.conf.d":
		return dropInPage()
	}
	return manual.Command(root, 8, daemonSections()...)
}

// publishCommand is called by shims of virtual machines to tell of events; the daemon
// asks the shims itself.
func publishCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "publish", Hidden: true, Short: "take an event of a shim and do nothing", RunE: func(cmd *cobra.Command, _ []string) error {
		_, err := io.Copy(io.Discard, cmd.InOrStdin())
		return err
	}}
	cmd.Flags().String("topic", "", "")
	cmd.Flags().String("namespace", "", "")
	return cmd
}
