// Package runc is the OCI runtime command line over the embedded runtime: runc's
// verbs, options and output, so that monitors and engines that call runc can call
// this instead.
//
// It parses and prints; every verb is one call of oci/libct. It is the only place
// that knows runc's manual (runc(8) and its pages). Nothing is built that the
// chosen verb does not need: "create" is on the way of every container's start.
package runc

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci/libct"
	"github.com/monocrio/monocrio/internal/version"
)

// app is one call of the command line: the global options and what follows from
// them.
type app struct {
	root      string
	systemd   bool
	logFile   string
	logFormat string
	debug     bool
	rootless  string
	code      int // exit status of a verb that ran something

	in       io.Reader
	out, err io.Writer
	logs     libct.Diagnostics
	rt       *libct.Runtime
}

// Main runs the command line; args[0] is the applet's name. Errors go to the log
// and, if that is a file, to standard error too; the status is then 1.
func Main(args []string) int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	if err := a.command(args[1:]).ExecuteContext(context.Background()); err != nil {
		a.logs.Error(err)
		if a.logs.To != nil {
			fmt.Fprintln(a.err, err)
		}
		if a.code == 0 {
			a.code = 1
		}
	}
	return a.code
}

func (a *app) command(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:               "runc",
		Short:             "run containers as the Open Container Initiative specifies",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: a.begin,
		Args:              cobra.NoArgs,
	}
	f := root.PersistentFlags()
	f.StringVar(&a.root, "root", "", "folder of the containers' state (default /run/runc)")
	f.BoolVar(&a.systemd, "systemd-cgroup", false, "let systemd make the cgroups; cgroupsPath is slice:prefix:name")
	f.StringVar(&a.logFile, "log", "", "file for messages (default standard error)")
	f.StringVar(&a.logFormat, "log-format", "text", "form of the messages: text, json, or plain (no time, no level)")
	f.BoolVar(&a.debug, "debug", false, "write debugging messages")
	f.StringVar(&a.rootless, "rootless", "auto", "ignore missing rights over cgroups: true, false or auto")
	showVersion := root.Flags().BoolP("version", "v", false, "print the version")
	root.RunE = func(c *cobra.Command, _ []string) error {
		if *showVersion { // printed by us: the library's way needs templates
			return a.printVersion()
		}
		return c.Help()
	}
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.AddCommand(
		a.create(), a.start(), a.state(), a.kill(), a.remove(), a.run(), a.exec(), a.update(),
		a.pause(), a.resume(), a.checkpoint(), a.restore(), a.list(), a.ps(), a.events(), a.spec(), a.features(),
	)
	return root
}

// begin runs before every verb: the log first, so that all that follows is told.
func (a *app) begin(*cobra.Command, []string) error {
	a.logs.Debug = a.debug
	switch a.logFormat {
	case "text":
	case "json":
		a.logs.JSON = true
	case "plain":
		a.logs.Plain = true
	default:
		return errs.Invalid("log format %q is not known; use text, json or plain", a.logFormat)
	}
	if a.logFile != "" {
		f, err := os.OpenFile(a.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return fmt.Errorf("cannot open log: %w", err)
		}
		a.logs.To = f
	}
	a.logs.Apply()
	rootless, err := a.isRootless()
	if err != nil {
		return err
	}
	if a.root == "" {
		a.root = "/run/runc"
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && rootless {
			a.root = filepath.Join(dir, "runc")
		}
	}
	if a.root, err = filepath.Abs(a.root); err != nil {
		return fmt.Errorf("cannot use root folder: %w", err)
	}
	a.rt = libct.New(libct.Options{Root: a.root, Systemd: a.systemd, Rootless: rootless})
	return nil
}

func (a *app) isRootless() (bool, error) {
	switch a.rootless {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "auto":
		return os.Geteuid() != 0, nil
	}
	return false, errs.Invalid("rootless %q is not known; use true, false or auto", a.rootless)
}

func (a *app) printVersion() error {
	_, err := fmt.Fprintf(a.out, "runc version %s\ncommit: %s\nspec: %s\ngo: %s\ncgroup: %s\n",
		version.Version, version.Commit, specs.Version, runtime.Version(), cgroup.Mode())
	return err
}

// oneID checks for exactly one argument, the container's name.
func oneID(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errs.Invalid("one container id is needed, %d arguments were given", len(args))
	}
	return nil
}

// verb makes a command that does one thing to one container.
func (a *app) verb(use, short string, do func(ctx context.Context, id string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " CONTAINER", Short: short, Args: oneID,
		RunE: func(c *cobra.Command, args []string) error { return do(c.Context(), args[0]) },
	}
}
