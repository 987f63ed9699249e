package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// head is the start of a printed configuration.
const head = `# Configuration of crio: crio.conf(5). A line that begins with # and a key shows a default.
# Later files win: this one, then those of crio.conf.d in the order of their names, then
# variables of the environment, then flags. Options marked (live) change when the file
# does, or at SIGHUP; others need a restart, which leaves pods running.
`

// Text prints the configuration as a commented crio.conf that means the same. Options
// that have their defaults are comments, and nothing but a comment.
func (c *Config) Text() (string, error) {
	t := &printer{}
	t.b.WriteString(head)
	def, table := Default().Options(), ""
	for i, o := range c.Options() {
		if o.Key == "" {
			continue
		}
		if o.Table != table {
			if table == "crio.runtime" {
				t.named(c)
			}
			table = o.Table
			fmt.Fprintf(&t.b, "\n[%s]\n", table)
		}
		t.option(&o, def[i].Value)
	}
	return t.b.String(), t.err
}

// printer collects the text; the first error stays.
type printer struct {
	b   strings.Builder
	err error
}

func (t *printer) option(o *Option, def reflect.Value) {
	text, err := value(o.Value.Interface())
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("cannot print %s: %w", o.Name(), err)
	}
	mark := ""
	if same(o.Value, def) {
		mark = "# "
	}
	fmt.Fprintf(&t.b, "\n%s%s%s = %s\n", comment(o.Help()), mark, o.Key, text)
}

// comment breaks a text into comment lines.
func comment(text string) string {
	const width = 98
	var b strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && line != "#" {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// value writes a value as TOML in one line, texts in double quotes as people do.
func value(v any) (string, error) {
	switch v := v.(type) {
	case string:
		if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
			break
		}
		return strconv.Quote(v), nil
	case []string:
		var list []string
		for _, e := range v {
			text, err := value(e)
			if err != nil {
				return "", err
			}
			list = append(list, text)
		}
		return "[" + strings.Join(list, ", ") + "]", nil
	case map[string]string:
		var pairs []string
		for _, k := range sortedKeys(v) {
			key, err1 := value(k)
			text, err2 := value(v[k])
			if err := errors.Join(err1, err2); err != nil {
				return "", err
			}
			pairs = append(pairs, key+" = "+text)
		}
		return "{" + strings.Join(pairs, ", ") + "}", nil
	case Duration:
		return strconv.Quote(v.String()), nil
	}
	line, err := toml.Marshal(map[string]any{"v": v})
	return strings.TrimSuffix(strings.TrimPrefix(string(line), "v = "), "\n"), err
}

// same: an empty list is the same as none.
func same(a, b reflect.Value) bool {
	if k := a.Kind(); (k == reflect.Slice || k == reflect.Map) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// named prints the tables of handlers and workloads.
func (t *printer) named(c *Config) {
	for _, name := range sortedKeys(c.Runtime.Runtimes) {
		h := c.Runtime.Runtimes[name]
		t.table("crio.runtime.runtimes."+name, &h, &Handler{})
	}
	for _, name := range sortedKeys(c.Runtime.Workloads) {
		w := c.Runtime.Workloads[name]
		t.table("crio.runtime.workloads."+name, &w, &Workload{})
		t.table("crio.runtime.workloads."+name+".resources", &w.Resources, &WorkloadResources{})
	}
}

func (t *printer) table(name string, value, def any) {
	fmt.Fprintf(&t.b, "\n[%s]\n", name)
	defaults := tableOptions(name, def)
	for i, o := range tableOptions(name, value) {
		t.option(&o, defaults[i].Value)
	}
}

// Help is the option's documentation with what its declaration adds: what is allowed,
// whether it is live, old or without effect.
func (o *Option) Help() string {
	text := o.Doc
	if words := o.Choices(); words != "" {
		text += "; one of " + words
	}
	switch {
	case o.Inert != "":
		text += " (no effect: " + o.Inert + ")"
	case o.Old != "":
		text += " (old: use " + o.Old + ")"
	case o.Live:
		text += " (live)"
	}
	return text
}

// Choices lists the words of which the value must be one; empty if it is free.
func (o *Option) Choices() string {
	switch o.Is {
	case "", "path", "path?", "paths", "socket", "socket?", "ip", "port", "hostport", "regexp", "cpus", "bytes?", "pairs":
		return ""
	}
	if strings.Contains(o.Is, "..") {
		return ""
	}
	return strings.Join(strings.Fields(strings.TrimPrefix(o.Is, "?")), ", ")
}

// Text is the option's value as crio.conf has it.
func (o *Option) Text() string {
	text, err := value(o.Value.Interface())
	if err != nil {
		return "?"
	}
	return text
}

// String writes a duration as people do: 4h, not 4h0m0s.
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
