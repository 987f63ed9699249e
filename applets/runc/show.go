package runc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
)

// owner names whom a file belongs to, as "#1000" if nobody has a name for it.
func owner(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid := strconv.FormatUint(uint64(st.Uid), 10)
	if uid == "0" { // nearly always, and looking it up reads a file
		return "root"
	}
	u, err := user.LookupId(uid)
	if err != nil {
		return "#" + uid
	}
	return u.Username
}

func (a *app) list() *cobra.Command {
	var format string
	var quiet bool
	c := &cobra.Command{
		Use: "list", Short: "list the containers of the root folder", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.rt.List(c.Context())
			if err != nil {
				return err
			}
			if quiet {
				for _, s := range list {
					fmt.Fprintln(a.out, s.ID)
				}
				return nil
			}
			return a.printList(list, format)
		},
	}
	c.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the ids only")
	return c
}

func (a *app) printList(list []oci.State, format string) error {
	rows := make([]stateJSON, 0, len(list))
	for _, s := range list {
		rows = append(rows, a.stateOf(s))
	}
	switch format {
	case "table":
		w := tabwriter.NewWriter(a.out, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", r.ID, r.Pid, r.Status, r.Bundle, r.Created, r.Owner)
		}
		return w.Flush()
	case "json":
		return a.printJSON(rows, false)
	}
	return errs.Invalid("format %q is not known; use table or json", format)
}

func (a *app) ps() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "ps CONTAINER [PS-OPTION...]", Short: "show a container's processes", Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			pids, err := a.rt.Processes(c.Context(), args[0])
			if err != nil {
				return err
			}
			switch format {
			case "json":
				return a.printJSON(pids, false)
			case "table":
				return a.printPs(c.Context(), pids, args[1:])
			}
			return errs.Invalid("format %q is not known; use table or json", format)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVarP(&format, "format", "f", "table", "table or json")
	return c
}

// printPs runs ps(1) and prints the heading and the lines of the given pids.
func (a *app) printPs(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return fmt.Errorf("cannot run ps: %w", err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errs.Invalid("ps prints no PID column with these options")
	}
	fmt.Fprintln(a.out, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err == nil && slices.Contains(pids, pid) {
			fmt.Fprintln(a.out, line)
		}
	}
	return nil
}

func (a *app) features() *cobra.Command {
	return &cobra.Command{
		Use: "features", Short: "print what this runtime can do", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := a.rt.Features(c.Context())
			if err != nil {
				return err
			}
			return a.printJSON(f, true)
		},
	}
}

func (a *app) spec() *cobra.Command {
	var bundle string
	var rootless bool
	c := &cobra.Command{
		Use: "spec", Short: "write a config.json to begin with", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			path := filepath.Join(bundle, oci.ConfigFile)
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return errs.Errorf(errs.KindAlreadyExists, "cannot write %s: it exists; remove it first", path)
			}
			data, err := json.MarshalIndent(a.example(rootless), "", "\t")
			if err == nil {
				err = os.WriteFile(path, data, 0o666)
			}
			if err != nil {
				return fmt.Errorf("cannot write %s: %w", path, err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&bundle, "bundle", "b", "", "folder to write to (default the current one)")
	c.Flags().BoolVar(&rootless, "rootless", false, "for a container without privileges")
	return c
}

func (a *app) example(rootless bool) *specs.Spec { return a.rt.Example(rootless) }

func (a *app) events() *cobra.Command {
	var interval time.Duration
	var once bool
	c := a.verb("events", "print a container's statistics and out-of-memory kills", func(ctx context.Context, id string) error {
		if interval <= 0 {
			return errs.Invalid("the interval must be more than nothing")
		}
		s, err := a.rt.State(ctx, id)
		if err != nil {
			return err
		}
		if s.Status == oci.Stopped {
			return errs.Precondition("container %s is stopped", id)
		}
		if once {
			return a.printStats(id)
		}
		return a.follow(ctx, id, interval)
	})
	c.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between statistics")
	c.Flags().BoolVar(&once, "stats", false, "print the statistics once")
	return c
}

func (a *app) printStats(id string) error {
	e, err := a.rt.StatsEvent(id)
	if err != nil {
		return err
	}
	return a.printJSON(e, false)
}

// follow prints until the container ends.
func (a *app) follow(ctx context.Context, id string, interval time.Duration) error {
	oom, err := a.rt.NotifyOOM(id)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case _, ok := <-oom:
			if !ok { // the cgroup is gone
				return nil
			}
			if err := a.printJSON(oomEvent{"oom", id}, false); err != nil {
				return err
			}
		case <-tick.C:
			if s, err := a.rt.State(ctx, id); errs.Is(err, errs.KindNotFound) || err == nil && s.Status == oci.Stopped {
				return nil
			}
			if err := a.printStats(id); err != nil {
				return err
			}
		}
	}
}

type oomEvent struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}
