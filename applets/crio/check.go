package crio

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/monocrio/monocrio/internal/check"
	"github.com/monocrio/monocrio/internal/daemon"
	"github.com/monocrio/monocrio/internal/telemetry/log"
	"github.com/spf13/cobra"
)

func (c *command) checkCommand() *cobra.Command {
	var (
		o            daemon.CheckOptions
		repair, asJS bool
		wipe         bool
		age          string
	)
	cmd := &cobra.Command{Use: "check", Short: "look whether this node can run pods, and what is damaged or left over", Args: noArgs,
		Long: "Look at configuration, kernel, cgroups, runtimes, network, registries, disks, image store and leftovers, and say what is wrong and how to mend it. " +
			"It may run beside the daemon, and changes nothing without --repair. The exit status is 1 if anything is wrong.\n\n" +
			"With --repair each damaged layer or image is removed, one by one, so that the next pull brings it anew, and records that could not be read are deleted; " +
			"what containers use stays. Nothing is ever wiped.",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.MaxAge, err = time.ParseDuration(age); err != nil {
				return fmt.Errorf("--age %q is no duration: write for example 24h", age)
			}
			if wipe {
				fmt.Fprintln(cmd.ErrOrStderr(), "crio: --wipe has no effect: damage is mended one by one; crio wipe removes everything")
			}
			return c.check(cmd, o, repair || wipe, asJS)
		}}
	f := cmd.Flags()
	f.StringVarP(&age, "age", "a", "24h", "how old a layer without image may be before it counts as damage")
	f.BoolVarP(&o.Force, "force", "f", false, "let --repair remove damaged containers")
	f.BoolVarP(&repair, "repair", "r", false, "remove what is damaged, one by one")
	f.BoolVarP(&o.Quick, "quick", "q", false, "do not compare the content of each file with its digest")
	f.BoolVarP(&wipe, "wipe", "w", false, "accepted for old scripts: the same as --repair")
	f.BoolVarP(&asJS, "json", "j", false, "print JSON")
	return cmd
}

func (c *command) check(cmd *cobra.Command, o daemon.CheckOptions, repair, asJSON bool) error {
	conf, warnings, err := c.load()
	if err != nil {
		return err
	}
	l, control := log.New(cmd.ErrOrStderr(), "text")
	control.Set("error", nil)
	o.Warnings = warnings
	looks, end, err := daemon.Checks(conf, o, l)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	show := func(f *check.Finding) { f.Print(out) }
	if asJSON {
		show = func(*check.Finding) {}
	}
	all := check.Run(cmd.Context(), looks, show)
	if repair {
		check.Mend(cmd.Context(), all, show)
	}
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(all)
	}
	summary, verdict := check.Verdict(all)
	if !asJSON {
		fmt.Fprintln(out, summary)
	}
	return errors.Join(err, verdict, end())
}

func (c *command) wipeCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "wipe", Short: "remove all pods and containers of this daemon, and the images that they used", Args: noArgs,
		Long: "Without --force nothing is removed: what a reboot or an upgrade has left of pods is known from their records and is undone by the next start, and images stay. " +
			"A unit that runs it before the daemon may stay as it is.\n\n" +
			"With --force all pods and containers of this daemon are ended and removed, and the images that they used. Other programs' containers and their images stay. The daemon must not run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, l, control, err := c.start()
			if err != nil {
				return err
			}
			control.Set("warn", nil)
			return wipe(cmd, force, func() (int, int, error) { return daemon.Wipe(cmd.Context(), conf, l) })
		}}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do it")
	return cmd
}

func wipe(cmd *cobra.Command, force bool, do func() (pods, images int, err error)) error {
	out := cmd.OutOrStdout()
	if !force {
		fmt.Fprintln(out, "nothing is wiped: the next start undoes what a reboot has left; crio wipe --force removes all pods, containers and their images")
		return nil
	}
	pods, images, err := do()
	fmt.Fprintf(out, "removed %d pods and %d images\n", pods, images)
	return err
}
