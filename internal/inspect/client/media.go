package client

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/inspect"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
)

func (c *commands) mediaCommand() *cobra.Command {
	return c.asJSON(&cobra.Command{Use: "media", Args: manual.Words(0, 0),
		Short: "show the files in images_dir: which images are in them, what was imported, what went wrong",
		RunE:  func(cmd *cobra.Command, _ []string) error { return show(cmd, c, "/v1/media", mediaTable) }})
}

func mediaTable(w io.Writer, all inspect.Media) error {
	switch {
	case all.Dir == "":
		fmt.Fprintln(w, "no images come by files: [crio.image] images_dir names no folder")
	case all.Problem != "":
		fmt.Fprintln(w, all.Problem)
	case len(all.Media) == 0: // it has not been looked at yet
		fmt.Fprintln(w, all.Dir+" is being looked at")
	}
	if len(all.Media) == 0 {
		return nil
	}
	t := newTable(w, "STATE", "ID", "FILE AND IMAGES")
	for i := range all.Media {
		mediumRows(t, &all.Media[i], all)
	}
	return t.print()
}

func mediumRows(t *table, m *inspect.Medium, all inspect.Media) {
	name := m.Path
	if rel, err := filepath.Rel(all.Dir, m.Path); err == nil && rel != "." {
		name = rel
	}
	if m.Error == "" {
		t.row(m.State, "", name)
	} else {
		next := "when it changes"
		if m.Retry != nil {
			next = "in " + age(max(0, m.Retry.Sub(all.Now))+time.Second)
		}
		t.failure(m.State, "", fmt.Sprintf("%s (next try %s): %s", name, next, line(m.Error)))
	}
	for _, i := range m.Images {
		t.row("  "+i.State, ident.Short(i.ID), "  "+strings.Join(i.Names, ", "))
	}
}
