package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/monocrio/monocrio/internal/checkpoint/archive"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// manifest lists what is in a pod's folder (pod.json).
type manifest struct {
	Version    int               `json:"version"`
	Handler    string            `json:"handler"`
	Containers map[string]string `json:"containers"` // name -> file
}

const (
	manifestFile    = "pod.json"
	manifestVersion = 1
)

// noOptions refuses options: there are none.
func noOptions(o map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(o)) {
		return errs.Invalid("option %q is not known; this runtime handler has none", k)
	}
	return nil
}

// Pod writes containers of a pod down as they are at one instant. ids are exactly
// those that run; dir is an existing empty folder, in which nothing is left after an
// error.
func (s *Service) Pod(ctx context.Context, id, dir string, ids []string, options map[string]string) (err error) {
	if err := errors.Join(s.ready("a checkpoint", s.Checkpoint), noOptions(options)); err != nil {
		return err
	}
	p, err := s.Pods.Pod(id)
	if err != nil {
		return err
	}
	list, err := s.selected(&p, ids)
	if err == nil {
		err = emptyDir(dir)
	}
	if err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.ID, err)
	}
	release, err := s.freeze(ctx, ids...)
	if err != nil {
		return fmt.Errorf("cannot checkpoint pod %s: %w", p.ID, err)
	}
	m := manifest{Version: manifestVersion, Handler: p.Request.Handler, Containers: map[string]string{}}
	for _, v := range list {
		file := v.ID + ".tar"
		m.Containers[v.Request.Config.GetMetadata().GetName()] = file
		if err = s.write(ctx, v, filepath.Join(dir, file)); err != nil {
			err = fmt.Errorf("container %s: %w", v.ID, err)
			break
		}
	}
	err = errors.Join(err, release())
	if err == nil {
		err = writeManifest(dir, m)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot checkpoint pod %s: %w", p.ID, err), empty(dir))
	}
	return nil
}

// selected checks that ids are the running containers of the pod, each once.
func (s *Service) selected(p *state.PodView, ids []string) (list []*state.ContainerView, err error) {
	if len(ids) == 0 {
		return nil, errs.Invalid("container_ids is empty")
	}
	if p.Status.Phase != state.Ready {
		return nil, errs.Precondition("it is %s", p.Status.Phase)
	}
	names := map[string]bool{}
	for i, id := range ids {
		v, err := s.dumpable(id)
		switch {
		case err != nil:
			return nil, err
		case v.Request.Pod != p.ID:
			return nil, errs.Invalid("container %s belongs to another pod", v.ID)
		case slices.Contains(ids[:i], id):
			return nil, errs.Invalid("container %s is named twice", v.ID)
		}
		name := v.Request.Config.GetMetadata().GetName()
		if names[name] {
			return nil, errs.Invalid("two containers are called %s", name)
		}
		names[name] = true
		list = append(list, v)
	}
	for _, v := range s.Pods.ContainersOf(p.ID) {
		if v.Status.State() == cri.ContainerState_CONTAINER_RUNNING && !slices.ContainsFunc(list, func(l *state.ContainerView) bool { return l.ID == v.ID }) {
			return nil, errs.Invalid("container %s runs and is not among container_ids", v.ID)
		}
	}
	return list, nil
}

// emptyDir checks that a folder is there, with nothing in it.
func emptyDir(dir string) error {
	if !filepath.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return errs.Invalid("output_path %q is not an absolute path", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errs.Invalid("output_path: %w", err)
	}
	if len(entries) > 0 {
		return errs.Precondition("output_path %s is not empty: %s is in it", dir, entries[0].Name())
	}
	return nil
}

// empty deletes what is in a folder that was empty.
func empty(dir string) (err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func writeManifest(dir string, m manifest) error {
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), data, 0o600)
}

func readManifest(dir string) (m manifest, err error) {
	if !filepath.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return m, errs.Invalid("checkpoint_path %q is not an absolute path", dir)
	}
	data, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, errs.Invalid("%s is no checkpoint of a pod: %s is missing", dir, manifestFile)
	} else if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, errs.Invalid("%s: %w", filepath.Join(dir, manifestFile), err)
	}
	if m.Version != manifestVersion {
		return m, errs.Unimplemented("%s: version %d is not known, only %d", filepath.Join(dir, manifestFile), m.Version, manifestVersion)
	}
	for name, file := range m.Containers {
		if !filepath.IsLocal(file) || filepath.Base(file) != file {
			return m, errs.Invalid("%s: file %q of container %s is no plain name", filepath.Join(dir, manifestFile), file, name)
		}
	}
	return m, nil
}

// Restored is one container of a pod that was made again.
type Restored struct{ Name, ID string }

// RestorePod makes a pod and its containers of a checkpoint; they are created and have
// not gone on. After an error nothing is left of them.
func (s *Service) RestorePod(ctx context.Context, r *cri.RestorePodRequest) (id string, list []Restored, err error) {
	if err := errors.Join(s.ready("to restore", s.Restore), noOptions(r.GetOptions())); err != nil {
		return "", nil, err
	}
	dir := r.GetCheckpointPath()
	m, err := readManifest(dir)
	if err != nil {
		return "", nil, fmt.Errorf("cannot restore the pod: %w", err)
	}
	configs, err := match(m, r.GetContainerConfigs())
	if err != nil {
		return "", nil, fmt.Errorf("cannot restore the pod: %w", err)
	}
	id, err = s.Pods.Run(ctx, r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return "", nil, err
	}
	for _, c := range configs {
		ctr, err := s.restore(ctx, id, c, filepath.Join(dir, m.Containers[c.GetMetadata().GetName()]))
		if err != nil {
			return "", nil, errors.Join(fmt.Errorf("cannot restore the pod: %w", err), s.Pods.Remove(context.WithoutCancel(ctx), id))
		}
		list = append(list, Restored{Name: c.GetMetadata().GetName(), ID: ctr})
	}
	return id, list, nil
}

// match checks that the requests are for exactly the containers of the checkpoint.
func match(m manifest, configs []*cri.ContainerConfig) ([]*cri.ContainerConfig, error) {
	seen := map[string]bool{}
	for _, c := range configs {
		name := c.GetMetadata().GetName()
		switch {
		case name == "":
			return nil, errs.Invalid("a container of container_configs has no metadata.name")
		case seen[name]:
			return nil, errs.Invalid("container %s is in container_configs twice", name)
		case m.Containers[name] == "":
			return nil, errs.Invalid("container %s is not in the checkpoint, which has %s", name, strings.Join(slices.Sorted(maps.Keys(m.Containers)), ", "))
		}
		seen[name] = true
	}
	for name := range m.Containers {
		if !seen[name] {
			return nil, errs.Invalid("container %s of the checkpoint is not in container_configs", name)
		}
	}
	return configs, nil
}

// restore makes one container, whose request must be for what was written down.
func (s *Service) restore(ctx context.Context, pod string, config *cri.ContainerConfig, file string) (string, error) {
	info, err := archive.Look(file)
	if err != nil {
		return "", err
	}
	based, from, err := s.basedOn(config, info, &state.Source{File: file})
	if err != nil {
		return "", err
	}
	return s.Pods.Create(ctx, pod, based, from)
}

// withImage is a request with another image.
func withImage(config *cri.ContainerConfig, id string) *cri.ContainerConfig {
	out := proto.CloneOf(config)
	spec := out.GetImage()
	if spec == nil {
		spec = &cri.ImageSpec{}
	}
	if spec.UserSpecifiedImage == "" {
		spec.UserSpecifiedImage = spec.Image
	}
	spec.Image = id
	out.Image = spec
	return out
}
