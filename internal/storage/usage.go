package storage

import (
	"errors"
	"os"
	"path/filepath"

	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// Usage is what files take on one file system.
type Usage struct {
	Path          string // a folder on it
	Bytes, Inodes uint64
}

// Usage tells what the layers of images take, and what the writable layers of all
// containers of the store take. A layer of an image is measured once: it never
// changes.
func (s *Store) Usage() (images, containers Usage, err error) {
	images.Path, containers.Path = filepath.Join(s.opts.Root, s.Driver()+"-images"), filepath.Join(s.opts.Root, s.Driver()+"-containers")
	if s.opts.ImageStore != "" {
		images.Path = filepath.Join(s.opts.ImageStore, s.Driver()+"-images")
	}
	layers, err := s.store.Layers()
	if err != nil {
		return images, containers, err
	}
	list, err := s.store.Containers()
	if err != nil {
		return images, containers, err
	}
	writable := map[string]bool{}
	for _, c := range list {
		writable[c.LayerID] = true
	}
	for i := range layers {
		id, total := layers[i].ID, &images
		if writable[id] {
			total = &containers
		}
		u, e := s.layerUsage(id, !writable[id])
		err = errors.Join(err, e)
		total.Bytes += u.Bytes
		total.Inodes += u.Inodes
	}
	s.forget(layers)
	return images, containers, err
}

// ContainerUsage tells what one lease's writable layer takes.
func (s *Store) ContainerUsage(id string) (Usage, error) {
	c, err := s.store.Container(id)
	if err != nil {
		return Usage{}, kind(err)
	}
	return s.layerUsage(c.LayerID, false)
}

func (s *Store) layerUsage(id string, keep bool) (Usage, error) {
	s.mu.Lock()
	u, ok := s.sizes[id]
	s.mu.Unlock()
	if ok && keep {
		return u, nil
	}
	u = Usage{}
	err := walk(s.layerDir(id), map[uint64]bool{}, &u)
	if keep && err == nil {
		s.mu.Lock()
		s.sizes[id] = u
		s.mu.Unlock()
	}
	return u, err
}

// layerDir is where the driver keeps the files of a layer itself.
func (s *Store) layerDir(id string) string {
	for _, root := range []string{s.opts.Root, s.opts.ImageStore} {
		dir := filepath.Join(root, s.Driver(), id, "diff")
		if s.Driver() == "vfs" {
			dir = filepath.Join(root, "vfs", "dir", id)
		}
		if _, err := os.Lstat(dir); err == nil {
			return dir
		}
	}
	return ""
}

// walk adds up a folder. Hard links count once; what vanishes meanwhile counts
// nothing.
func walk(dir string, seen map[uint64]bool, u *Usage) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		if e.IsDir() {
			if err := walk(path, seen, u); err != nil {
				return err
			}
		} else if st.Nlink > 1 {
			if seen[st.Ino] {
				continue
			}
			seen[st.Ino] = true
		}
		u.Bytes += uint64(st.Blocks) * 512
		u.Inodes++
	}
	return nil
}

// forget drops the sizes of layers that are gone.
func (s *Store) forget(layers []storage.Layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sizes) <= len(layers) {
		return
	}
	there := make(map[string]bool, len(layers))
	for i := range layers {
		there[layers[i].ID] = true
	}
	for id := range s.sizes {
		if !there[id] {
			delete(s.sizes, id)
		}
	}
}
