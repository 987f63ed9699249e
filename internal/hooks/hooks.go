// Package hooks adds the hooks to a specification that an administrator wants for it:
// JSON files in folders, as oci-hooks(5) describes them, versions 1.0.0 and 0.1.0.
//
// The folders are looked at for each container, by names, times and sizes; files are
// read again only if those changed. Nothing watches them meanwhile. A file that cannot
// be used is told once and passed over: the others still count, and containers start.
//
// It knows the OCI runtime specification, and no container.
package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/monocrio/monocrio/internal/errs"
)

// Folders are hook folders; a file of a later one masks those of its name in earlier
// ones.
type Folders struct {
	Dirs []string
	Log  *slog.Logger

	mu   sync.Mutex
	seen string // how the folders looked when they were read
	list []hook // by file name
}

// hook is one file.
type hook struct {
	file   string
	hook   specs.Hook
	stages []string
	when   when
}

// when are the conditions under which a hook is wanted.
type when struct {
	any           bool // one of them is enough (version 0.1.0)
	always        *bool
	annotations   []pair
	values        []*regexp.Regexp // of any annotation (version 0.1.0)
	commands      []*regexp.Regexp
	hasBindMounts *bool
}

type pair struct{ key, value *regexp.Regexp }

// Facts are what conditions look at.
type Facts struct {
	// Annotations are the specification's own; what may not act is not among them.
	Annotations map[string]string
	Command     string // the first argument of the process
	BindMounts  bool   // the request asks for some
}

// Inject adds to the specification what its facts want, in the order of file names.
func (f *Folders) Inject(s *specs.Spec, facts Facts) {
	for _, h := range f.current() {
		if !h.when.match(facts) {
			continue
		}
		if s.Hooks == nil {
			s.Hooks = &specs.Hooks{}
		}
		for _, stage := range h.stages {
			list := stageOf(s.Hooks, stage)
			*list = append(*list, h.hook)
		}
	}
}

// current reads the folders if they changed.
func (f *Folders) current() []hook {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, look := f.look()
	if look == f.seen && f.seen != "" {
		return f.list
	}
	f.seen, f.list = look, nil
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h, err := read(files[name])
		if err != nil {
			f.Log.Warn("an OCI hook is passed over", "err", err)
			continue
		}
		f.list = append(f.list, *h)
	}
	return f.list
}

// look finds the files that count, by name, and writes down how everything looks.
func (f *Folders) look() (files map[string]string, looks string) {
	files = map[string]string{}
	var b strings.Builder
	for _, dir := range f.Dirs {
		fmt.Fprintf(&b, "%s\n", dir)
		entries, err := os.ReadDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				f.Log.Warn("a folder of OCI hooks cannot be read", "err", err)
			}
			continue
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".json") {
				continue
			}
			path := filepath.Join(dir, e.Name())
			fi, err := os.Stat(path)
			if err != nil || !fi.Mode().IsRegular() {
				continue
			}
			files[e.Name()] = path
			fmt.Fprintf(&b, "%s %d %d\n", e.Name(), fi.ModTime().UnixNano(), fi.Size())
		}
	}
	return files, b.String()
}

// maxFile bounds a hook file: the folders are the administrator's, but the file may be
// anything.
const maxFile = 1 << 20

func read(path string) (*hook, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, errs.Invalid("%s has %d bytes; %d are the most", path, fi.Size(), maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h, err := parse(data)
	if err != nil {
		return nil, errs.Invalid("%s: %w", path, err)
	}
	h.file = filepath.Base(path)
	return h, nil
}

func parse(data []byte) (*hook, error) {
	var head struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, err
	}
	var h *hook
	var err error
	switch head.Version {
	case "1.0.0":
		h, err = parse1(data)
	case "", "0.1.0":
		h, err = parse0(data)
	default:
		return nil, errs.Invalid("version %q is not known; 1.0.0 and 0.1.0 are", head.Version)
	}
	if err != nil {
		return nil, err
	}
	return h, h.check()
}

// parse1 reads version 1.0.0: all conditions that are given must hold.
func parse1(data []byte) (*hook, error) {
	var f struct {
		Hook *specs.Hook `json:"hook"`
		When struct {
			Always        *bool             `json:"always"`
			Annotations   map[string]string `json:"annotations"`
			Commands      []string          `json:"commands"`
			HasBindMounts *bool             `json:"hasBindMounts"`
		} `json:"when"`
		Stages []string `json:"stages"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Hook == nil {
		return nil, errs.Invalid("hook is missing: an object with path is needed")
	}
	h := &hook{hook: *f.Hook, stages: f.Stages, when: when{always: f.When.Always, hasBindMounts: f.When.HasBindMounts}}
	for _, k := range slices.Sorted(maps.Keys(f.When.Annotations)) {
		p := pair{}
		var err error
		if p.key, err = pattern("when.annotations", k); err != nil {
			return nil, err
		}
		if p.value, err = pattern("when.annotations", f.When.Annotations[k]); err != nil {
			return nil, err
		}
		h.when.annotations = append(h.when.annotations, p)
	}
	var err error
	h.when.commands, err = patterns("when.commands", f.When.Commands)
	return h, err
}

// parse0 reads version 0.1.0, where one condition is enough and annotations are looked
// at by their values.
func parse0(data []byte) (*hook, error) {
	var f struct {
		Hook          string   `json:"hook"`
		Arguments     []string `json:"arguments"`
		Stages        []string `json:"stages"`
		Stage         []string `json:"stage"`
		Cmds          []string `json:"cmds"`
		Cmd           []string `json:"cmd"`
		Annotations   []string `json:"annotations"`
		Annotation    []string `json:"annotation"`
		HasBindMounts *bool    `json:"hasbindmounts"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	h := &hook{hook: specs.Hook{Path: f.Hook}, when: when{any: true, hasBindMounts: f.HasBindMounts}}
	if len(f.Arguments) > 0 {
		h.hook.Args = append([]string{f.Hook}, f.Arguments...)
	}
	h.stages = slices.Concat(f.Stages, f.Stage)
	for i, s := range h.stages { // as its stages were called before
		h.stages[i] = strings.ToLower(s)
	}
	var err, err2 error
	h.when.values, err = patterns("annotations", slices.Concat(f.Annotations, f.Annotation))
	h.when.commands, err2 = patterns("cmds", slices.Concat(f.Cmds, f.Cmd))
	return h, errors.Join(err, err2)
}

func patterns(key string, list []string) (out []*regexp.Regexp, err error) {
	for _, e := range list {
		p, err := pattern(key, e)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func pattern(key, text string) (*regexp.Regexp, error) {
	p, err := regexp.Compile(text)
	if err != nil {
		return nil, errs.Invalid("%s: %q is no regular expression: %w", key, text, err)
	}
	return p, nil
}

// check refuses hooks that a runtime would refuse, which would keep every container
// from starting.
func (h *hook) check() error {
	if !filepath.IsAbs(h.hook.Path) {
		return errs.Invalid("hook path %q is not absolute", h.hook.Path)
	}
	fi, err := os.Stat(h.hook.Path)
	switch {
	case err != nil:
		return errs.Invalid("hook: %w", err)
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return errs.Invalid("hook path %s is not executable", h.hook.Path)
	case h.hook.Timeout != nil && *h.hook.Timeout <= 0:
		return errs.Invalid("hook timeout %d: a number of seconds above 0 is needed", *h.hook.Timeout)
	case len(h.stages) == 0:
		return errs.Invalid("stages is empty: name some of %s", strings.Join(stages(), ", "))
	}
	for _, s := range h.stages {
		if !slices.Contains(stages(), s) {
			return errs.Invalid("stage %q is not known; the stages are %s", s, strings.Join(stages(), ", "))
		}
	}
	w := h.when
	if w.always == nil && w.hasBindMounts == nil && len(w.annotations)+len(w.values)+len(w.commands) == 0 {
		return errs.Invalid("there is no condition: it would never be used")
	}
	return nil
}

// match tells whether the conditions hold.
func (w *when) match(f Facts) bool {
	var each []bool
	if w.always != nil {
		each = append(each, *w.always)
	}
	if w.hasBindMounts != nil { // false asks for nothing, and never holds
		each = append(each, *w.hasBindMounts && f.BindMounts)
	}
	for _, p := range w.annotations {
		each = append(each, anyAnnotation(f, func(k, v string) bool { return p.key.MatchString(k) && p.value.MatchString(v) }))
	}
	if len(w.values) > 0 {
		each = append(each, slices.ContainsFunc(w.values, func(p *regexp.Regexp) bool {
			return anyAnnotation(f, func(_, v string) bool { return p.MatchString(v) })
		}))
	}
	if len(w.commands) > 0 {
		each = append(each, slices.ContainsFunc(w.commands, func(p *regexp.Regexp) bool { return p.MatchString(f.Command) }))
	}
	if w.any {
		return slices.Contains(each, true)
	}
	return len(each) > 0 && !slices.Contains(each, false)
}

func anyAnnotation(f Facts, is func(k, v string) bool) bool {
	for k, v := range f.Annotations {
		if is(k, v) {
			return true
		}
	}
	return false
}

// stages lists the moments of a container's life at which hooks run.
func stages() []string {
	return []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
}

func stageOf(h *specs.Hooks, stage string) *[]specs.Hook {
	switch stage {
	case "prestart":
		return &h.Prestart //nolint:staticcheck // deprecated, and hook files still use it
	case "createRuntime":
		return &h.CreateRuntime
	case "createContainer":
		return &h.CreateContainer
	case "startContainer":
		return &h.StartContainer
	case "poststart":
		return &h.Poststart
	}
	return &h.Poststop
}
