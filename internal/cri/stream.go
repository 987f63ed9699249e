package cri

import (
	"context"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Exec answers with the address at which a command is run in a container.
func (s *Server) Exec(_ context.Context, r *cri.ExecRequest) (*cri.ExecResponse, error) {
	url, err := s.d.Streams.Exec(r)
	return &cri.ExecResponse{Url: url}, err
}

// Attach answers with the address at which a container's own streams are.
func (s *Server) Attach(_ context.Context, r *cri.AttachRequest) (*cri.AttachResponse, error) {
	url, err := s.d.Streams.Attach(r)
	return &cri.AttachResponse{Url: url}, err
}

// PortForward answers with the address at which a pod's ports are.
func (s *Server) PortForward(_ context.Context, r *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	url, err := s.d.Streams.PortForward(r)
	return &cri.PortForwardResponse{Url: url}, err
}
