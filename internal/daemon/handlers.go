package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/command"
	"github.com/monocrio/monocrio/internal/oci/libct"
	"github.com/monocrio/monocrio/internal/oci/shim"
	"github.com/monocrio/monocrio/internal/pod/process"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// minMemory is the smallest memory limit under which runc, embedded or not, starts
// a container; crun's section of crio.conf can say less.
const minMemory = "12MiB"

// newHandlers makes the runtime handlers of the configuration ready.
func newHandlers(c *config.Config, bin string, driver cgroup.Driver, log *slog.Logger) (handlers, error) {
	hs := handlers{byName: map[string]*process.Handler{}, platforms: map[string]*process.Handler{}, features: map[string]func() *api.RuntimeHandlerFeatures{}, def: c.Runtime.DefaultRuntime}
	for name := range c.Runtime.Runtimes {
		h, kind := c.Runtime.Effective(name)
		table := "crio.runtime.runtimes." + name
		ph := &process.Handler{Name: name, Monitor: filepath.Join(bin, "conmon"), Argv0: "conmon", Env: monitorEnv(cmpList(h.MonitorEnv, c.Runtime.ConmonEnv)),
			NoSyncLog: h.NoSyncLog || c.Runtime.NoSyncLog, MakeTime: time.Duration(h.CreateTimeout) * time.Second,
			MonitorCgroup: cmp.Or(h.MonitorCgroup, c.Runtime.ConmonCgroup)}
		for _, foreign := range []string{c.Runtime.Conmon, h.MonitorPath} {
			if foreign != "" {
				ph.Monitor, ph.Argv0 = foreign, foreign
			}
		}
		if err := checkPlace(driver, table, ph.MonitorCgroup); err != nil {
			return hs, err
		}
		var err error
		if ph.MinMemory, err = config.ParseBytes(cmp.Or(h.ContainerMinMemory, minMemory)); err != nil {
			return hs, err
		}
		m := runtimeMaker{root: cmp.Or(h.Root, filepath.Join(c.Crio.RunDir, "runtime", kind)), bin: bin, systemd: driver == cgroup.Systemd, log: log, handler: h}
		if ph.Runtime, err = m.make(kind, h.Path); err != nil {
			return hs, errs.Invalid("[%s] runtime_path: %w", table, err)
		}
		hs.byName[name], hs.features[name] = ph, sync.OnceValue(func() *api.RuntimeHandlerFeatures { return askFeatures(ph, log) })
		for platform, path := range h.PlatformRuntimePaths {
			other := *ph
			other.Name = platformHandler(name, platform)
			if other.Runtime, err = m.make(kind, path); err != nil {
				return hs, errs.Invalid("[%s] platform_runtime_paths: %w", table, err)
			}
			hs.platforms[other.Name] = &other
		}
	}
	return hs, nil
}

// cmpList is the first list that is not empty.
func cmpList(lists ...[]string) []string {
	for _, l := range lists {
		if len(l) > 0 {
			return l
		}
	}
	return nil
}

// runtimeMaker makes the runtimes of one handler.
type runtimeMaker struct {
	root, bin string
	systemd   bool
	log       *slog.Logger
	handler   config.Handler
}

func (m *runtimeMaker) make(kind, path string) (oci.Runtime, error) {
	if m.handler.Type == config.TypeVM {
		return shim.New(shim.Options{Path: path, Name: kind, Config: m.handler.ConfigPath, PullImage: m.handler.PullImage,
			Root: m.root, Self: filepath.Join(m.bin, "shimrun"), Systemd: m.systemd, Log: m.log})
	}
	if kind == config.Embedded && path == "" {
		return libct.New(libct.Options{Root: m.root, Systemd: m.systemd, Self: filepath.Join(m.bin, "runc"), Log: m.log}), nil
	}
	return command.New(command.Options{Path: cmp.Or(path, kind), Name: kind, Root: m.root, Systemd: m.systemd, Log: m.log})
}

// platformHandler is the name, on record only, of a handler with the runtime of another
// platform. No handler's own name has a colon.
func platformHandler(name, platform string) string { return name + ":" + platform }

// handlerName is the handler in crio.conf that a recorded name means.
func handlerName(recorded string) string {
	name, _, _ := strings.Cut(recorded, ":")
	return name
}

// checkPlace refuses a monitor_cgroup that the node's driver cannot make.
func checkPlace(d cgroup.Driver, table, place string) error {
	slice := strings.HasSuffix(place, ".slice")
	switch {
	case place == "" || place == "pod" || d == cgroup.Systemd && slice:
		return nil
	case d == cgroup.Systemd:
		return errs.Invalid("[%s] monitor_cgroup = %q: with systemd as cgroup manager it is \"pod\" or the name of a slice", table, place)
	case slice:
		return errs.Invalid("[%s] monitor_cgroup = %q: slices need systemd as cgroup_manager; here it is \"pod\" or the absolute path of a cgroup", table, place)
	}
	return nil
}

// places implements process.Places.
type places struct{ driver cgroup.Driver }

// monitorPrefix begins the names of monitors' cgroups.
const monitorPrefix = "crio-conmon"

func (p places) Place(pid int, of, pod, id string) error {
	if p.driver != cgroup.Systemd {
		return cgroup.Place(pid, cmp.Or(p.Path(of, pod, id), of))
	}
	if of == "pod" {
		of = filepath.Base(pod)
	}
	return cgroup.PlaceScope(pid, of, monitorPrefix, id)
}

// Path is empty with systemd: a scope goes with its last process.
func (p places) Path(of, pod, id string) string {
	if p.driver == cgroup.Systemd || of != "pod" {
		return ""
	}
	return filepath.Join(pod, monitorPrefix+"-"+id)
}

func (p places) Remove(ctx context.Context, path string) error {
	return cgroup.Remove(ctx, p.driver, path)
}
