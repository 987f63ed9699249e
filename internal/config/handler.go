package config

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
)

// Effective is a handler as it is used: with what it takes from the default one. kind is
// the name whose rules hold for an empty runtime_path.
func (r *Runtime) Effective(name string) (h Handler, kind string) {
	h, kind = r.Runtimes[name], name
	if h.InheritDefault && name != r.DefaultRuntime {
		d := r.Runtimes[r.DefaultRuntime]
		kind = r.DefaultRuntime
		h.Path, h.Root, h.Type, h.ConfigPath = d.Path, d.Root, d.Type, d.ConfigPath
	}
	return h, kind
}

// highPerformance in a handler's name allows the annotations for processors: the way of
// old configurations.
const highPerformance = "high-performance"

// Allowed are the annotations that may act on a pod of a handler with these annotations:
// those of the handler and of the workloads that the pod activates.
func (r *Runtime) Allowed(handler string, pod map[string]string) annotation.Allowed {
	list := annotation.Allowed(r.Runtimes[handler].AllowedAnnotations)
	if list == nil && handler == r.DefaultRuntime {
		list = annotation.Allowed{annotation.Devices} // bounded by allowed_devices
	}
	list = append(annotation.Allowed{}, list...)
	if strings.Contains(handler, highPerformance) {
		list = append(list, annotation.Performance()...)
	}
	for _, name := range r.Activated(pod) {
		list = append(list, r.Workloads[name].AllowedAnnotations...)
	}
	return list
}

// Activated names the workloads that a pod with these annotations belongs to.
func (r *Runtime) Activated(pod map[string]string) (names []string) {
	for _, name := range sortedKeys(r.Workloads) {
		if _, ok := pod[r.Workloads[name].ActivationAnnotation]; ok {
			names = append(names, name)
		}
	}
	return names
}

// checkHandler refuses what cannot be meant in a handler's table.
func (c *Config) checkHandler(table string, h *Handler) error {
	err := errors.Join(c.checkAllowed(table, h.AllowedAnnotations), c.checkType(table, h))
	if m := h.MonitorCgroup; m != "" && m != "pod" && !strings.HasSuffix(m, ".slice") && !filepath.IsAbs(m) {
		err = errors.Join(err, c.bad(table, "monitor_cgroup", m, `allowed are "pod", the name of a slice, or the absolute path of a cgroup`))
	}
	for _, p := range sortedKeys(h.PlatformRuntimePaths) {
		if n := strings.Count(p, "/"); n < 1 || n > 2 || strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") {
			err = errors.Join(err, c.bad(table, "platform_runtime_paths", p, "write OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, such as wasi/wasm"))
		}
		if path := h.PlatformRuntimePaths[p]; !filepath.IsAbs(path) {
			err = errors.Join(err, c.bad(table, "platform_runtime_paths", path, "an absolute path is needed"))
		}
	}
	for _, k := range sortedKeys(h.DefaultAnnotations) {
		if k == "" {
			err = errors.Join(err, c.bad(table, "default_annotations", k, "an annotation needs a name"))
		}
	}
	return err
}

// The types of handlers.
const (
	TypeVM  = "vm"  // a shim of version 2
	typePod = "pod" // one conmon-rs for each pod
)

// checkType refuses what does not belong to a handler's type.
func (c *Config) checkType(table string, h *Handler) (err error) {
	switch {
	case h.Type == typePod:
		return c.bad(table, "runtime_type", h.Type, `a monitor for a whole pod (conmon-rs) is not known here: each container has a small one of its own, which serves exec, attach and logs alike; write "oci" or leave it out`)
	case h.Type != TypeVM:
		for key, set := range map[string]bool{"runtime_config_path": h.ConfigPath != "", "runtime_pull_image": h.PullImage} {
			if set && !h.InheritDefault {
				err = errors.Join(err, errs.Invalid(`[%s] %s has a meaning with runtime_type = "vm" only; leave it out`, table, key))
			}
		}
	case h.Path == "" && !h.InheritDefault:
		err = c.bad(table, "runtime_path", h.Path, "with runtime_type = \"vm\" it is the absolute path of a shim, such as /usr/bin/containerd-shim-kata-v2")
	case len(h.PlatformRuntimePaths) > 0:
		err = errs.Invalid(`[%s] platform_runtime_paths: with runtime_type = "vm" a pod has one shim for all its containers; leave it out`, table)
	}
	return err
}

// checkAllowed refuses names that allow nothing: whoever writes one expects an effect.
func (c *Config) checkAllowed(table string, names []string) (err error) {
	for _, n := range names {
		if !annotation.Allowable(n) {
			err = errors.Join(err, c.bad(table, "allowed_annotations", n, "no annotation of that name acts; those that do are "+known()))
		}
	}
	return err
}

func known() string {
	var names []string
	for _, k := range annotation.Table() {
		names = append(names, k.Name)
	}
	return strings.Join(names, ", ")
}

// devices refuses entries of allowed_devices that no request could match.
func (c *Config) devices() (err error) {
	for _, d := range c.Runtime.AllowedDevices {
		if !filepath.IsAbs(d) || filepath.Clean(d) != d {
			err = errors.Join(err, c.bad("crio.runtime", "allowed_devices", d, "the absolute path of a device is needed"))
		}
	}
	return err
}
