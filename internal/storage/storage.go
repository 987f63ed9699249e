// Package storage opens the machine's containers/storage and leases writable layers
// over its images.
//
// The store is the one that podman, buildah and skopeo use: same places, same
// formats, so all of them see the same images. A lease is a container of the store
// that bears our mark in its metadata; others' containers are left alone. Layers
// become visible only when their data is on the disk (overlay option sync); leases
// are volatile: a power cut ends their containers too.
//
// It knows no pod and no registry. Besides it, only package image may use the
// libraries' types, to write images.
package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/idtools"
	"go.podman.io/storage/types"
	"golang.org/x/sys/unix"
)

// Options say where the store is.
type Options struct {
	Root, RunRoot, ImageStore string
	Driver                    string // overlay or vfs
	DriverOptions             []string
	// Additional are stores that are used in place and never written to.
	Additional []string
	Log        *slog.Logger
}

// Store is an open store.
type Store struct {
	store storage.Store
	// durable is the same store through a second handle, which forces the files of
	// a layer to the disk before the layer is listed. Images are written through
	// it. A lease is not worth that (a syncfs takes from 5 to 200 ms and ends no
	// sooner for other people's writes): a power cut ends its container too.
	durable storage.Store
	opts    Options

	mu    sync.Mutex
	sizes map[string]Usage // of layers that images are made of; they never change
}

// mark is the metadata of our containers in the store.
type mark struct {
	Owner string `json:"owner"`
	Pod   string `json:"pod"`
}

const owner = "monocrio"

// Open opens or makes the store.
func Open(o Options) (*Store, error) {
	// The library would make it passable for root alone; users of user namespaces
	// must get through to their own layers.
	if err := os.MkdirAll(o.Root, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the image store, %s (driver %s): %w", o.Root, o.Driver, err)
	}
	o.DriverOptions = append(slices.Clone(o.DriverOptions), o.additional()...)
	options := types.StoreOptions{
		GraphRoot: o.Root, RunRoot: o.RunRoot, ImageStore: o.ImageStore,
		GraphDriverName: o.Driver, GraphDriverOptions: o.DriverOptions,
	}
	s, err := storage.GetStore(options)
	if err != nil {
		return nil, fmt.Errorf("cannot open the image store at %s with driver %s: %w", o.Root, o.Driver, err)
	}
	durable := s
	if o.Driver == "overlay" && !has(o.DriverOptions, "overlay.sync=") {
		options.RunRoot = filepath.Join(o.RunRoot, "pulls") // another folder makes it another handle
		options.GraphDriverOptions = append([]string{"overlay.sync=filesystem"}, o.DriverOptions...)
		if durable, err = storage.GetStore(options); err != nil {
			s.Free()
			return nil, fmt.Errorf("cannot open the image store at %s for pulls: %w", o.Root, err)
		}
	}
	if err := letThrough(s.GraphRoot()); err != nil {
		return nil, fmt.Errorf("cannot let users of other namespaces pass to their files: %w", err)
	}
	return &Store{store: s, durable: durable, opts: o, sizes: map[string]Usage{}}, nil
}

// additional are the options by which the driver gets the additional stores. One that is
// not there, as on a medium that is not mounted, must not keep the node from working.
func (o *Options) additional() (list []string) {
	for _, dir := range o.Additional {
		if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
			if o.Log != nil {
				o.Log.Error("an additional image store is not used: it is no folder; mount it, and restart the daemon", "path", dir, "err", err)
			}
			continue
		}
		list = append(list, "imagestore="+dir)
	}
	return list
}

// letThrough lets everybody pass a folder, not read it: the root of a user namespace
// is a common user outside, and its files are below.
func letThrough(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil || fi.Mode().Perm()&0o011 == 0o011 {
		return err
	}
	return os.Chmod(dir, fi.Mode().Perm()|0o011)
}

func has(options []string, prefix string) bool {
	for _, o := range options {
		if strings.HasPrefix(o, prefix) {
			return true
		}
	}
	return false
}

// Close lets go of the store. Mounted leases stay mounted.
func (s *Store) Close() error {
	s.durable.Free()
	s.store.Free()
	return nil
}

// Teardown unmounts what the store keeps mounted for itself; for an end that must
// leave nothing behind.
func (s *Store) Teardown() error {
	s.durable.Free()
	_, err := s.store.Shutdown(false)
	s.store.Free()
	return errors.Join(err, mount.Unmount(filepath.Join(s.opts.Root, s.opts.Driver)))
}

// Raw is the library's store, for package image.
func (s *Store) Raw() storage.Store { return s.store }

// Durable is the handle through which images are written.
func (s *Store) Durable() storage.Store { return s.durable }

// Driver is the name of the storage driver.
func (s *Store) Driver() string { return s.store.GraphDriverName() }

// Lease is a writable layer wanted for one container.
type Lease struct {
	ID, Image, Pod string
	UIDs, GIDs     []specs.LinuxIDMapping // empty: the host's ids
	MountLabel     string
}

// Lease makes the writable layer of a container over an image, or finds the one
// that is there. The kind of the error is NotFound if the image is absent, and
// AlreadyExists if another program has a container of this id.
func (s *Store) Lease(_ context.Context, l Lease) error {
	if there, err := s.ownLease(l.ID); there || err != nil {
		return err
	}
	meta, err := json.Marshal(mark{Owner: owner, Pod: l.Pod})
	if err != nil {
		return err
	}
	opts := &storage.ContainerOptions{Volatile: true}
	if len(l.UIDs) > 0 {
		opts.IDMappingOptions = types.IDMappingOptions{UIDMap: idMap(l.UIDs), GIDMap: idMap(l.GIDs)}
	} else {
		opts.IDMappingOptions = types.IDMappingOptions{HostUIDMapping: true, HostGIDMapping: true}
	}
	if l.MountLabel != "" {
		// The library wants both or none, and does nothing with the process's but keep it.
		opts.Flags = map[string]any{"MountLabel": l.MountLabel, "ProcessLabel": l.MountLabel}
	} else {
		opts.LabelOpts = []string{"disable"} // or it would choose labels of its own
	}
	_, err = s.store.CreateContainer(l.ID, nil, l.Image, "", string(meta), opts)
	if err != nil {
		return fmt.Errorf("cannot make a layer over image %s: %w", l.Image, kind(err))
	}
	return nil
}

// ownLease tells whether a lease is there. A container of another program under its
// id is an error.
func (s *Store) ownLease(id string) (bool, error) {
	c, err := s.store.Container(id)
	switch {
	case errors.Is(err, storage.ErrContainerUnknown):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot look up the layer of %s: %w", id, err)
	case c.ID != id || !ours(c.Metadata):
		return false, errs.Errorf(errs.KindAlreadyExists, "cannot use the layer of %s: another program made it", id)
	}
	return true, nil
}

func idMap(list []specs.LinuxIDMapping) (m []idtools.IDMap) {
	for _, e := range list {
		m = append(m, idtools.IDMap{ContainerID: int(e.ContainerID), HostID: int(e.HostID), Size: int(e.Size)})
	}
	return m
}

// kind attaches the kind that an error of the library means.
func kind(err error) error {
	switch {
	case errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrContainerUnknown), errors.Is(err, storage.ErrLayerUnknown):
		return errs.With(errs.KindNotFound, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errs.Errorf(errs.KindExhausted, "the disk of the image store is full: %w", err)
	}
	return err
}

// Mount mounts a lease, unless it is mounted, and returns its folder.
func (s *Store) Mount(_ context.Context, id string) (string, error) {
	path, err := s.mounted(id)
	if err == nil && path == "" {
		path, err = s.store.Mount(id, "")
	}
	if err != nil {
		return "", fmt.Errorf("cannot mount the root file system of %s: %w", id, kind(err))
	}
	return path, s.letThrough(id, path)
}

// letThrough lets the root user of a lease's user namespace, and nobody else, pass
// the layer's private folder: the runtime works as that user. The folders above must
// let everybody pass; the store's own is made to, others are the operator's.
func (s *Store) letThrough(id, path string) error {
	c, err := s.store.Container(id)
	if err != nil || len(c.GIDMap) == 0 || s.Driver() != "overlay" {
		return kind(err)
	}
	for _, m := range c.GIDMap {
		if m.ContainerID == 0 && m.HostID != 0 {
			dir := filepath.Dir(path)
			return errors.Join(os.Chown(dir, 0, m.HostID), os.Chmod(dir, 0o710), s.openAbove(filepath.Dir(dir)))
		}
	}
	return nil
}

// openAbove checks that everybody can pass a folder and all those above it.
func (s *Store) openAbove(dir string) error {
	for ; ; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		if err != nil {
			return err
		}
		switch {
		case st.Mode()&0o001 != 0:
		case dir == s.store.GraphRoot():
			if err := os.Chmod(dir, st.Mode().Perm()|0o011); err != nil {
				return err
			}
		default:
			return errs.Precondition("cannot use a user namespace: its users cannot pass %s to their root file system; chmod o+x it", dir)
		}
		if dir == "/" {
			return nil
		}
	}
}

// mounted returns where a lease is mounted, "" if it is not.
func (s *Store) mounted(id string) (string, error) {
	c, err := s.store.Container(id)
	if err != nil {
		return "", kind(err)
	}
	if n, err := s.store.Mounted(c.LayerID); err != nil || n == 0 {
		return "", kind(err)
	}
	l, err := s.store.Layer(c.LayerID)
	if err != nil {
		return "", kind(err)
	}
	return l.MountPoint, nil
}

// Unmount undoes Mount; absence is success. Only our own are unmounted.
func (s *Store) Unmount(_ context.Context, id string) error {
	if there, err := s.ownLease(id); !there || err != nil {
		return err
	}
	for {
		still, err := s.store.Unmount(id, true)
		switch {
		case errors.Is(err, storage.ErrContainerUnknown), errors.Is(err, storage.ErrLayerUnknown), errors.Is(err, storage.ErrLayerNotMounted):
			return nil
		case err != nil:
			return fmt.Errorf("cannot unmount the root file system of %s: %w", id, err)
		case !still:
			return nil
		}
	}
}

// Release deletes a lease; absence is success. Only our own are deleted.
func (s *Store) Release(_ context.Context, id string) error {
	if there, err := s.ownLease(id); !there || err != nil {
		return err
	}
	if err := s.store.DeleteContainer(id); err != nil && !errors.Is(err, storage.ErrContainerUnknown) {
		return fmt.Errorf("cannot delete the layer of %s: %w", id, err)
	}
	return nil
}

// Diff is what a lease's layer changes, as a tar in which a file named .wh.X stands
// for one that is deleted. The caller closes it.
func (s *Store) Diff(_ context.Context, id string) (io.ReadCloser, error) {
	c, err := s.store.Container(id)
	if err != nil {
		return nil, kind(err)
	}
	plain := archive.Uncompressed
	r, err := s.store.Diff("", c.LayerID, &storage.DiffOptions{Compression: &plain})
	if err != nil {
		return nil, fmt.Errorf("cannot tell what changed in the root file system of %s: %w", id, kind(err))
	}
	return r, nil
}

func ours(metadata string) bool {
	var m mark
	return json.Unmarshal([]byte(metadata), &m) == nil && m.Owner == owner
}

// Leases lists the ids of our leases.
func (s *Store) Leases(context.Context) (ids []string, err error) {
	list, err := s.store.Containers()
	if err != nil {
		return nil, fmt.Errorf("cannot list the containers of the image store: %w", err)
	}
	for _, c := range list {
		if ours(c.Metadata) {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// Users returns the ids of the containers of the store that stand on an image, those
// of other programs included.
func (s *Store) Users(image string) (ids []string, err error) {
	list, err := s.store.Containers()
	for _, c := range list {
		if c.ImageID == image {
			ids = append(ids, c.ID)
		}
	}
	return ids, err
}
