// Package cdi adds devices of the Container Device Interface to a specification: the
// files in which vendors say what a device needs (nodes, mounts, hooks, environment)
// are read when a container asks for one, and at no other time.
//
// It knows the OCI runtime specification and the CDI library, and no container.
package cdi

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// Devices finds devices in CDI specifications; see https://cdi.dev.
type Devices struct {
	// Dirs hold the specifications (*.json, *.yaml); a later one wins over an
	// earlier one. Absent folders are empty.
	Dirs []string
}

// Names are the devices that a request asks for: those of the CRI's own field, and
// those of annotations cdi.k8s.io/..., which older device plugins set.
func Names(field []string, annotations map[string]string) ([]string, error) {
	names := slices.Clone(field)
	wanted := map[string]string{}
	for k, v := range annotations {
		if strings.HasPrefix(k, cdi.AnnotationPrefix) {
			wanted[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		_, list, err := cdi.ParseAnnotations(map[string]string{k: wanted[k]})
		if err != nil {
			return nil, errs.Invalid("annotation %s: %w", k, err)
		}
		for _, n := range list {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names, nil
}

// Inject adds devices, named VENDOR/CLASS=NAME, to a specification. The kind of the
// error is Invalid for a device that no file describes, and the specification is
// unchanged then.
func (d Devices) Inject(s *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(d.Dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return err
	}
	_ = cache.Refresh() // broken files are told below, if a device is missing
	missing, err := cache.InjectDevices(s, names...)
	if len(missing) > 0 {
		why := errs.Invalid("CDI device %s is described nowhere in %s (cdi_spec_dirs)", strings.Join(missing, ", "), strings.Join(d.Dirs, ", "))
		for _, path := range slices.Sorted(maps.Keys(cache.GetErrors())) {
			why = errs.Errorf(errs.KindInvalid, "%w; %s cannot be used: %w", why, path, errors.Join(cache.GetErrors()[path]...))
		}
		return why
	}
	if err != nil {
		return errs.Invalid("cannot add CDI devices %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}
