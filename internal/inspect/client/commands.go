package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/inspect"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
)

// commands is one invocation.
type commands struct {
	socket string
	json   bool
	// words are those of the output lines, which differ between crio-status and
	// `crio status`.
	words words
}

type words struct {
	storage, root string
	image         bool // tell where images are
}

// Command makes the commands under a name: "crio-status", or "status" for a part of
// crio. Their output lines are those that scripts know from the program of that name.
func Command(name string) *cobra.Command {
	c := &commands{words: words{storage: "storage graph root", root: "graph root", image: true}}
	if name == "crio-status" {
		c.words = words{storage: "storage root", root: "root"}
	}
	root := &cobra.Command{Use: name, Short: "ask a running daemon about itself", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("a command is needed; %s --help lists them", cmd.CommandPath())
		}}
	root.PersistentFlags().StringVarP(&c.socket, "socket", "s", DefaultSocket, "where the daemon listens")
	root.AddCommand(c.podsCommand(), c.whyCommand(), c.pullsCommand(), c.mediaCommand(), c.infoCommand(), c.containersCommand(),
		&cobra.Command{Use: "config", Aliases: []string{"c"}, Short: "show the configuration in force, as TOML", Args: manual.Words(0, 0),
			RunE: func(cmd *cobra.Command, _ []string) error { return c.copy(cmd, "/config") }},
		&cobra.Command{Use: "goroutines", Aliases: []string{"g"}, Short: "show the stacks of the daemon's goroutines", Args: manual.Words(0, 0),
			RunE: func(cmd *cobra.Command, _ []string) error { return c.copy(cmd, "/debug/goroutines") }},
		c.heapCommand())
	return root
}

func (c *commands) client() *Client { return New(c.socket) }

// asJSON adds the flag to a command that has tables for people.
func (c *commands) asJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.json, "json", false, "print the daemon's answer as JSON")
	return cmd
}

// show asks for a path and prints its answer, for people by means of table.
func show[T any](cmd *cobra.Command, c *commands, path string, table func(w io.Writer, answer T) error) error {
	data, err := c.client().bytes(cmd.Context(), path)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if c.json {
		var b bytes.Buffer
		if err := json.Indent(&b, data, "", "  "); err != nil {
			return fmt.Errorf("cannot read the daemon's answer: %w", err)
		}
		b.WriteByte('\n')
		_, err := w.Write(b.Bytes())
		return err
	}
	var answer T
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("cannot read the daemon's answer: %w", err)
	}
	return table(w, answer)
}

func (c *commands) copy(cmd *cobra.Command, path string) error {
	data, err := c.client().bytes(cmd.Context(), path)
	if err == nil {
		_, err = cmd.OutOrStdout().Write(data)
	}
	return err
}

func (c *commands) infoCommand() *cobra.Command {
	return c.asJSON(&cobra.Command{Use: "info", Aliases: []string{"i"}, Short: "show the drivers and where images are stored", Args: manual.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, c, "/info", func(w io.Writer, i inspect.Info) error {
				fmt.Fprintf(w, "cgroup driver: %s\nstorage driver: %s\n%s: %s\n", i.CgroupDriver, i.StorageDriver, c.words.storage, i.StorageRoot)
				if c.words.image {
					fmt.Fprintf(w, "storage image: %s\n", i.StorageImage)
				}
				for _, m := range []struct {
					what string
					list []inspect.IDMapping
				}{{"GID", i.DefaultIDMappings.GIDs}, {"UID", i.DefaultIDMappings.UIDs}} {
					fmt.Fprintf(w, "default %s mappings (format <container>:<host>:<size>):\n", m.what)
					for _, e := range m.list {
						fmt.Fprintf(w, "  %d:%d:%d\n", e.ContainerID, e.HostID, e.Size)
					}
				}
				return nil
			})
		}})
}

func (c *commands) containersCommand() *cobra.Command {
	var id string
	cmd := c.asJSON(&cobra.Command{Use: "containers", Aliases: []string{"container", "cs", "s"}, Short: "show one container, or a pod's infra container", Args: manual.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id == "" {
				return errors.New("--id must say which container: an id, or the beginning of one")
			}
			full, err := c.client().full(cmd.Context(), id)
			if err != nil {
				return err
			}
			return show(cmd, c, "/containers/"+full, c.container)
		}})
	cmd.Flags().StringVarP(&id, "id", "i", "", "id of the container, or the beginning of it")
	_ = cmd.RegisterFlagCompletionFunc("id", c.ids) // an error only if there is no such flag
	return cmd
}

func (c *commands) container(w io.Writer, i inspect.Container) error {
	fmt.Fprintf(w, "name: %s\npid: %d\nimage: %s\nimage ref: %s\ncreated: %v\n", i.Name, i.Pid, i.Image, i.ImageRef, time.Unix(0, i.CreatedTime))
	for _, m := range []struct {
		what string
		m    map[string]string
	}{{"labels", i.Labels}, {"annotations", i.Annotations}, {"CRI-O annotations", i.CrioAnnotations}} {
		fmt.Fprintf(w, "%s:\n", m.what)
		for _, k := range slices.Sorted(maps.Keys(m.m)) {
			fmt.Fprintf(w, "  %s: %s\n", k, m.m[k])
		}
	}
	_, err := fmt.Fprintf(w, "log path: %s\n%s: %s\nsandbox: %s\nips: %s\n", i.LogPath, c.words.root, i.Root, i.Sandbox, strings.Join(i.IPs, ", "))
	return err
}

func (c *commands) heapCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "heap", Aliases: []string{"hp"}, Short: "write a dump of the daemon's heap", Args: manual.Words(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			body, err := c.client().open(cmd.Context(), "/debug/heap")
			if err != nil {
				return err
			}
			defer body.Close()
			if file == "-" {
				_, err = io.Copy(cmd.OutOrStdout(), body)
				return err
			}
			if file == "" {
				file = "crio-heap-" + time.Now().UTC().Format("20060102T150405Z") + ".out"
			}
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // what pods are told in secret may be in it
			if err != nil {
				return fmt.Errorf("cannot write the dump: %w", err)
			}
			if _, err = io.Copy(f, body); err == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), file)
			}
			return errors.Join(err, f.Close())
		}}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to write; -: standard output; empty: crio-heap-TIME.out")
	return cmd
}

// ids completes ids and names of pods, and ids of containers.
func (c *commands) ids(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	all, err := c.client().pods(ctx)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []string
	add := func(id, name string) {
		if strings.HasPrefix(id, begin) {
			list = append(list, ident.Short(id)+"\t"+name)
		}
	}
	for _, p := range all.Pods {
		name := p.Namespace + "/" + p.Name
		add(p.ID, name)
		for i := range p.Containers {
			add(p.Containers[i].ID, name+"/"+p.Containers[i].Name)
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
