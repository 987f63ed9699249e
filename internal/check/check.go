// Package check looks at a node with the eyes of one who has to get it going: what is
// wrong, with which object, and how to mend it. It changes nothing by itself; what it
// can mend it mends one by one when asked, and it never wipes anything.
package check

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Level says how bad a finding is.
type Level int

// Levels.
const (
	OK   Level = iota
	Note       // a feature is lacking that some pods want
	Warn       // works now, and may not for long
	Fail       // pods cannot run, or something is damaged
)

var levelNames = [...]string{"ok", "note", "warn", "FAIL"}

// String is the level's name.
func (l Level) String() string { return levelNames[l] }

// MarshalText writes the level's name, in small letters.
func (l Level) MarshalText() ([]byte, error) { return []byte(strings.ToLower(l.String())), nil }

// Finding is one thing that was looked at.
type Finding struct {
	Area   string `json:"area"` // config, kernel, cgroups, network, images, storage, disk, leftovers
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	// Kind and ID name a damaged object of the store.
	Kind string `json:"kind,omitempty"`
	ID   string `json:"id,omitempty"`
	// mend removes or restores the one object; nil if only people can.
	mend func(context.Context) error
	// Mended tells that it was done.
	Mended bool `json:"mended,omitempty"`
}

// Look is one area's check.
type Look func(context.Context) []Finding

// Run makes all looks in turn; done hears of each finding as soon as it is made.
func Run(ctx context.Context, looks []Look, done func(*Finding)) (all []Finding) {
	for _, look := range looks {
		if ctx.Err() != nil {
			break
		}
		for _, f := range look(ctx) {
			done(&f)
			all = append(all, f)
		}
	}
	return all
}

// Mend mends what can be, in the order of the list: what is built of other things
// before them. An error becomes the finding's remedy.
func Mend(ctx context.Context, all []Finding, done func(*Finding)) {
	for i := range all {
		f := &all[i]
		if f.mend == nil || ctx.Err() != nil {
			continue
		}
		if err := f.mend(ctx); err != nil {
			f.Remedy = err.Error()
		} else {
			f.Mended = true
		}
		done(f)
	}
}

// Print writes a finding for people.
func (f *Finding) Print(w io.Writer) {
	level := f.Level.String()
	if f.Mended {
		level = "done"
	}
	fmt.Fprintf(w, "%-5s %-10s %s\n", level, f.Area, strings.ReplaceAll(f.Text, "\n", "\n                 "))
	if f.Remedy != "" && !f.Mended {
		fmt.Fprintf(w, "                 -> %s\n", strings.ReplaceAll(f.Remedy, "\n", "\n                    "))
	}
}

// Verdict counts what is not mended; an error says that something is.
func Verdict(all []Finding) (summary string, err error) {
	n := [len(levelNames)]int{}
	damaged := map[string]int{}
	for _, f := range all {
		if f.Mended {
			continue
		}
		n[f.Level]++
		if f.Kind != "" && f.Level == Fail {
			damaged[f.Kind]++
		}
	}
	summary = fmt.Sprintf("%d fine, %d noted, %d to be looked at, %d wrong", n[OK], n[Note], n[Warn], n[Fail])
	if n[Fail] == 0 {
		return summary, nil
	}
	var what []string
	for _, kind := range []string{"layer", "read-only layer", "image", "read-only image", "container"} {
		if damaged[kind] > 0 {
			what = append(what, fmt.Sprintf("%ss %d", kind, damaged[kind]))
		}
	}
	text := "1 finding"
	if n[Fail] > 1 {
		text = fmt.Sprintf("%d findings", n[Fail])
	}
	if len(what) > 0 {
		text += " (damaged: " + strings.Join(what, ", ") + ")"
	}
	return summary, fmt.Errorf("the node is not in order: %s", text)
}

func ok(area, format string, args ...any) Finding {
	return Finding{Area: area, Text: fmt.Sprintf(format, args...)}
}

func found(area string, l Level, remedy, format string, args ...any) Finding {
	return Finding{Area: area, Level: l, Remedy: remedy, Text: fmt.Sprintf(format, args...)}
}
