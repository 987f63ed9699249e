package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// file is the shape of crio.conf.
type file struct {
	Crio tables `toml:"crio"`
}

type tables struct {
	*Crio
	API        *API               `toml:"api"`
	Runtime    *Runtime           `toml:"runtime"`
	Checkpoint *CheckpointRestore `toml:"checkpoint_restore"`
	Image      *Image             `toml:"image"`
	Network    *Network           `toml:"network"`
	Metrics    *Metrics           `toml:"metrics"`
	Tracing    *Tracing           `toml:"tracing"`
	Stats      *Stats             `toml:"stats"`
	NRI        *nriTables         `toml:"nri"`
}

type nriTables struct {
	*NRI
	Validator *Validator `toml:"default_validator"`
}

func (c *Config) file() *file {
	return &file{Crio: tables{&c.Crio, &c.API, &c.Runtime, &c.Checkpoint, &c.Image, &c.Network, &c.Metrics, &c.Tracing, &c.Stats,
		&nriTables{&c.NRI, &c.Validator}}}
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

// MarshalText writes the duration as crio.conf has it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

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
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	err = dec.Decode(c.file())
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		for i := range unknown.Errors {
			row, _ := unknown.Errors[i].Position()
			warnings = append(warnings, unknownKey(path, row, unknown.Errors[i].Key()))
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
	c.remember(path, data)
	return warnings, c.seconds(path, data)
}

// remember notes the place of each key of a file.
func (c *Config) remember(path string, data []byte) {
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		name, line := "", 0
		for it := e.Key(); it.Next(); {
			if name += "." + string(it.Node().Data); line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		switch e.Kind {
		case unstable.Table:
			table = name[1:]
		case unstable.KeyValue:
			c.setAt(strings.TrimPrefix(table+name, "."), fmt.Sprintf("%s:%d", path, line))
		}
	}
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
	name := strings.Join(key, ".")
	for _, o := range append(c.Options(), named(key)...) {
		if o.Name() == name {
			return wantedType(o.Value)
		}
	}
	return "a value of another type"
}

// named lists the options of the handler or workload to which a key belongs.
func named(key []string) []Option {
	if len(key) < 5 || key[1] != "runtime" {
		return nil
	}
	table := strings.Join(key[:4], ".")
	switch key[2] {
	case "runtimes":
		return tableOptions(table, &Handler{})
	case "workloads":
		w := &Workload{}
		return append(tableOptions(table, w), tableOptions(table+".resources", &w.Resources)...)
	}
	return nil
}

func unknownKey(path string, row int, key []string) string {
	text := fmt.Sprintf("%s:%d: there is no option %s", path, row, strings.Join(key, "."))
	if near := nearest(key[len(key)-1]); near != "" {
		text += ": did you mean " + near + "?"
	}
	return text
}

// nearest finds the option key that a misspelt one resembles most.
func nearest(word string) string {
	best, at := "", 3 // two slips at most
	for _, o := range All() {
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

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
