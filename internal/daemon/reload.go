package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon/service"
	"github.com/monocrio/monocrio/internal/linux/watch"
	"github.com/monocrio/monocrio/internal/telemetry/log"
	"golang.org/x/sys/unix"
)

// Source is where a configuration comes from.
type Source struct {
	// File and Dir are crio.conf and its drop-ins; they need not exist.
	File, Dir string
	// Load reads them, and what is put over them. The warnings are for the log.
	Load func() (c *config.Config, warnings []string, err error)
	// Level is the log's control.
	Level *log.Control
}

// reloader puts changed files in force while the daemon runs. All or nothing: if any
// part of the new configuration is wrong, the old one stays.
type reloader struct {
	p      *parts
	from   Source
	seen   map[string]string // state of the registries' files when they were read
	files  map[string]string // of all files, when they were last looked at
	told   []string          // options that wait for a restart, as the log knows
	wanted chan struct{}     // something may have changed
}

func newReloader(p *parts, from Source) *reloader {
	r := &reloader{p: p, from: from, wanted: make(chan struct{}, 1)}
	r.seen = states(registriesFiles(p.now.Load().conf))
	r.files = r.all()
	return r
}

// watch asks for a reload when a file changes, until ctx ends.
func (r *reloader) watch(ctx context.Context) {
	w := watch.New("the configuration files", r.dirs, r.p.log)
	go w.Run(ctx, func() {
		select {
		case r.wanted <- struct{}{}:
		default: // one is to come
		}
	})
}

// dirs lists the folders in which the files are, drop-ins with all below them.
func (r *reloader) dirs() []string {
	set := map[string]bool{}
	for _, path := range append([]string{r.from.File}, registriesFiles(r.p.now.Load().conf)[0]) {
		if path != "" {
			set[filepath.Dir(path)] = true
		}
	}
	for _, dir := range []string{r.from.Dir, registriesFiles(r.p.now.Load().conf)[1]} {
		if dir == "" {
			continue
		}
		set[dir] = true
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				set[path] = true
			}
			return nil
		})
	}
	var list []string
	for dir := range set {
		if abs, err := filepath.Abs(dir); err == nil {
			list = append(list, abs)
		}
	}
	return list
}

// all is the state of all files that a reload reads.
func (r *reloader) all() map[string]string {
	return states(append(registriesFiles(r.p.now.Load().conf), r.from.File, r.from.Dir))
}

func registriesFiles(c *config.Config) []string {
	rules := imageRules(c)
	return rules.Files()
}

// states tells which files there are below some paths, and which content they have by
// inode, size and time.
func states(paths []string) map[string]string {
	set := map[string]string{}
	for _, path := range paths {
		if path == "" {
			continue
		}
		_ = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				var st unix.Stat_t
				if unix.Stat(path, &st) == nil {
					set[path] = fmt.Sprint(st.Ino, st.Size, st.Mtim)
				}
			}
			return nil
		})
	}
	return set
}

// reload reads everything again. told: somebody asked for it; files that options name
// are read again even if no option has changed.
func (r *reloader) reload(told bool) {
	l := r.p.log
	// A watched folder has other files too: they are no reason to read ours.
	files := r.all()
	if !told && maps.Equal(files, r.files) {
		return
	}
	r.files = files
	next, warnings, err := r.from.Load()
	if err != nil {
		r.p.observers.Metrics.Reload("refused")
		l.Error("the configuration is not reloaded, the present one stays", "err", err)
		return
	}
	old := r.p.now.Load()
	merged, changed, restart := old.conf.Next(next)
	seen := states(registriesFiles(merged))
	if !maps.Equal(seen, r.seen) {
		changed = append(changed, "registries.conf")
	}
	if len(changed) == 0 && !told { // asked, files that options name are read again as well
		if !slices.Equal(restart, r.told) {
			tell(l, "the configuration has nothing new that is live", changed, restart)
			r.told = restart
		}
		return
	}
	for _, w := range warnings {
		l.Warn(w)
	}
	if err := r.apply(old, merged); err != nil {
		r.p.observers.Metrics.Reload("refused")
		l.Error("the configuration is not reloaded, the present one stays", "err", err, "changed", strings.Join(changed, " "))
		return
	}
	r.p.observers.Metrics.Reload("applied")
	r.seen, r.told = seen, restart
	tell(l, "configuration reloaded", changed, restart)
}

func tell(l *slog.Logger, what string, changed, restart []string) {
	var attrs []any
	attrs = append(attrs, "changed", cmp.Or(strings.Join(changed, " "), "nothing"))
	if len(restart) > 0 {
		attrs = append(attrs, "needRestart", strings.Join(restart, " "))
	}
	l.Info(what, attrs...)
}

// apply prepares every part, then commits: what follows the last check cannot fail.
func (r *reloader) apply(old *generation, c *config.Config) error {
	g, err := r.p.newGeneration(c)
	if err != nil {
		return err
	}
	used := map[string]int{}
	for _, v := range r.p.pods.Pods() {
		used[v.Request.Handler]++
	}
	for _, v := range r.p.pods.Containers() {
		if name := v.Request.Handler; handlerName(name) != name {
			used[name]++
		}
	}
	if err := g.keepsUsed(old, used); err != nil {
		return err
	}
	commit, err := r.p.images.Prepare(imageRules(c))
	if err != nil {
		return err
	}
	if err := g.classes.Apply(rdtGroups(c), r.p.log); err != nil {
		return errors.Join(err, old.classes.Apply(rdtGroups(c), r.p.log))
	}
	r.p.now.Store(g)
	commit()
	r.p.preloaded.Use(c.Image.ImagesDir)
	r.from.Level.Set(c.Runtime.LogLevel, c.LogFilter())
	return nil
}

// signalled is a reload that the service manager may wait for, systemd.service(5),
// Type=notify-reload.
func (r *reloader) signalled() {
	err := service.Reloading()
	r.reload(true)
	if err == nil {
		err = service.Notify("READY=1")
	}
	if err != nil {
		r.p.log.Warn("cannot tell the service manager of the reload", "err", err)
	}
}
