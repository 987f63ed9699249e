package cri

import (
	"context"
	"slices"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListMetricDescriptors describes the metrics of pods; it never changes while the daemon
// runs.
func (s *Server) ListMetricDescriptors(context.Context, *cri.ListMetricDescriptorsRequest) (*cri.ListMetricDescriptorsResponse, error) {
	return &cri.ListMetricDescriptorsResponse{Descriptors: s.d.Stats.Descriptors()}, nil
}

// ListPodSandboxMetrics tells the metrics of all ready pods.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *cri.ListPodSandboxMetricsRequest) (*cri.ListPodSandboxMetricsResponse, error) {
	all, err := s.d.Stats.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	return &cri.ListPodSandboxMetricsResponse{PodMetrics: slices.Collect(all)}, nil
}
