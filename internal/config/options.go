package config

import (
	"fmt"
	"reflect"
	"strings"
)

// Option is one declared option of a configuration.
type Option struct {
	Table, Key   string // Key is empty for what only a flag says
	Flag, Letter string // without dashes; empty: none
	Env          []string
	Doc          string
	Is           string // what a value must be, in the language of check.go
	Old          string // what replaces it
	Inert        string // why it has no effect
	Live         bool   // a reload changes it
	Value        reflect.Value
}

// Name is the option's full name, TABLE.KEY; for what only a flag says, the flag.
func (o *Option) Name() string {
	if o.Key == "" {
		return "--" + o.Flag
	}
	return o.Table + "." + o.Key
}

// Options lists the options of all tables that are there once, in the order of their
// declaration. Their values are settable.
func (c *Config) Options() []Option {
	var all []Option
	root := reflect.ValueOf(c).Elem()
	for i := range root.NumField() {
		f := root.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		table, ok := f.Tag.Lookup("table")
		if !ok {
			table = "crio"
		}
		all = append(all, optionsOf(table, root.Field(i))...)
	}
	return all
}

// HandlerOptions and WorkloadOptions list those of the tables that have a name each;
// NAME stands for it. Their values are the defaults.
func HandlerOptions() []Option {
	return optionsOf("crio.runtime.runtimes.NAME", reflect.ValueOf(&Handler{}).Elem())
}

// WorkloadOptions: see HandlerOptions.
func WorkloadOptions() []Option {
	w := &Workload{}
	return append(optionsOf("crio.runtime.workloads.NAME", reflect.ValueOf(w).Elem()),
		optionsOf("crio.runtime.workloads.NAME.resources", reflect.ValueOf(&w.Resources).Elem())...)
}

// All lists every option: those of Options, then of handlers, then of workloads.
func All() []Option {
	return append(append(Default().Options(), HandlerOptions()...), WorkloadOptions()...)
}

// tableOptions lists the options of a table of a handler or workload.
func tableOptions(name string, table any) []Option {
	return optionsOf(name, reflect.ValueOf(table).Elem())
}

func optionsOf(table string, sec reflect.Value) (all []Option) {
	for i := range sec.NumField() {
		f := sec.Type().Field(i)
		if f.Tag.Get("doc") == "" { // a table of tables
			continue
		}
		o := Option{Table: table, Key: f.Tag.Get("toml"), Doc: f.Tag.Get("doc"), Is: f.Tag.Get("is"), Old: f.Tag.Get("old"),
			Inert: f.Tag.Get("inert"), Live: f.Tag.Get("live") != "", Value: sec.Field(i)}
		o.Flag, o.Letter, _ = strings.Cut(f.Tag.Get("flag"), ",")
		o.Env = environment(o.Flag, f.Tag.Get("env"))
		all = append(all, o)
	}
	return all
}

// environment lists the variables of an option. Their names follow from the flag;
// history has made exceptions.
func environment(flag, tag string) []string {
	switch {
	case tag == "-" || flag == "":
		return nil
	case tag != "":
		return strings.Fields(tag)
	}
	return []string{"CONTAINER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

// SetEnv puts over c what environment variables say; lookup is os.LookupEnv. Lists are
// written with commas.
func (c *Config) SetEnv(lookup func(string) (string, bool)) error {
	for _, o := range c.Options() {
		for _, name := range o.Env {
			text, ok := lookup(name)
			if !ok || text == "" {
				continue
			}
			if err := o.Set(text); err != nil {
				return fmt.Errorf("the environment variable %s: %w", name, err)
			}
			c.setAt(o.Name(), "environment variable "+name)
		}
	}
	return nil
}

// setAt remembers where an option was set last.
func (c *Config) setAt(option, where string) {
	if c.origin == nil {
		c.origin = map[string]string{}
	}
	c.origin[option] = where
}

// SetBy remembers that a flag has set an option.
func (c *Config) SetBy(o *Option) { c.setAt(o.Name(), "--"+o.Flag) }

// SetFrom sets an option that nothing has set to what another program's file says of it;
// what is its default anyway stays that.
func (c *Config) SetFrom(o *Option, text, where string) {
	before := reflect.ValueOf(o.Value.Interface())
	if o.Set(text) == nil && !same(before, o.Value) {
		c.setAt(o.Name(), where)
	}
}

// Origin tells where an option was set: FILE:LINE, a variable or a flag; empty if
// it has its default. name is TABLE.KEY.
func (c *Config) Origin(name string) string { return c.origin[name] }

// Warnings tells which options were set that are old or have no effect.
func (c *Config) Warnings() (list []string) {
	all := c.Options()
	for _, name := range sortedKeys(c.Runtime.Runtimes) {
		h := c.Runtime.Runtimes[name]
		all = append(all, tableOptions("crio.runtime.runtimes."+name, &h)...)
	}
	for _, o := range all {
		where := c.origin[o.Name()]
		switch {
		case where == "":
		case o.Inert != "":
			list = append(list, fmt.Sprintf("%s: %s has no effect: %s", where, o.Name(), o.Inert))
		case o.Old != "":
			list = append(list, fmt.Sprintf("%s: %s is an old option: use %s instead", where, o.Name(), o.Old))
		}
	}
	return list
}
