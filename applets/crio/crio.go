// Package crio is the daemon's command line: flags over files, then daemon.Run.
package crio

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"strings"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon"
	"github.com/monocrio/monocrio/internal/telemetry/log"
	"github.com/monocrio/monocrio/internal/version"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Default places of the configuration.
const (
	confFile = "/etc/crio/crio.conf"
	confDir  = "/etc/crio/crio.conf.d"
)

// command is one invocation.
type command struct {
	file, dir, logFormat string
	flags                *config.Config // what flags say; only changed ones count
	set                  *pflag.FlagSet
}

// Main runs the applet crio.
func Main(args []string) int {
	// Threads that enter a pod's namespaces are not used again and end. The first one
	// cannot end: Go would park it there, and the namespace would live as long as the
	// daemon. So it stays with this goroutine, which enters none.
	runtime.LockOSThread()
	c := &command{flags: config.Default()}
	root := &cobra.Command{
		Use: "crio", Short: "Kubernetes Container Runtime Interface daemon", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true, Version: version.Version,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context()) },
	}
	root.AddCommand(c.configCommand(), c.versionCommand(), c.teardownCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	c.set = root.PersistentFlags()
	c.set.StringVarP(&c.file, "config", "c", "", "configuration file (default "+confFile+", if it is there)")
	c.set.StringVarP(&c.dir, "config-dir", "d", "", "folder of drop-ins that are read after it (default "+confDir+" beside the default file)")
	c.set.StringVar(&c.logFormat, "log-format", "text", "text or json")
	for _, o := range c.flags.Options() {
		if o.Flag != "" {
			addFlag(c.set, o)
		}
	}
	root.SetArgs(args[1:])
	if err := root.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "crio: %s\n", strings.ReplaceAll(err.Error(), "\n", "\ncrio: "))
		return 1
	}
	return 0
}

// addFlag makes the flag of an option; the option's declaration says all.
func addFlag(set *pflag.FlagSet, o config.Option) {
	switch v := o.Value.Addr().Interface().(type) {
	case *string:
		set.StringVar(v, o.Flag, *v, o.Doc)
	case *bool:
		set.BoolVar(v, o.Flag, *v, o.Doc)
	case *int:
		set.IntVar(v, o.Flag, *v, o.Doc)
	case *int64:
		set.Int64Var(v, o.Flag, *v, o.Doc)
	case *[]string:
		set.StringSliceVar(v, o.Flag, *v, o.Doc)
	case *config.Duration:
		set.TextVar(v, o.Flag, *v, o.Doc)
	default:
		panic("option " + o.Key + " has a type that no flag has")
	}
}

// load reads the files and puts the flags over them.
func (c *command) load(log *slog.Logger) (*config.Config, error) {
	file, dir, must := c.file, c.dir, c.file != ""
	if file == "" {
		file = confFile
		if dir == "" {
			dir = confDir
		}
	}
	conf, warnings, err := config.Load(file, dir, must)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		log.Warn(w)
	}
	from := c.flags.Options()
	for i, o := range conf.Options() {
		if o.Flag != "" && c.set.Changed(o.Flag) {
			o.Value.Set(reflect.Indirect(from[i].Value))
		}
	}
	return conf, conf.Complete()
}

func (c *command) logger() (*slog.Logger, *log.Level, error) {
	if c.logFormat != "text" && c.logFormat != "json" {
		return nil, nil, fmt.Errorf("--log-format %q: text or json", c.logFormat)
	}
	level := &log.Level{}
	return log.New(os.Stderr, c.logFormat, level), level, nil
}

func (c *command) serve(ctx context.Context) error {
	l, level, err := c.logger()
	if err != nil {
		return err
	}
	conf, err := c.load(l)
	if err != nil {
		return err
	}
	level.Set(log.ParseLevel(conf.Runtime.LogLevel))
	return daemon.Run(ctx, conf, l)
}

func (c *command) configCommand() *cobra.Command {
	var defaults bool
	cmd := &cobra.Command{Use: "config", Short: "print the configuration as a commented file", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		conf := config.Default()
		if !defaults {
			l, _, err := c.logger()
			if err != nil {
				return err
			}
			if conf, err = c.load(l); err != nil {
				return err
			}
		}
		text, err := conf.Text()
		fmt.Print(text)
		return err
	}}
	cmd.Flags().BoolVar(&defaults, "default", false, "print the defaults instead")
	return cmd
}

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "print the version", Args: cobra.NoArgs, Run: func(*cobra.Command, []string) {
		fmt.Printf("Version:    %s\nGitCommit:  %s\nGoVersion:  %s\nPlatform:   %s/%s\n", version.Version, version.Commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	}}
}

func (c *command) teardownCommand() *cobra.Command {
	return &cobra.Command{Use: "teardown", Short: "without pods and daemon: take down bridges, packet filter tables and mounts that are kept between runs",
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			l, level, err := c.logger()
			if err != nil {
				return err
			}
			conf, err := c.load(l)
			if err != nil {
				return err
			}
			level.Set(slog.LevelWarn)
			return daemon.Teardown(cmd.Context(), conf, l)
		}}
}
