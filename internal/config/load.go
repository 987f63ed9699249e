package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/pelletier/go-toml/v2"
)

// file is the shape of crio.conf.
type file struct {
	Crio struct {
		Crio
		API     API     `toml:"api"`
		Runtime Runtime `toml:"runtime"`
		Image   Image   `toml:"image"`
		Network Network `toml:"network"`
		NRI     NRI     `toml:"nri"`
		Stats   Stats   `toml:"stats"`
	} `toml:"crio"`
}

// UnmarshalText reads "30s"; a bare number counts seconds.
func (d *Duration) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if n, err := strconv.ParseInt(string(text), 10, 32); err == nil && n >= 0 {
		*d = Duration(time.Duration(n) * time.Second)
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is no duration: write for example 30s or 4m", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the duration as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Load reads the file at path, if path is not empty, and then the files of dir in
// lexical order of their paths, over the defaults. A missing dir is fine; a missing
// file is an error only if mustExist. Warnings name file, line and key of what has
// no meaning here. The result is not validated yet: flags may follow.
func Load(path, dir string, mustExist bool) (c *Config, warnings []string, err error) {
	c = Default()
	files, err := list(path, dir, mustExist)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		w, err := c.merge(f)
		if err != nil {
			return nil, nil, err
		}
		warnings = append(warnings, w...)
	}
	return c, warnings, nil
}

func list(path, dir string, mustExist bool) ([]string, error) {
	var files []string
	if path != "" {
		if _, err := os.Stat(path); err == nil || mustExist || !errors.Is(err, fs.ErrNotExist) {
			files = append(files, path)
		}
	}
	if dir == "" {
		return files, nil
	}
	first := len(files)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			files = append(files, p)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the configuration folder %s: %w", dir, err)
	}
	sort.Strings(files[first:])
	return files, nil
}

// merge puts what one file says over c.
func (c *Config) merge(path string) (warnings []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	var f file
	f.Crio.Crio, f.Crio.API, f.Crio.Runtime, f.Crio.Image, f.Crio.Network = c.Crio, c.API, c.Runtime, c.Image, c.Network
	f.Crio.NRI, f.Crio.Stats = c.NRI, c.Stats
	dec := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	err = dec.Decode(&f)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for i := range unknown.Errors {
			row, _ := unknown.Errors[i].Position()
			warnings = append(warnings, c.unknownKey(path, row, unknown.Errors[i].Key()))
		}
	case errors.As(err, &wrong):
		row, col := wrong.Position()
		key := wrong.Key()
		if len(key) == 0 {
			return nil, errs.Invalid("%s:%d:%d: this is no TOML: %s", path, row, col, strings.TrimPrefix(wrong.Error(), "toml: "))
		}
		return nil, errs.Invalid("%s:%d:%d: %s = %s: %s is needed", path, row, col, strings.Join(key, "."), written(data, row), c.wanted(key))
	case err != nil:
		return nil, errs.Invalid("%s: %w", path, err)
	}
	c.Crio, c.API, c.Runtime, c.Image, c.Network = f.Crio.Crio, f.Crio.API, f.Crio.Runtime, f.Crio.Image, f.Crio.Network
	c.NRI, c.Stats = f.Crio.NRI, f.Crio.Stats
	return warnings, c.seconds(path, data)
}

// seconds corrects durations that are written as whole numbers: the library takes them
// for nanoseconds.
func (c *Config) seconds(path string, data []byte) error {
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, o := range c.Options() {
		d, ok := o.Value.Addr().Interface().(*Duration)
		if !ok {
			continue
		}
		var at any = tree
		for key := range strings.SplitSeq(o.Table+"."+o.Key, ".") {
			table, _ := at.(map[string]any)
			at = table[key]
		}
		if n, ok := at.(int64); ok {
			if err := d.UnmarshalText([]byte(strconv.FormatInt(n, 10))); err != nil {
				return errs.Invalid("%s: %s.%s: %w", path, o.Table, o.Key, err)
			}
		}
	}
	return nil
}

// written is the value that stands in a row of a file, which counts from 1.
func written(data []byte, row int) string {
	lines := strings.Split(string(data), "\n")
	if row < 1 || row > len(lines) {
		return "?"
	}
	_, value, _ := strings.Cut(lines[row-1], "=")
	return strings.TrimSpace(value)
}

// wanted says in words what a key's value must be.
func (c *Config) wanted(key []string) string {
	for _, o := range c.Options() {
		if o.Table+"."+o.Key != strings.Join(key, ".") {
			continue
		}
		switch o.Value.Interface().(type) {
		case string:
			return "a text in quotes"
		case bool:
			return "true or false"
		case int, int64:
			return "a whole number"
		case []string:
			return "a list of texts, [\"a\", \"b\"],"
		case Duration:
			return "a duration such as \"30s\" or \"4m\""
		}
	}
	return "a value of another type"
}

func (c *Config) unknownKey(path string, row int, key []string) string {
	text := fmt.Sprintf("%s:%d: there is no option %s", path, row, strings.Join(key, "."))
	if near := c.nearest(key[len(key)-1]); near != "" {
		text += ": did you mean " + near + "?"
	}
	return text
}

// nearest finds the option key that a misspelt one resembles most.
func (c *Config) nearest(word string) string {
	best, at := "", 3 // two slips at most
	for _, o := range c.Options() {
		if d := distance(word, o.Key); d < at {
			best, at = o.Key, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		prev := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := prev
			if a[i-1] != b[j-1] {
				cost = 1 + min(prev, row[j], row[j-1])
			}
			prev, row[j] = row[j], cost
		}
	}
	return row[len(b)]
}

// Option is one declared option of a configuration.
type Option struct {
	Table, Key, Flag, Doc string
	Live                  bool
	Value                 reflect.Value // settable if the Config was a pointer's
}

// Options lists the options in the order of their declaration.
func (c *Config) Options() []Option {
	var all []Option
	root := reflect.ValueOf(c).Elem()
	for i := range root.NumField() {
		table := "crio"
		if name := root.Type().Field(i).Name; name != "Crio" {
			table += "." + strings.ToLower(name)
		}
		sec := root.Field(i)
		for j := range sec.NumField() {
			f := sec.Type().Field(j)
			if sec.Field(j).Kind() == reflect.Map {
				continue
			}
			all = append(all, Option{Table: table, Key: f.Tag.Get("toml"), Flag: f.Tag.Get("flag"),
				Doc: f.Tag.Get("doc"), Live: f.Tag.Get("live") != "", Value: sec.Field(j)})
		}
	}
	return all
}

// Text prints the configuration as a commented crio.conf that means the same.
func (c *Config) Text() (string, error) {
	var b strings.Builder
	b.WriteString("# Configuration of crio. Every option is here with its value; lines that begin\n# with # and a key are the defaults.\n")
	def := Default().Options()
	table := ""
	for i, o := range c.Options() {
		if o.Table != table {
			table = o.Table
			fmt.Fprintf(&b, "\n[%s]\n", table)
		}
		line, err := toml.Marshal(map[string]any{o.Key: o.Value.Interface()})
		if err != nil {
			return "", err
		}
		mark := ""
		if reflect.DeepEqual(o.Value.Interface(), def[i].Value.Interface()) {
			mark = "# "
		}
		fmt.Fprintf(&b, "\n# %s\n%s%s", o.Doc, mark, line)
		if o.Table == "crio.runtime" && i+1 < len(def) && def[i+1].Table != table {
			if err := c.handlersText(&b); err != nil {
				return "", err
			}
		}
	}
	return b.String(), nil
}

func (c *Config) handlersText(b *strings.Builder) error {
	for _, name := range sortedKeys(c.Runtime.Runtimes) {
		text, err := toml.Marshal(c.Runtime.Runtimes[name])
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "\n[crio.runtime.runtimes.%s]\n%s", name, text)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
