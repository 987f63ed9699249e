package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/inspect"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
)

// watchTime is the pause between two looks of `pulls -w`.
const watchTime = time.Second

func (c *commands) pullsCommand() *cobra.Command {
	var watch bool
	cmd := c.asJSON(&cobra.Command{Use: "pulls", Args: manual.Words(0, 0),
		Short: "show images on their way: layers, bytes, rate, registry, time left; and how the last pulls ended",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !watch {
				return show(cmd, c, "/v1/pulls", pullTable)
			}
			return c.watch(cmd)
		}})
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again every second, until interrupted")
	return cmd
}

// watch shows pulls again and again; as JSON it prints one line per look.
func (c *commands) watch(cmd *cobra.Command) error {
	w, client := cmd.OutOrStdout(), c.client()
	for {
		p, err := client.Pulls(cmd.Context())
		if err != nil {
			return err
		}
		if c.json {
			err = json.NewEncoder(w).Encode(p)
		} else {
			if columns(w) > 0 {
				fmt.Fprint(w, "\x1b[H\x1b[J") // from the top of an empty screen
			}
			err = pullTable(w, p)
		}
		if err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(watchTime):
		}
	}
}

func pullTable(w io.Writer, all inspect.Pulls) error {
	if len(all.Pulls) == 0 {
		fmt.Fprintln(w, "no image is being pulled")
	} else {
		t := newTable(w, "STATE", "FOR", "DONE", "RATE", "LEFT", "FROM", "IMAGE AND LAYERS")
		for i := range all.Pulls {
			pullRows(t, &all.Pulls[i], all.Now)
		}
		if err := t.print(); err != nil {
			return err
		}
	}
	if len(all.Recent) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "ENDED", "AGO", "TOOK", "BYTES", "IMAGE", "DETAIL")
	for i := len(all.Recent) - 1; i >= 0; i-- {
		p := &all.Recent[i]
		state, detail, add := "pulled", "id "+ident.Short(p.ID), t.row
		if len(p.Hosts) == 1 && strings.HasPrefix(p.Hosts[0], "/") {
			state = "imported"
		}
		if p.Error != "" {
			state, detail, add = "failed", line(p.Error), t.failure
		}
		add(state, age(all.Now.Sub(*p.Ended)), took(p.Ended.Sub(p.Started).Seconds()), Size(p.Done), p.Image, detail)
	}
	return t.print()
}

// Brief tells in a few words how far the pull of an image is; nothing if none is under
// way. Another runtime than ours is an error.
func (c *Client) Brief(ctx context.Context, image string) (string, error) {
	all, err := c.Pulls(ctx)
	if err != nil {
		return "", err
	}
	for i := range all.Pulls {
		p := &all.Pulls[i]
		if p.Image != image {
			continue
		}
		text := pullState(p)
		if p.Total != nil && text != "finishing" {
			text += " " + ofTotal(p.Done, p.Total)
			if rate, left := pace(p, all.Now); rate != "" {
				text += ", " + rate + ", " + left + " left"
			}
		}
		return text, nil
	}
	return "", nil
}

func pullRows(t *table, p *inspect.Pull, now time.Time) {
	rate, left := pace(p, now)
	t.row(pullState(p), age(now.Sub(p.Started)), ofTotal(p.Done, p.Total), rate, left, strings.Join(p.Hosts, ", "), p.Image)
	for _, l := range p.Layers {
		done := Size(l.Size)
		if l.State == "fetching" || l.State == "waiting" {
			done = ofTotal(l.Done, &l.Size)
		}
		t.row("  "+l.State, "", done, "", "", "", "  "+ident.Short(l.Digest))
	}
}

// pace is how fast bytes come and how long they still will; nothing when all are there.
// How long unpacking takes is not foreseen.
func pace(p *inspect.Pull, now time.Time) (rate, left string) {
	if p.Total != nil && p.Done == *p.Total {
		return "", ""
	}
	if silent := now.Sub(p.LastByte); silent > 5*time.Second {
		return "silent " + age(silent), "?"
	}
	if rate, left = Size(int64(p.Rate))+"/s", "?"; p.Left != nil {
		left = age(time.Duration(*p.Left*float64(time.Second)) + time.Second)
	}
	return rate, left
}

// pullState is where a pull stands: what the first layer that is not done waits for.
func pullState(p *inspect.Pull) string {
	switch {
	case len(p.Layers) > 0:
	case p.Done > 0:
		return "fetching"
	default:
		return "asking"
	}
	for _, l := range p.Layers {
		if l.State == "fetching" || l.State == "waiting" {
			return "fetching"
		}
	}
	for _, l := range p.Layers {
		if l.State == "unpacking" || l.State == "fetched" {
			return "unpacking"
		}
	}
	return "finishing"
}

func ofTotal(done int64, total *int64) string {
	if total == nil || *total < 0 {
		return Size(done)
	}
	if *total == 0 {
		return "nothing new"
	}
	return fmt.Sprintf("%s of %s, %d%%", Size(done), Size(*total), done*100 / *total)
}
