package cri

import (
	"context"
	"time"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckpointContainer writes a running container to an archive; timeout is in seconds.
func (s *Server) CheckpointContainer(ctx context.Context, r *cri.CheckpointContainerRequest) (*cri.CheckpointContainerResponse, error) {
	if r.GetTimeout() < 0 {
		return nil, errs.Invalid("cannot checkpoint: timeout %d is negative", r.GetTimeout())
	}
	timeout := time.Duration(min(r.GetTimeout(), 24*3600)) * time.Second
	return &cri.CheckpointContainerResponse{}, s.d.Checkpoints.Container(ctx, r.GetContainerId(), r.GetLocation(), timeout)
}

// CheckpointPod writes the running containers of a pod down as they are at one instant.
func (s *Server) CheckpointPod(ctx context.Context, r *cri.CheckpointPodRequest) (*cri.CheckpointPodResponse, error) {
	return &cri.CheckpointPodResponse{}, s.d.Checkpoints.Pod(ctx, r.GetPodSandboxId(), r.GetOutputPath(), r.GetContainerIds(), r.GetOptions())
}

// RestorePod makes a pod and its containers of a checkpoint.
func (s *Server) RestorePod(ctx context.Context, r *cri.RestorePodRequest) (*cri.RestorePodResponse, error) {
	if r.GetConfig().GetMetadata() == nil {
		return nil, errs.Invalid("cannot restore the pod: config.metadata is missing")
	}
	if err := checkPod(r.GetConfig()); err != nil {
		return nil, err
	}
	if len(r.GetContainerConfigs()) == 0 {
		return nil, errs.Invalid("cannot restore the pod: container_configs is empty")
	}
	id, list, err := s.d.Checkpoints.RestorePod(ctx, r)
	if err != nil {
		return nil, err
	}
	resp := &cri.RestorePodResponse{PodSandboxId: id}
	for _, c := range list {
		resp.RestoredContainers = append(resp.RestoredContainers, &cri.RestoredContainer{Name: c.Name, ContainerId: c.ID})
	}
	return resp, nil
}
