package cri

import (
	"context"

	"github.com/monocrio/monocrio/internal/version"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runtimeName is what kubelets put before container ids; tools look for CRI-O's.
const runtimeName = "cri-o"

// Version tells who serves.
func (s *Server) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{Version: "0.1.0", RuntimeName: runtimeName, RuntimeVersion: version.Version, RuntimeApiVersion: "v1"}, nil
}

// Status tells whether pods can run. The runtime is ready whenever it answers;
// the network is as its configuration says.
func (s *Server) Status(ctx context.Context, r *cri.StatusRequest) (*cri.StatusResponse, error) {
	network := &cri.RuntimeCondition{Type: cri.NetworkReady, Status: true}
	if err := s.d.NetworkStatus(ctx); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	resp := &cri.StatusResponse{
		Status:          &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{{Type: cri.RuntimeReady, Status: true}, network}},
		RuntimeHandlers: s.d.Handlers(), Features: s.d.Features,
	}
	var err error
	resp.Info, err = info(r.GetVerbose(), map[string]any{"config": s.d.Config(), "version": version.Version, "owedNetworks": s.d.Pods.Owed()})
	return resp, err
}

// RuntimeConfig tells the kubelet which cgroup driver to use.
func (s *Server) RuntimeConfig(context.Context, *cri.RuntimeConfigRequest) (*cri.RuntimeConfigResponse, error) {
	d := cri.CgroupDriver_CGROUPFS
	if s.d.Systemd {
		d = cri.CgroupDriver_SYSTEMD
	}
	return &cri.RuntimeConfigResponse{Linux: &cri.LinuxRuntimeConfiguration{CgroupDriver: d}}, nil
}

// UpdateRuntimeConfig takes what a kubelet tells when it knows its node: the address
// ranges of pods.
func (s *Server) UpdateRuntimeConfig(_ context.Context, r *cri.UpdateRuntimeConfigRequest) (*cri.UpdateRuntimeConfigResponse, error) {
	return &cri.UpdateRuntimeConfigResponse{}, s.d.SetPodCIDR(r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr())
}
