// Package checkpoint writes running containers and pods down and makes new ones of what
// was written, through criu (https://criu.org), as the CRI's comments describe it.
//
// It is a service over the model: what a checkpoint is on the disk is package archive's
// business, and how a container is paused, dumped or made is package pod's.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/monocrio/monocrio/internal/checkpoint/archive"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pods is what the service needs of pods and containers (package pod).
type Pods interface {
	Pod(id string) (state.PodView, error)
	Container(id string) (state.ContainerView, error)
	ContainersOf(pod string) []state.ContainerView
	Spec(id string) (*specs.Spec, error)
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Dump(ctx context.Context, id string, o oci.CheckpointOptions) error
	Diff(ctx context.Context, id string) (io.ReadCloser, error)
	Run(ctx context.Context, config *cri.PodSandboxConfig, handler string) (string, error)
	Remove(ctx context.Context, id string) error
	Create(ctx context.Context, pod string, config *cri.ContainerConfig, from *state.Source) (string, error)
}

// Images finds images, and what is in those that are checkpoints.
type Images interface {
	// Checkpoint tells whether a local image is a checkpoint, and its id; an absent
	// image is none.
	Checkpoint(ctx context.Context, ref string) (id string, is bool, err error)
	// Look mounts such an image for as long as f looks at it.
	Look(ctx context.Context, id string, f func(dir string) error) error
}

// Service is the service.
type Service struct {
	Pods   Pods
	Images Images
	// Checkpoint and Restore are what the configuration allows.
	Checkpoint, Restore bool
}

// ready says why nothing can be checkpointed, or restored; allowed is which of the
// two the configuration says.
func (s *Service) ready(verb string, allowed bool) error {
	if !allowed {
		return errs.Precondition("%s is off; container_level_enabled in [crio.checkpoint_restore] allows it", verb)
	}
	if _, err := exec.LookPath("criu"); err != nil {
		return errs.Precondition("checkpoints need criu, which is not in PATH; install it")
	}
	return nil
}

// CRIUConfig is criu's configuration for containers of pods. Another pod has another
// address: connections would not come to life again, so they are closed, as a network
// that breaks would close them.
const CRIUConfig = "tcp-close\n"

// patience is how long one container may take where the caller says nothing.
const patience = 10 * time.Minute

// Container writes a running container to an archive at location, an absolute path
// that must not exist; the container goes on. timeout is the caller's, 0 for ours.
func (s *Service) Container(ctx context.Context, id, location string, timeout time.Duration) error {
	if err := s.ready("a checkpoint", s.Checkpoint); err != nil {
		return err
	}
	if timeout <= 0 {
		timeout = patience
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v, err := s.dumpable(id)
	if err != nil {
		return err
	}
	release, err := s.freeze(ctx, v.ID)
	if err != nil {
		return fmt.Errorf("cannot checkpoint container %s: %w", v.ID, err)
	}
	err = s.write(ctx, v, location)
	if err = errors.Join(err, release()); err != nil {
		return fmt.Errorf("cannot checkpoint container %s: %w", v.ID, err)
	}
	return nil
}

// dumpable finds a container that can be written down.
func (s *Service) dumpable(id string) (*state.ContainerView, error) {
	v, err := s.Pods.Container(id)
	if err != nil {
		return nil, err
	}
	p, err := s.Pods.Pod(v.Request.Pod)
	switch {
	case err != nil:
		return nil, err
	case v.Status.State() != cri.ContainerState_CONTAINER_RUNNING:
		return nil, errs.Precondition("cannot checkpoint container %s: it is not running", v.ID)
	case p.Request.UserNS() != nil:
		return nil, errs.Unimplemented("cannot checkpoint container %s: criu cannot restore into a pod's user namespace", v.ID)
	}
	return &v, nil
}

// freeze pauses containers, all or none. What it did is undone whatever becomes of the
// caller.
func (s *Service) freeze(ctx context.Context, ids ...string) (release func() error, err error) {
	var paused []string
	release = func() (err error) {
		for _, id := range paused {
			err = errors.Join(err, s.Pods.Resume(context.WithoutCancel(ctx), id))
		}
		return err
	}
	for _, id := range ids {
		paused = append(paused, id) // also one whose pause failed half way
		if err := s.Pods.Pause(ctx, id); err != nil {
			return nil, errors.Join(err, release())
		}
	}
	return release, nil
}

// write makes the archive of a paused container.
func (s *Service) write(ctx context.Context, v *state.ContainerView, location string) (err error) {
	w, err := archive.Begin(location)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Remove()) }()
	spec, err := s.Pods.Spec(v.ID)
	if err != nil {
		return err
	}
	if err := s.Pods.Dump(ctx, v.ID, oci.CheckpointOptions{Images: w.Images(), Work: w.Dir(), LeaveRunning: true}); err != nil {
		return err
	}
	diff, err := s.Pods.Diff(ctx, v.ID)
	if err != nil {
		return err
	}
	defer diff.Close()
	md := v.Request.Config.GetMetadata()
	if err := w.Finish(&archive.Info{Spec: *spec, Config: archive.Config{
		ID: v.ID, Name: md.GetName(), ImageID: v.Request.Image.ID, ImageRef: v.Request.Image.Ref, ImageName: v.Request.Image.Name,
		Runtime: v.Request.Handler, Created: time.Unix(0, v.Status.CreatedAt), CheckpointedAt: time.Now(),
	}}, diff); err != nil {
		return err
	}
	return ctx.Err()
}

// Source finds out whether a container's image is a checkpoint: an absolute path of an
// archive, or a local image that bears the annotation. Then it returns the request
// with the image that the checkpoint was made of; else the request as it is, and nil.
func (s *Service) Source(ctx context.Context, config *cri.ContainerConfig) (*cri.ContainerConfig, *state.Source, error) {
	ref := config.GetImage().GetImage()
	if filepath.IsAbs(ref) {
		if err := s.ready("to restore", s.Restore); err != nil {
			return nil, nil, err
		}
		info, err := archive.Look(ref)
		if err != nil {
			return nil, nil, err
		}
		return s.basedOn(config, info, &state.Source{File: ref})
	}
	id, is, err := s.Images.Checkpoint(ctx, ref)
	if err != nil || !is {
		return config, nil, err
	}
	if err := s.ready("to restore", s.Restore); err != nil {
		return nil, nil, err
	}
	var info *archive.Info
	if err := s.Images.Look(ctx, id, func(dir string) (err error) {
		info, err = archive.Look(dir)
		return err
	}); err != nil {
		return nil, nil, err
	}
	return s.basedOn(config, info, &state.Source{Image: id})
}

// basedOn is the request with the checkpoint's own image; mounts that the processes
// have must be asked for too, or criu could not find them.
func (s *Service) basedOn(config *cri.ContainerConfig, info *archive.Info, from *state.Source) (*cri.ContainerConfig, *state.Source, error) {
	asked := map[string]bool{}
	for _, m := range config.GetMounts() {
		asked[filepath.Clean("/"+m.GetContainerPath())] = true
	}
	for _, m := range info.Spec.Mounts {
		if m.Type != "bind" || own(m.Destination) || asked[m.Destination] {
			continue
		}
		return nil, nil, errs.Precondition("cannot restore container %s: it had a mount at %s, which the request lacks", info.Config.Name, m.Destination)
	}
	out := withImage(config, info.Config.ImageID)
	return out, from, nil
}

// own tells mounts that every container gets, asked for or not.
func own(dest string) bool {
	switch dest {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm":
		return true
	}
	return false
}
