package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/artifact"
	"github.com/monocrio/monocrio/internal/storage"
	"golang.org/x/sys/unix"
)

// Config tells what the files say that cannot be meant, or has no effect.
func Config(warnings []string) Look {
	return func(context.Context) (list []Finding) {
		for _, w := range warnings {
			list = append(list, found("config", Warn, "", "%s", w))
		}
		if len(list) == 0 {
			list = append(list, ok("config", "every value can be meant"))
		}
		return list
	}
}

// Can turns a function that tells what is wrong into a look.
func Can(area, fine, remedy string, f func(context.Context) error) Look {
	return func(ctx context.Context) []Finding {
		if err := f(ctx); err != nil {
			return []Finding{found(area, Fail, remedy, "%v", err)}
		}
		return []Finding{ok(area, "%s", fine)}
	}
}

// Clock finds a clock that was never set: certificates and leases fail by it.
func Clock(context.Context) []Finding {
	if now := time.Now(); now.Year() < 2025 {
		return []Finding{found("clock", Fail, "set it, or wait for NTP before the kubelet starts", "it shows %s: certificates of registries look as if they came from the future", now.Format(time.DateTime))}
	}
	return []Finding{ok("clock", "%s", time.Now().Format(time.RFC3339))}
}

// Disk looks for space and inodes where we write.
func Disk(dirs map[string]string) Look {
	return func(context.Context) (list []Finding) {
		seen := map[unix.Fsid]bool{}
		for _, dir := range slices.Sorted(maps.Keys(dirs)) {
			at, st := existing(dir), unix.Statfs_t{}
			if err := unix.Statfs(at, &st); err != nil {
				list = append(list, found("disk", Fail, "", "cannot ask for the space of %s: %v", at, err))
				continue
			}
			if seen[st.Fsid] && st.Fsid != (unix.Fsid{}) {
				continue
			}
			seen[st.Fsid] = true
			free, total := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
			switch {
			case st.Flags&unix.ST_RDONLY != 0:
				list = append(list, found("disk", Fail, "remount it, or set "+dirs[dir], "%s is read-only", dir))
			case total > 0 && free < min(total/20, 1<<30):
				list = append(list, found("disk", Warn, "remove images, or enlarge it", "%s has %d MiB of %d left", dir, free>>20, total>>20))
			case st.Files > 0 && st.Ffree < st.Files/50:
				list = append(list, found("disk", Warn, "remove small files", "%s has %d of %d inodes left", dir, st.Ffree, st.Files))
			default:
				list = append(list, ok("disk", "%s: %d of %d MiB free", dir, free>>20, total>>20))
			}
		}
		return list
	}
}

// existing is a path, or the nearest one above it that exists.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

// Storage checks the image store. force allows to remove damaged containers when it
// is mended.
func Storage(s *storage.Store, o storage.CheckOptions, force bool) Look {
	return func(context.Context) (list []Finding) {
		damage, err := s.Check(o)
		if err != nil {
			return []Finding{found("storage", Fail, "", "%v", err)}
		}
		for _, d := range damage {
			what := d.Kind + " " + short(d.ID)
			if len(d.Names) > 0 {
				what += " (" + strings.Join(d.Names, ", ") + ")"
			}
			f := found("storage", Fail, "crio check --repair removes it; the next pull brings it anew", "%s: %v", what, errors.Join(d.Errors...))
			f.Kind, f.ID = d.Kind, d.ID
			f.mend = func(context.Context) error { return s.Mend(d, force) }
			list = append(list, f)
		}
		if len(list) == 0 {
			list = append(list, ok("storage", "no damage to images, layers and containers"))
		}
		return list
	}
}

// Artifacts is Storage for OCI artifacts.
func Artifacts(s *artifact.Store, quick bool) Look {
	return func(context.Context) (list []Finding) {
		damage, err := s.Check(quick)
		if err != nil {
			return []Finding{found("storage", Fail, "restore it, or delete it: what it lists is pulled anew", "%v", err)}
		}
		for _, d := range damage {
			f := found("storage", Fail, "crio check --repair removes it; the next pull brings it anew", "artifact %s (%s): %v", short(d.ID), strings.Join(d.Names, ", "), d.Err)
			f.Kind, f.ID = "artifact", d.ID
			f.mend = func(context.Context) error { return s.Remove(d.ID) }
			list = append(list, f)
		}
		return list
	}
}

func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// Quarantine lists records that could not be read and were put aside.
func Quarantine(dir string) Look {
	return func(context.Context) (list []Finding) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return []Finding{found("leftovers", Warn, "", "%v", err)}
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			f := found("leftovers", Warn, "look at it, then crio check --repair deletes it", "a record that could not be read was put aside: %s", path)
			f.Kind, f.ID = "record", e.Name()
			f.mend = func(context.Context) error { return os.RemoveAll(path) }
			list = append(list, f)
		}
		return list
	}
}

// Leftovers lists what bears our mark and has no record. The daemon removes it when it
// starts and while it runs; here it is only told.
func Leftovers(what string, have func(context.Context) ([]string, error), records func(id string) bool) Look {
	return func(ctx context.Context) (list []Finding) {
		ids, err := have(ctx)
		if err != nil {
			return []Finding{found("leftovers", Warn, "", "%v", err)}
		}
		for _, id := range ids {
			if !records(id) {
				list = append(list, found("leftovers", Note, "the daemon removes it when it starts", "%s %s belongs to nobody", what, id))
			}
		}
		return list
	}
}

// Dirs lists the folders in one, for Leftovers.
func Dirs(dir string) func(context.Context) ([]string, error) {
	return func(context.Context) (names []string, err error) {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if err != nil {
			err = fmt.Errorf("cannot look for leftovers: %w", err)
		}
		return names, err
	}
}
