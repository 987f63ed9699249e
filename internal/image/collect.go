package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// orphanAge is how long layers that belong to no image are kept: a pull that is
// tried again finds them, and a pull of another program may still be adding to
// them.
const orphanAge = time.Hour

// Collect deletes what pulls have left that ended badly: the temporary files of an
// earlier daemon, and layers that belong to no image and no container and are older
// than an hour. Only a daemon that owns its state may call it.
func (s *Service) Collect() {
	for _, path := range s.stale {
		if err := os.RemoveAll(path); err != nil {
			s.opts.Log.Warn("cannot delete what an interrupted pull has left", "path", path, "err", err)
		}
	}
	s.stale = nil
	if err := s.opts.Store.SweepProbes(time.Minute); err != nil {
		s.opts.Log.Warn("cannot delete what another start has left in the image store", "err", err)
	}
	if s.opts.Artifacts != nil {
		if err := s.opts.Artifacts.Collect(); err != nil {
			s.opts.Log.Warn("cannot delete what belongs to no artifact", "err", err)
		}
	}
	s.tidy()
}

// tidy collects layers, unless a pull is in flight: its layers have no image yet,
// and the last pull tidies up after all. After a disk was full no age protects them.
func (s *Service) tidy() {
	if !s.active.TryLock() {
		return
	}
	defer s.active.Unlock()
	age := orphanAge
	if s.full.Swap(false) {
		age = 0
	}
	s.collect(age)
}

func (s *Service) collect(age time.Duration) {
	layers, err := s.store.Layers()
	if err != nil {
		s.opts.Log.Warn("cannot look for layers without an image", "err", err)
		return
	}
	used, err := s.used()
	if err != nil {
		s.opts.Log.Warn("cannot look for layers without an image", "err", err)
		return
	}
	parent := map[string]string{}
	for i := range layers {
		parent[layers[i].ID] = layers[i].Parent
	}
	for id := range used {
		for p := parent[id]; p != "" && !used[p]; p = parent[p] {
			used[p] = true
		}
	}
	// Children come before their parents: a layer with children cannot go.
	for again := true; again; {
		again = false
		for i := range layers {
			l := &layers[i]
			if used[l.ID] || l.ReadOnly || time.Since(l.Created) < age {
				continue
			}
			used[l.ID] = s.store.DeleteLayer(l.ID) == nil
			again = again || used[l.ID]
		}
	}
}

// used returns the layers that images and containers name.
func (s *Service) used() (map[string]bool, error) {
	used := map[string]bool{}
	images, err := s.store.Images()
	if err != nil {
		return nil, err
	}
	for i := range images {
		used[images[i].TopLayer] = true
		for _, l := range images[i].MappedTopLayers {
			used[l] = true
		}
	}
	containers, err := s.store.Containers()
	for i := range containers {
		used[containers[i].LayerID] = true
	}
	return used, err
}

// tempDir is where pulls put their temporary files: a folder of this store alone,
// beside its layers unless the options name another place, so that whatever is
// found in it at a start was left by a daemon that was killed.
func (s *Service) tempDir() string {
	root := s.store.GraphRoot()
	if s.store.ImageStore() != "" {
		root = s.store.ImageStore()
	}
	if s.opts.BigFilesDir == "" {
		return filepath.Join(root, "monocrio-pulls")
	}
	sum := sha256.Sum256([]byte(root))
	return filepath.Join(s.opts.BigFilesDir, "monocrio-pulls-"+hex.EncodeToString(sum[:4]))
}

// makeTempDir makes the folder for temporary files.
func (s *Service) makeTempDir() error {
	if err := os.MkdirAll(s.temp, 0o700); err != nil {
		return fmt.Errorf("cannot make the folder for temporary files (big_files_temporary_dir): %w", err)
	}
	return nil
}
