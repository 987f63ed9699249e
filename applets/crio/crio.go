// Package crio is the daemon's command line: flags over files, then daemon.Run.
package crio

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime"
	"strings"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon"
	"github.com/monocrio/monocrio/internal/inspect/client"
	"github.com/monocrio/monocrio/internal/manual"
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
	file, dir string
	flags     *config.Config // what flags say; only changed ones count
	set       *pflag.FlagSet
}

// Main runs the applet crio.
func Main(args []string) int {
	// Threads that enter a pod's namespaces are not used again and end. The first one
	// cannot end: Go would park it there, and the namespace would live as long as the
	// daemon. So it stays with this goroutine, which enters none.
	runtime.LockOSThread()
	c := &command{flags: config.Default()}
	root := c.tree()
	root.SetArgs(args[1:])
	if err := root.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "crio: %s\n", strings.ReplaceAll(err.Error(), "\n", "\ncrio: "))
		return 1
	}
	return 0
}

// tree makes the commands and the flags.
func (c *command) tree() *cobra.Command {
	root := &cobra.Command{
		Use: "crio", Short: "Kubernetes Container Runtime Interface daemon", Long: about, Args: noArgs,
		SilenceUsage: true, SilenceErrors: true, Version: version.Version,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context()) },
	}
	root.AddCommand(c.configCommand(), versionCommand(), c.checkCommand(), c.wipeCommand(), client.Command("status"), c.teardownCommand(), verifyCommand(), completionCommand(), manCommand(), markdownCommand(), publishCommand(), pullCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	// Flags of the daemon stand before the command, so that commands may use their letters.
	root.TraverseChildren = true
	c.set = root.Flags()
	c.set.BoolP("version", "v", false, "print the version")
	c.set.StringVarP(&c.file, "config", "c", "", "configuration file (default "+confFile+", if it is there)")
	c.set.StringVarP(&c.dir, "config-dir", "d", "", "folder of drop-ins that are read after it (default "+confDir+" beside the default file)")
	for _, o := range c.flags.Options() {
		if o.Flag != "" {
			addFlag(c.set, &o)
		}
	}
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "tz" {
			name = "timezone"
		}
		return pflag.NormalizedName(name)
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok && cmd != root && c.set.Lookup(name) != nil {
			return fmt.Errorf("--%s is the daemon's: it stands before the command: crio --%s ... %s", name, name, cmd.Name())
		}
		return err
	})
	return root
}

// addFlag makes the flag of an option; the option's declaration says all.
func addFlag(set *pflag.FlagSet, o *config.Option) {
	help := o.Help()
	switch v := o.Value.Addr().Interface().(type) {
	case *string:
		set.StringVarP(v, o.Flag, o.Letter, *v, help)
	case *bool:
		set.BoolVarP(v, o.Flag, o.Letter, *v, help)
	case *int:
		set.IntVarP(v, o.Flag, o.Letter, *v, help)
	case *int64:
		set.Int64VarP(v, o.Flag, o.Letter, *v, help)
	case *[]string:
		set.StringSliceVarP(v, o.Flag, o.Letter, *v, help)
	case *config.Duration:
		set.TextVarP(v, o.Flag, o.Letter, *v, help)
	default:
		panic("option " + o.Name() + " has a type that no flag has")
	}
	if len(o.Env) > 0 {
		set.Lookup(o.Flag).Annotations = map[string][]string{manual.EnvAnnotation: o.Env}
	}
}

// files are crio.conf and the folder of drop-ins.
func (c *command) files() (file, dir string) {
	if c.file != "" {
		return c.file, c.dir
	}
	return confFile, cmp.Or(c.dir, confDir)
}

// load reads the files and puts the environment and the flags over them; warnings are
// for the log.
func (c *command) load() (conf *config.Config, warnings []string, err error) {
	file, dir := c.files()
	if conf, warnings, err = config.Load(file, dir, c.file != ""); err != nil {
		return nil, nil, err
	}
	if err := conf.SetEnv(os.LookupEnv); err != nil {
		return nil, nil, err
	}
	from := c.flags.Options()
	for i, o := range conf.Options() {
		if o.Flag != "" && c.set.Changed(o.Flag) {
			o.Value.Set(reflect.Indirect(from[i].Value))
			conf.SetBy(&o)
		}
	}
	if err := errors.Join(daemon.FromSystem(conf), conf.Complete()); err != nil {
		return nil, nil, err
	}
	return conf, append(warnings, conf.Warnings()...), nil
}

// start loads the configuration and opens the log that it asks for.
func (c *command) start() (*config.Config, *slog.Logger, *log.Control, error) {
	conf, warnings, err := c.load()
	if err != nil {
		return nil, nil, nil, err
	}
	out := os.Stderr
	if path := conf.Process.Log; path != "" {
		if out, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640); err != nil {
			return nil, nil, nil, fmt.Errorf("cannot open the log: %w", err)
		}
	}
	l, control := log.New(out, conf.Process.LogFormat)
	if conf.Process.LogFormat == "text" && log.IsJournal(out, os.Getenv("JOURNAL_STREAM")) {
		if jl, jc, err := log.NewJournal("", out); err == nil { // else it gets lines
			l, control = jl, jc
		}
	}
	control.Set(conf.Runtime.LogLevel, conf.LogFilter())
	for _, w := range warnings {
		l.Warn(w)
	}
	return conf, l, control, nil
}

func (c *command) serve(ctx context.Context) error {
	if err := joinMounts(); err != nil {
		fmt.Fprintf(os.Stderr, "crio: KUBENSMNT: %v; going on in the present mount namespace\n", err)
	}
	conf, l, control, err := c.start()
	if err != nil {
		return err
	}
	stop, err := profile(&conf.Process, l)
	if err != nil {
		return err
	}
	defer stop()
	if err := settle(); err != nil {
		return err
	}
	file, dir := c.files()
	return daemon.Run(ctx, conf, daemon.Source{File: file, Dir: dir, Load: c.load, Level: control}, l)
}
