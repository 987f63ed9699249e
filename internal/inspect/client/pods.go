package client

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/ident"
	"github.com/monocrio/monocrio/internal/inspect"
	"github.com/monocrio/monocrio/internal/manual"
	"github.com/spf13/cobra"
)

func (c *commands) podsCommand() *cobra.Command {
	var problems bool
	cmd := c.asJSON(&cobra.Command{Use: "pods", Aliases: []string{"p", "ps"}, Args: manual.Words(0, 0),
		Short: "show pods and containers: state, since when, the step they stand on, what they wait for",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(cmd, c, "/v1/pods", func(w io.Writer, all inspect.Pods) error { return podTable(w, all, problems) })
		}})
	cmd.Flags().BoolVarP(&problems, "problems", "p", false, "only what is under way or went wrong")
	return cmd
}

// podTable is the tree of everything, and what is owed or failed without being there.
func podTable(w io.Writer, all inspect.Pods, problems bool) error {
	t := newTable(w, "STATE", "FOR", "POD AND CONTAINERS", "ID", "STEP", "DETAIL")
	below := map[string][]inspect.Failed{} // failed containers by their pod
	for _, f := range all.Failed {
		below[f.Pod] = append(below[f.Pod], f)
	}
	for i := range all.Pods {
		p := &all.Pods[i]
		failed := below[p.ID]
		delete(below, p.ID)
		if problems && quiet(p) && len(failed) == 0 {
			continue
		}
		podRows(t, p, all.Now, problems)
		for _, f := range failed {
			t.failure("failed", age(all.Now.Sub(f.At)), "  "+f.Name[strings.LastIndexByte(f.Name, '/')+1:], ident.Short(f.ID), f.Step, cause(&f))
		}
	}
	for _, f := range all.Failed {
		if _, left := below[f.Pod]; left {
			t.failure("failed", age(all.Now.Sub(f.At)), f.Name, ident.Short(f.ID), f.Step, cause(&f))
		}
	}
	for _, d := range all.Owed {
		t.failure("owed", age(all.Now.Sub(d.Since)), d.Name, ident.Short(d.Pod), "network", "CNI DEL of network "+d.Network+", "+times(d.Tries+1, "tries")+line(d.Error))
	}
	if all.OwedUnknown != "" {
		t.row("owed", "?", "", "", "network", line(all.OwedUnknown))
	}
	if len(t.rows) == 1 {
		text := "there are no pods"
		if problems {
			text = "nothing is under way and nothing is wrong"
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
	return t.print()
}

func podRows(t *table, p *inspect.Pod, now time.Time, problems bool) {
	row := func(o *inspect.Object, name, rest string) {
		step, detail := doing(o, rest)
		add := t.row
		if o.Doing == nil && o.Problem != "" {
			add = t.failure
		}
		add(o.State, since(o.Since, now), name, ident.Short(o.ID), step, detail)
	}
	if p.Owed != "" && p.Doing == nil {
		t.failure(p.State, since(p.Since, now), p.Namespace+"/"+p.Name, ident.Short(p.ID), "network", "owed: "+line(p.Owed))
	} else {
		row(&p.Object, p.Namespace+"/"+p.Name, strings.Join(p.IPs, ", "))
	}
	for i := range p.Containers {
		if m := &p.Containers[i]; !problems || !calm(m) {
			row(&m.Object, "  "+attempt(m), exit(m.Exit))
		}
	}
}

// attempt is a container's name, with the number of its restarts.
func attempt(m *inspect.Member) string {
	if m.Attempt == 0 {
		return m.Name
	}
	return fmt.Sprintf("%s #%d", m.Name, m.Attempt)
}

// calm tells of a container that nothing is under way and nothing wrong.
func calm(m *inspect.Member) bool {
	return m.Doing == nil && m.Problem == "" && m.State != "paused" && (m.Exit == nil || m.Exit.Code == 0)
}

// cause is why something failed, without what the columns before say.
func cause(f *inspect.Failed) string {
	text := f.Error
	if _, after, ok := strings.Cut(text, ": "+f.Step+": "); ok {
		text = after
	}
	return times(f.Times, "times") + line(text)
}

// quiet tells of a pod that nothing is under way and nothing wrong.
func quiet(p *inspect.Pod) bool {
	for i := range p.Containers {
		if !calm(&p.Containers[i]) {
			return false
		}
	}
	return p.Doing == nil && p.Problem == "" && p.Owed == "" && p.State == "ready"
}

// doing says which step an object stands on and why; otherwise, if it is at rest.
func doing(o *inspect.Object, otherwise string) (step, detail string) {
	if e := o.Doing; e != nil {
		detail = took(e.Seconds)
		if e.WaitsFor != "" {
			detail += ", waits for " + e.WaitsFor
		}
		if e.Tries > 1 {
			detail += fmt.Sprintf(", try %d", e.Tries)
		}
		if e.Error != "" {
			detail += "; before: " + line(e.Error)
		}
		return what(e), detail
	}
	if o.Problem != "" {
		return "", line(o.Problem)
	}
	return "", otherwise
}

// what names an event.
func what(e *inspect.Event) string {
	switch e.Verb {
	case "down":
		return "undo " + e.What
	case "reached":
		return "is " + e.What
	}
	return e.What
}

func exit(e *inspect.Exit) string {
	if e == nil {
		return ""
	}
	text := fmt.Sprintf("exit %d %s", e.Code, e.Reason)
	if e.Message != "" {
		text += ": " + line(e.Message)
	}
	return text
}

func (c *commands) whyCommand() *cobra.Command {
	return c.asJSON(&cobra.Command{Use: "why ID", Args: manual.Words(1, 1), ValidArgsFunction: c.ids,
		Short: "show what was done to a pod, step by step, what went wrong, and what is owed",
		Long: "Shows what was done to a pod and its containers since the daemon began: each step with how long\n" +
			"it took and how it failed last, what goes on now and what that waits for, and what is owed.\n" +
			"ID is the id of a pod or of a container, the beginning of one, or a pod's name, with or\n" +
			"without its namespace.",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := c.client().pods(cmd.Context())
			if err != nil {
				return err
			}
			pod, ctr, err := meant(&all, args[0])
			if err != nil {
				return err
			}
			return show(cmd, c, "/v1/pods/"+url.PathEscape(pod), func(w io.Writer, why inspect.Why) error { return timeline(w, &why, ctr) })
		}})
}

// meant finds the pod of an id or name; ctr is not empty if one of its containers is
// meant. Something that failed is meant too.
func meant(all *inspect.Pods, id string) (pod, ctr string, err error) {
	found := map[[2]string]bool{}
	byName := map[string]bool{}
	note := func(podID, ctrID, name string) {
		of := ctrID
		if of == "" {
			of = podID
		}
		if strings.HasPrefix(of, id) {
			found[[2]string{podID, ctrID}] = true
		}
		if name == id || name[strings.IndexByte(name, '/')+1:] == id {
			byName[name] = true
		}
	}
	for i := range all.Pods {
		p := &all.Pods[i]
		note(p.ID, "", p.Namespace+"/"+p.Name)
		for j := range p.Containers {
			note(p.ID, p.Containers[j].ID, "")
		}
	}
	for _, f := range all.Failed {
		if f.Kind == "pod" {
			note(f.ID, "", f.Name)
		} else if strings.HasPrefix(f.ID, id) {
			found[[2]string{f.Pod, ""}] = true
		}
	}
	for _, d := range all.Owed {
		note(d.Pod, "", d.Name)
	}
	switch {
	case len(byName) > 1:
		return "", "", errs.Invalid("pods of %d namespaces are called %q: say NAMESPACE/NAME", len(byName), id)
	case len(byName) == 1:
		for name := range byName {
			return name, "", nil
		}
	case len(found) > 1:
		return "", "", errs.Invalid("cannot tell what is meant by %q: %d ids begin so", id, len(found))
	}
	for f := range found {
		return f[0], f[1], nil
	}
	return "", "", errs.NotFound("pod or container", id)
}

// timeline prints what is known of a pod, or of one container of it.
func timeline(w io.Writer, why *inspect.Why, ctr string) error {
	p := why.Pod
	w = &spaced{w: w}
	if p != nil {
		fmt.Fprintln(w, strings.Map(printable, "pod "+p.Namespace+"/"+p.Name))
		rest := [][2]string{{"handler", p.Handler}, {"addresses", strings.Join(p.IPs, ", ")}, {"owed", line(p.Owed)}}
		if err := facts(w, &p.Object, why, rest); err != nil {
			return err
		}
		if ctr == "" {
			if err := list(w, p.Timeline, why.Now); err != nil {
				return err
			}
		}
		for i := range p.Containers {
			m := &p.Containers[i]
			if ctr != "" && m.ID != ctr {
				continue
			}
			fmt.Fprintln(w, "\n"+strings.Map(printable, "container "+attempt(m)))
			if err := facts(w, &m.Object, why, [][2]string{{"image", m.Image}, {"log", m.Log}, {"ended", exit(m.Exit)}}); err != nil {
				return err
			}
			if err := list(w, m.Timeline, why.Now); err != nil {
				return err
			}
		}
	}
	for _, f := range why.Failed {
		fmt.Fprintln(w, "\n"+strings.Map(printable, f.Kind+" "+f.Name+" could not be made"))
		t := newTable(w, "  id", f.ID)
		t.row("  when", clock(f.At, why.Now)+", "+age(why.Now.Sub(f.At))+" ago")
		if f.Times > 1 {
			t.row("  times", fmt.Sprint(f.Times))
		}
		t.row("  error", line(f.Error))
		if err := t.whole(); err != nil {
			return err
		}
		if err := list(w, f.Timeline, why.Now); err != nil {
			return err
		}
	}
	for _, d := range why.Owed {
		fmt.Fprintf(w, "\nowed: the CNI DEL of network %s, since %s, tried %d times\n  %s\n", d.Network, clock(d.Since, why.Now), d.Tries+1, line(d.Error))
	}
	if why.OwedUnknown != "" {
		fmt.Fprintf(w, "\nowed: not known: %s\n", line(why.OwedUnknown))
	}
	if p != nil && p.Created != nil && p.Created.Before(why.Started) {
		fmt.Fprintf(w, "\nThe daemon began at %s. Of what was done before, only states and results are known.\n", clock(why.Started, why.Now))
	}
	return nil
}

// facts prints what an object is now.
func facts(w io.Writer, o *inspect.Object, why *inspect.Why, rest [][2]string) error {
	t := newTable(w, "  id", o.ID)
	state := o.State
	if o.Since != nil {
		state += ", for " + age(why.Now.Sub(*o.Since))
	}
	t.row("  state", state)
	if o.Doing != nil {
		step, detail := doing(o, "")
		t.row("  now", step+", for "+detail)
	} else if o.Problem != "" {
		t.row("  problem", line(o.Problem))
	}
	for _, r := range rest {
		if r[1] != "" {
			t.row("  "+r[0], r[1])
		}
	}
	return t.whole()
}

// list prints events.
func list(w io.Writer, events []inspect.Event, now time.Time) error {
	if len(events) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable(w, "  WHEN", "TOOK", "WHAT", "")
	for i := range events {
		e := &events[i]
		lasted, note := took(e.Seconds), line(e.Error)
		switch {
		case e.Verb == "reached":
			lasted = ""
		case e.Running:
			lasted += " so far"
			if note = ""; e.WaitsFor != "" {
				note = "waits for " + e.WaitsFor
			}
			if e.Error != "" {
				note += "; before: " + line(e.Error)
			}
		case e.Error != "":
			note = "failed: " + note
		}
		if e.Tries > 1 {
			note = strings.TrimSpace(fmt.Sprintf("(try %d) %s", e.Tries, note))
		}
		t.row("  "+clock(e.At, now), lasted, what(e), note)
	}
	return t.whole()
}
