// Package cri is the gRPC face: it checks messages, translates them, and calls the
// model. No decision about pods lives here.
//
// Errors become gRPC codes in codes.go and nowhere else; panics, logs and durations
// are the interceptor's. There is one file per noun of the CRI.
package cri

import (
	"context"
	"encoding/json"
	"log/slog"

	"github.com/monocrio/monocrio/internal/checkpoint"
	"github.com/monocrio/monocrio/internal/image"
	"github.com/monocrio/monocrio/internal/pod"
	"github.com/monocrio/monocrio/internal/stats"
	"github.com/monocrio/monocrio/internal/storage"
	"github.com/monocrio/monocrio/internal/stream"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Deps are what the face shows to the world.
type Deps struct {
	Pods        *pod.Manager
	Images      *image.Service
	Store       *storage.Store
	Events      *Events
	Checkpoints *checkpoint.Service
	Stats       *stats.Collector
	// Streams serves what Exec, Attach and PortForward answer with.
	Streams *stream.Server
	// NetworkStatus is nil when pods can be attached to a network.
	NetworkStatus func(context.Context) error
	// SetPodCIDR is told the node's address ranges for pods.
	SetPodCIDR func(string) error
	// Handlers lists the runtime handlers and their features, the default one
	// first.
	Handlers func() []*cri.RuntimeHandler
	Features *cri.RuntimeFeatures
	// Systemd says that the systemd cgroup driver is used.
	Systemd bool
	// Config is shown by a verbose Status.
	Config func() any
	// Begin, if set, hears of each call, and by the function that it returns of its end.
	Begin func(ctx context.Context, rpc string) (context.Context, func(error))
	Log   *slog.Logger
}

// Server implements the CRI's two services.
type Server struct {
	cri.UnimplementedRuntimeServiceServer
	cri.UnimplementedImageServiceServer
	d Deps
}

// NewGRPC makes a gRPC server that serves the CRI; the sizes are bytes.
func NewGRPC(d Deps, maxSend, maxRecv int) *grpc.Server {
	i := newInterceptor(d.Log, d.Begin)
	g := grpc.NewServer(grpc.MaxSendMsgSize(maxSend), grpc.MaxRecvMsgSize(maxRecv), grpc.UnaryInterceptor(i.unary), grpc.StreamInterceptor(i.stream))
	s := &Server{d: d}
	cri.RegisterRuntimeServiceServer(g, s)
	cri.RegisterImageServiceServer(g, s)
	return g
}

// info renders what a verbose answer adds, as crictl expects it: one key, JSON.
func info(verbose bool, v any) (map[string]string, error) {
	if !verbose {
		return nil, nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return map[string]string{"info": string(data)}, nil
}

// matches tells whether labels have all that are wanted.
func matches(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
