package cri

import (
	"context"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox makes a pod and answers when it is ready.
func (s *Server) RunPodSandbox(ctx context.Context, r *cri.RunPodSandboxRequest) (*cri.RunPodSandboxResponse, error) {
	if r.GetConfig().GetMetadata() == nil {
		return nil, errs.Invalid("cannot run the pod: config.metadata is missing")
	}
	if err := checkPod(r.GetConfig()); err != nil {
		return nil, err
	}
	id, err := s.d.Pods.Run(ctx, r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	return &cri.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox ends a pod's containers and its network.
func (s *Server) StopPodSandbox(ctx context.Context, r *cri.StopPodSandboxRequest) (*cri.StopPodSandboxResponse, error) {
	return &cri.StopPodSandboxResponse{}, s.d.Pods.Stop(ctx, r.GetPodSandboxId())
}

// RemovePodSandbox removes a pod with its containers.
func (s *Server) RemovePodSandbox(ctx context.Context, r *cri.RemovePodSandboxRequest) (*cri.RemovePodSandboxResponse, error) {
	return &cri.RemovePodSandboxResponse{}, s.d.Pods.Remove(ctx, r.GetPodSandboxId())
}

// PodSandboxStatus tells about one pod.
func (s *Server) PodSandboxStatus(_ context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	v, err := s.d.Pods.Pod(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	extra, err := info(r.GetVerbose(), podInfo(&v))
	return &cri.PodSandboxStatusResponse{Status: podStatus(&v), Info: extra}, err
}

func podInfo(v *state.PodView) map[string]any {
	return map[string]any{"cgroup": v.Request.Cgroup, "network": v.Request.Network.Name, "networkFile": v.Request.Network.File,
		"networkOwed": v.Status.Owed, "overhead": v.Status.Overhead, "resources": v.Status.Resources, "infra": v.Status.Infra, "phase": v.Status.Phase, "config": v.Request.Config}
}

func podState(v *state.PodView) cri.PodSandboxState {
	if v.Status.Phase == state.Ready {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

func podStatus(v *state.PodView) *cri.PodSandboxStatus {
	c := v.Request.Config
	st := &cri.PodSandboxStatus{
		Id: v.ID, Metadata: c.GetMetadata(), State: podState(v), CreatedAt: v.Status.CreatedAt,
		Network: &cri.PodSandboxNetworkStatus{}, Labels: c.GetLabels(), Annotations: c.GetAnnotations(),
		RuntimeHandler: v.Request.Handler,
		Linux:          &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: c.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}
	for i, ip := range v.Status.IPs {
		if i == 0 {
			st.Network.Ip = ip
		} else {
			st.Network.AdditionalIps = append(st.Network.AdditionalIps, &cri.PodIP{Ip: ip})
		}
	}
	return st
}

// UpdatePodSandboxResources takes note of what the kubelet gave a pod.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, r *cri.UpdatePodSandboxResourcesRequest) (*cri.UpdatePodSandboxResourcesResponse, error) {
	return &cri.UpdatePodSandboxResourcesResponse{}, s.d.Pods.UpdatePod(ctx, r.GetPodSandboxId(), r.GetOverhead(), r.GetResources())
}

// ListPodSandbox lists the pods that a filter lets through.
func (s *Server) ListPodSandbox(_ context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	return &cri.ListPodSandboxResponse{Items: s.pods(r.GetFilter())}, nil
}

func (s *Server) pods(f *cri.PodSandboxFilter) (list []*cri.PodSandbox) {
	for _, v := range s.d.Pods.Pods() {
		state := podState(&v)
		if !strings.HasPrefix(v.ID, f.GetId()) || f.GetState() != nil && f.GetState().GetState() != state || !matches(v.Request.Config.GetLabels(), f.GetLabelSelector()) {
			continue
		}
		c := v.Request.Config
		list = append(list, &cri.PodSandbox{Id: v.ID, Metadata: c.GetMetadata(), State: state, CreatedAt: v.Status.CreatedAt,
			Labels: c.GetLabels(), Annotations: c.GetAnnotations(), RuntimeHandler: v.Request.Handler})
	}
	return list
}
