package cri

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/pod/state"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer makes a container in a pod.
func (s *Server) CreateContainer(ctx context.Context, r *cri.CreateContainerRequest) (*cri.CreateContainerResponse, error) {
	if r.GetConfig().GetMetadata() == nil {
		return nil, errs.Invalid("cannot create the container: config.metadata is missing")
	}
	config, from, err := s.d.Checkpoints.Source(ctx, r.GetConfig())
	if err != nil {
		return nil, err
	}
	id, err := s.d.Pods.Create(ctx, r.GetPodSandboxId(), config, from)
	if err != nil {
		return nil, err
	}
	return &cri.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer starts a created container.
func (s *Server) StartContainer(ctx context.Context, r *cri.StartContainerRequest) (*cri.StartContainerResponse, error) {
	return &cri.StartContainerResponse{}, s.d.Pods.Start(ctx, r.GetContainerId())
}

// StopContainer stops a container; timeout is its grace period in seconds.
func (s *Server) StopContainer(ctx context.Context, r *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	// Some ask for centuries; more than a day is only a number.
	seconds := min(max(r.GetTimeout(), 0), int64(10*365*24*3600))
	return &cri.StopContainerResponse{}, s.d.Pods.StopContainer(ctx, r.GetContainerId(), time.Duration(seconds)*time.Second)
}

// RemoveContainer kills and removes a container.
func (s *Server) RemoveContainer(ctx context.Context, r *cri.RemoveContainerRequest) (*cri.RemoveContainerResponse, error) {
	return &cri.RemoveContainerResponse{}, s.d.Pods.RemoveContainer(ctx, r.GetContainerId())
}

// ListContainers lists the containers that a filter lets through.
func (s *Server) ListContainers(_ context.Context, r *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	return &cri.ListContainersResponse{Containers: s.containers(r.GetFilter())}, nil
}

func (s *Server) containers(f *cri.ContainerFilter) (list []*cri.Container) {
	for _, v := range s.d.Pods.Containers() {
		c, state := v.Request.Config, v.Status.State()
		if !strings.HasPrefix(v.ID, f.GetId()) || !strings.HasPrefix(v.Request.Pod, f.GetPodSandboxId()) ||
			f.GetState() != nil && f.GetState().GetState() != state || !matches(c.GetLabels(), f.GetLabelSelector()) {
			continue
		}
		list = append(list, &cri.Container{
			Id: v.ID, PodSandboxId: v.Request.Pod, Metadata: c.GetMetadata(), Image: imageSpec(&v), ImageRef: v.Request.Image.Ref,
			ImageId: v.Request.Image.ID, State: state, CreatedAt: v.Status.CreatedAt, Labels: c.GetLabels(), Annotations: c.GetAnnotations(),
		})
	}
	return list
}

// imageSpec names the image as people know it.
func imageSpec(v *state.ContainerView) *cri.ImageSpec {
	in := v.Request.Config.GetImage()
	return &cri.ImageSpec{Image: v.Request.Image.Name, Annotations: in.GetAnnotations(), UserSpecifiedImage: in.GetUserSpecifiedImage()}
}

// ContainerStatus tells about one container.
func (s *Server) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	v, err := s.d.Pods.Container(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	extra, err := info(r.GetVerbose(), containerInfo(&v, s.d.Pods.BundlePath(v.ID)))
	return &cri.ContainerStatusResponse{Status: containerStatus(&v), Info: extra}, err
}

func containerInfo(v *state.ContainerView, bundle string) map[string]any {
	m := map[string]any{"sandboxID": v.Request.Pod, "bundle": bundle, "handler": v.Request.Handler, "config": v.Request.Config}
	if p := v.Status.Process; p != nil {
		m["pid"], m["monitorPid"] = p.Init.Pid, p.Monitor.Pid
	}
	return m
}

func containerStatus(v *state.ContainerView) *cri.ContainerStatus {
	c, st := v.Request.Config, v.Status
	out := &cri.ContainerStatus{
		Id: v.ID, Metadata: c.GetMetadata(), State: st.State(), CreatedAt: st.CreatedAt, StartedAt: st.StartedAt, FinishedAt: st.FinishedAt,
		ExitCode: st.ExitCode, Reason: st.Reason, Message: st.Message, Image: imageSpec(v), ImageRef: v.Request.Image.Ref, ImageId: v.Request.Image.ID,
		Labels: c.GetLabels(), Annotations: c.GetAnnotations(), Mounts: mounts(v), LogPath: v.Request.LogPath, StopSignal: v.Request.StopSignalName(),
	}
	if r := state.InForce(v); r != nil {
		out.Resources = &cri.ContainerResources{Linux: r}
	}
	if u := st.User; u != nil {
		out.User = &cri.ContainerUser{Linux: &cri.LinuxContainerUser{Uid: u.UID, Gid: u.GID, SupplementalGroups: u.Groups}}
	}
	return out
}

// mounts are the request's; those of images tell which image it became.
func mounts(v *state.ContainerView) []*cri.Mount {
	list := v.Request.Config.GetMounts()
	if len(v.Request.Volumes) == 0 {
		return list
	}
	list = slices.Clone(list)
	for _, volume := range v.Request.Volumes {
		m := proto.CloneOf(list[volume.Mount])
		m.Image.ImageRef = volume.Image.ID
		list[volume.Mount] = m
	}
	return list
}

// UpdateContainerResources changes the limits of a container.
func (s *Server) UpdateContainerResources(ctx context.Context, r *cri.UpdateContainerResourcesRequest) (*cri.UpdateContainerResourcesResponse, error) {
	if r.GetLinux() == nil {
		return nil, errs.Invalid("cannot update container %s: linux is missing, there is nothing else that this node could change", r.GetContainerId())
	}
	return &cri.UpdateContainerResourcesResponse{}, s.d.Pods.UpdateContainer(ctx, r.GetContainerId(), r.GetLinux())
}

// ReopenContainerLog makes a rotated log begin anew.
func (s *Server) ReopenContainerLog(ctx context.Context, r *cri.ReopenContainerLogRequest) (*cri.ReopenContainerLogResponse, error) {
	return &cri.ReopenContainerLogResponse{}, s.d.Pods.ReopenLog(ctx, r.GetContainerId())
}

// maxOutput is what one stream of ExecSync returns at most, in bytes; the CRI says
// that the rest is dropped and the command goes on (CVE-2022-1708).
const maxOutput = 16 << 20

// ExecSync runs a command and returns its output; timeout is in seconds, 0: none.
func (s *Server) ExecSync(ctx context.Context, r *cri.ExecSyncRequest) (*cri.ExecSyncResponse, error) {
	if r.GetTimeout() < 0 {
		return nil, errs.Invalid("cannot exec: timeout %d is negative", r.GetTimeout())
	}
	if r.GetTimeout() > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(min(r.GetTimeout(), int64(10*365*24*3600)))*time.Second)
		defer cancel()
	}
	var stdout, stderr bounded
	code, err := s.d.Pods.Exec(ctx, r.GetContainerId(), pod.ExecRequest{Command: r.GetCmd(), ExecRequest: oci.ExecRequest{Stdout: &stdout, Stderr: &stderr}})
	if errs.Is(err, errs.KindDeadline) && r.GetTimeout() > 0 {
		return nil, errs.Errorf(errs.KindDeadline, "command %q in container %s timed out after %d seconds and was killed: %w", r.GetCmd()[0], r.GetContainerId(), r.GetTimeout(), err)
	}
	if err != nil {
		return nil, err
	}
	return &cri.ExecSyncResponse{Stdout: stdout.data, Stderr: stderr.data, ExitCode: int32(code)}, nil
}

// bounded keeps the first maxOutput bytes and drops the rest.
type bounded struct{ data []byte }

func (b *bounded) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), maxOutput-len(b.data))]...)
	return len(p), nil
}
