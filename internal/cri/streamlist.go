package cri

import (
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The streaming lists (KEP-5825) tell what the lists tell, in messages that stay small
// however much there is: each item once, at least one in a message, none if there is
// nothing. What is told is as it was when the call began.

// chunkBytes bounds a message of a streaming list; a single larger item goes alone. It is
// far below any client's limit (4 MiB unless the client asks for more) and far above
// what makes messages costly.
const chunkBytes = 256 << 10

// itemOverhead is what a message adds to an item at most: tag and length.
const itemOverhead = 8

// chunked sends items in messages of bounded size.
func chunked[T proto.Message](items iter.Seq[T], send func([]T) error) error {
	var chunk []T
	size := 0
	for item := range items {
		n := proto.Size(item) + itemOverhead
		if len(chunk) > 0 && size+n > chunkBytes {
			if err := send(chunk); err != nil {
				return err
			}
			chunk, size = nil, 0 // not reused: a message may be written after send returns
		}
		chunk, size = append(chunk, item), size+n
	}
	if len(chunk) == 0 {
		return nil
	}
	return send(chunk)
}

// StreamPodSandboxes is ListPodSandbox in pieces.
func (s *Server) StreamPodSandboxes(r *cri.StreamPodSandboxesRequest, out cri.RuntimeService_StreamPodSandboxesServer) error {
	return chunked(slices.Values(s.pods(r.GetFilter())), func(c []*cri.PodSandbox) error {
		return out.Send(&cri.StreamPodSandboxesResponse{PodSandboxes: c})
	})
}

// StreamContainers is ListContainers in pieces.
func (s *Server) StreamContainers(r *cri.StreamContainersRequest, out cri.RuntimeService_StreamContainersServer) error {
	return chunked(slices.Values(s.containers(r.GetFilter())), func(c []*cri.Container) error {
		return out.Send(&cri.StreamContainersResponse{Containers: c})
	})
}

// StreamContainerStats is ListContainerStats in pieces.
func (s *Server) StreamContainerStats(r *cri.StreamContainerStatsRequest, out cri.RuntimeService_StreamContainerStatsServer) error {
	list, err := s.containerStats(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunked(slices.Values(list), func(c []*cri.ContainerStats) error {
		return out.Send(&cri.StreamContainerStatsResponse{ContainerStats: c})
	})
}

// StreamPodSandboxStats is ListPodSandboxStats in pieces.
func (s *Server) StreamPodSandboxStats(r *cri.StreamPodSandboxStatsRequest, out cri.RuntimeService_StreamPodSandboxStatsServer) error {
	list, err := s.podStats(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunked(slices.Values(list), func(c []*cri.PodSandboxStats) error {
		return out.Send(&cri.StreamPodSandboxStatsResponse{PodSandboxStats: c})
	})
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pieces; a pod's metrics are made
// when its message is.
func (s *Server) StreamPodSandboxMetrics(_ *cri.StreamPodSandboxMetricsRequest, out cri.RuntimeService_StreamPodSandboxMetricsServer) error {
	all, err := s.d.Stats.Metrics(out.Context())
	if err != nil {
		return err
	}
	return chunked(all, func(c []*cri.PodSandboxMetrics) error {
		return out.Send(&cri.StreamPodSandboxMetricsResponse{PodSandboxMetrics: c})
	})
}

// StreamImages is ListImages in pieces.
func (s *Server) StreamImages(r *cri.StreamImagesRequest, out cri.ImageService_StreamImagesServer) error {
	list, err := s.images(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return chunked(slices.Values(list), func(c []*cri.Image) error {
		return out.Send(&cri.StreamImagesResponse{Images: c})
	})
}
