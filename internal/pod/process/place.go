package process

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
)

// Places moves monitors to the cgroups that handlers name (package linux/cgroup).
type Places interface {
	// Place moves the process, the monitor of a container whose pod has the cgroup.
	// of is the handler's monitor_cgroup.
	Place(pid int, of, pod, id string) error
	// Path is the cgroup that Place makes for this monitor alone; "" if it makes none.
	Path(of, pod, id string) string
	// Remove deletes such a cgroup; absence is success.
	Remove(ctx context.Context, path string) error
}

// placeFile, in a bundle, names the cgroup that was made for the monitor.
const placeFile = "monitor.cgroup"

// In returns what moves the monitor of a container to where its handler wants it, nil if
// it stays.
func (o *Host) In(h *Handler, pod, bundle, id string) func(pid int) error {
	if h.MonitorCgroup == "" {
		return nil
	}
	return func(pid int) error {
		if path := o.Places.Path(h.MonitorCgroup, pod, id); path != "" {
			// First, so that it is deleted whatever happens to us.
			if err := fsx.WriteFile(filepath.Join(bundle, placeFile), []byte(path), 0o600, fsx.Process); err != nil {
				return err
			}
		}
		return o.Places.Place(pid, h.MonitorCgroup, pod, id)
	}
}

// leave deletes the cgroup of a monitor that has ended. One that a process is still in
// goes with its pod.
func (o *Host) leave(ctx context.Context, bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, placeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := o.Places.Remove(ctx, strings.TrimSpace(string(data))); err != nil && !errs.Is(err, errs.KindPrecondition) {
		return err
	}
	return os.Remove(filepath.Join(bundle, placeFile))
}
