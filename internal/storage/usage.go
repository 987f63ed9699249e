package storage

import (
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
// changes. The paths are one unless images have a place of their own: a kubelet takes two
// for two file systems, looks for the second in vain and then has no statistics at all and
// evicts nothing.
func (s *Store) Usage() (images, containers Usage, err error) {
	images.Path = filepath.Join(s.opts.Root, s.Driver()+"-images")
	containers.Path = images.Path
	if s.opts.ImageStore != "" {
		images.Path, containers.Path = filepath.Join(s.opts.ImageStore, s.Driver()+"-images"), s.ContainersPath()
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
		u := s.layerUsage(id, !writable[id])
		total.Bytes += u.Bytes
		total.Inodes += u.Inodes
	}
	s.forget(layers)
	return images, containers, nil
}

// ContainersPath is a folder on the file system of the writable layers.
func (s *Store) ContainersPath() string { return filepath.Join(s.opts.Root, s.Driver()+"-containers") }

// ContainerUsage tells what one lease's writable layer takes.
func (s *Store) ContainerUsage(id string) (Usage, error) {
	c, err := s.store.Container(id)
	if err != nil {
		return Usage{}, kind(err)
	}
	return s.layerUsage(c.LayerID, false), nil
}

func (s *Store) layerUsage(id string, keep bool) Usage {
	s.mu.Lock()
	u, ok := s.sizes[id]
	s.mu.Unlock()
	if ok && keep {
		return u
	}
	u = measure(s.layerDir(id))
	if keep {
		s.mu.Lock()
		s.sizes[id] = u
		s.mu.Unlock()
	}
	return u
}

// layerDir is where the driver keeps the files of a layer itself.
func (s *Store) layerDir(id string) string {
	for _, root := range []string{s.opts.Root, s.opts.ImageStore} {
		if root == "" {
			continue
		}
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

// maxDepth bounds the walk, which holds one open file per level: a container can
// nest folders without end. What is deeper is not counted.
const maxDepth = 256

// measure adds up a folder. Hard links count once; what vanishes meanwhile and what
// cannot be read count nothing: a container must not be able to spoil the sum. For
// the same reason no symbolic link is followed.
func measure(dir string) (u Usage) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		walk(os.NewFile(uintptr(fd), dir), map[uint64]bool{}, &u, maxDepth)
	}
	return u
}

// walk adds up an open folder and closes it.
func walk(dir *os.File, seen map[uint64]bool, u *Usage, depth int) {
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1024)
		if err != nil {
			return
		}
		for _, name := range names {
			var st unix.Stat_t
			if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
			if !isDir && st.Nlink > 1 {
				if seen[st.Ino] {
					continue
				}
				seen[st.Ino] = true
			}
			u.Bytes += uint64(st.Blocks) * 512
			u.Inodes++
			if !isDir || depth == 0 {
				continue
			}
			fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == nil {
				walk(os.NewFile(uintptr(fd), name), seen, u, depth-1)
			}
		}
	}
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
