package storage

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"go.podman.io/storage"
)

// Damage is one object of the store with what is wrong with it.
type Damage struct {
	Kind   string // layer, image or container; with "read-only " before it: of an additional store
	ID     string
	Names  []string // of an image or container
	Errors []error
	// Users are the containers, anybody's, that have it.
	Users []string
}

// CheckOptions say how thorough a check is.
type CheckOptions struct {
	// Quick looks whether layers can be mounted and their files of metadata are there;
	// otherwise the content of each file is compared with the digests.
	Quick bool
	// MaxAge is how old a layer may be that no image and no container has: it may be
	// of a pull in progress.
	MaxAge time.Duration
}

// Check looks for damage; images before the layers that they consist of. Nothing is
// changed.
func (s *Store) Check(o CheckOptions) ([]Damage, error) {
	how := storage.CheckEverything()
	if o.Quick {
		how = storage.CheckMost()
	}
	how.LayerUnreferencedMaximumAge = &o.MaxAge
	r, err := s.store.Check(how)
	if err != nil {
		return nil, fmt.Errorf("cannot check the image store at %s: %w", s.opts.Root, err)
	}
	var list []Damage
	for _, k := range []struct {
		kind string
		set  map[string][]error
	}{{"container", r.Containers}, {"image", r.Images}, {"read-only image", r.ROImages}, {"layer", r.Layers}, {"read-only layer", r.ROLayers}} {
		var ids []string
		for id := range k.set {
			if !isProbe(id) { // the daemon sweeps them
				ids = append(ids, id)
			}
		}
		slices.Sort(ids)
		for _, id := range ids {
			d := Damage{Kind: k.kind, ID: id, Errors: k.set[id]}
			s.describe(&d)
			list = append(list, d)
		}
	}
	return list, nil
}

// describe adds names and users; what cannot be read any more has none.
func (s *Store) describe(d *Damage) {
	switch d.Kind {
	case "container":
		if c, err := s.store.Container(d.ID); err == nil {
			d.Names = c.Names
		}
	case "image", "read-only image":
		if i, err := s.store.Image(d.ID); err == nil {
			d.Names = i.Names
		}
		d.Users, _ = s.Users(d.ID)
	}
}

// Mend removes one damaged object, so that a pull can bring it anew. Others' read-only
// stores are not ours to mend. A container, and what containers use, goes with force
// alone. The kind of the error is Precondition if it is in use.
func (s *Store) Mend(d Damage, force bool) error {
	one := map[string][]error{d.ID: d.Errors}
	var r storage.CheckReport
	switch d.Kind {
	case "layer":
		r.Layers = one
	case "image":
		if len(d.Users) > 0 {
			return errs.Precondition("cannot mend image %s: containers %v use it; remove them first", d.ID, d.Users)
		}
		r.Images = one
	case "container":
		if !force {
			return errs.Precondition("container %s is not removed without --force", d.ID)
		}
		r.Containers = one
	default:
		return errs.Precondition("cannot mend %s %s: its store is read-only; mend it where it is made", d.Kind, d.ID)
	}
	return errors.Join(s.store.Repair(r, &storage.RepairOptions{RemoveContainers: force})...)
}
