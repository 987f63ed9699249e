package shim

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"

	events1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/monocrio/monocrio/internal/oci"
)

// oomTopic is the one event that nothing else tells: a container's processes were
// killed for lack of memory.
const oomTopic = "/tasks/oom"

// oomFile in the bundle is how monitors say the same.
const oomFile = "oom"

// events serves the Events service, to which shims tell what happens. Only what the
// answers to calls do not tell is kept.
type events struct {
	r      *Runtime
	server *ttrpc.Server
}

// serveEvents listens in the container's folder. Without it a pod lives as well, it
// only is not told that memory was lacking; so a path too long for a socket is no
// failure.
func (r *Runtime) serveEvents(id string) *events {
	l, err := net.Listen("unix", r.path(id, eventsFile))
	if err != nil {
		return &events{r: r}
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		l.Close()
		return &events{r: r}
	}
	e := &events{r: r, server: s}
	events1.RegisterEventsService(s, e)
	go func() { _ = s.Serve(context.Background(), l) }()
	return e
}

func (e *events) close() {
	if e.server != nil {
		_ = e.server.Close()
	}
}

// Forward implements the service.
func (e *events) Forward(_ context.Context, r *events1.ForwardRequest) (*emptypb.Empty, error) {
	if r.GetEnvelope().GetTopic() == oomTopic {
		e.r.markOOM(containerOf(r.GetEnvelope().GetEvent().GetValue()))
	}
	return &emptypb.Empty{}, nil
}

// containerOf reads the first field of an event about a task, which is the container.
func containerOf(event []byte) string {
	number, kind, n := protowire.ConsumeTag(event)
	if n < 0 || number != 1 || kind != protowire.BytesType {
		return ""
	}
	id, n := protowire.ConsumeString(event[n:])
	if n < 0 {
		return ""
	}
	return id
}

// markOOM leaves the monitor's sign in a container's bundle.
func (r *Runtime) markOOM(id string) {
	if !oci.ValidID(id) {
		return
	}
	rec, err := r.get(id)
	if err != nil || rec.Bundle == "" {
		return
	}
	fd, err := unix.Open(filepath.Join(rec.Bundle, oomFile), unix.O_CREAT|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err == nil {
		unix.Close(fd)
	}
}

// Publish tells an event to the proxy that listens at an address: shims without
// ttrpc's Events service call an executable for it.
func Publish(ctx context.Context, address, topic, ns string, event io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(event, 1<<20))
	if err != nil {
		return err
	}
	value := &anypb.Any{}
	if err := proto.Unmarshal(data, value); err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pod has ended
	} else if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	_, err = events1.NewEventsClient(c).Forward(ctx, &events1.ForwardRequest{Envelope: &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: ns, Topic: topic, Event: value}})
	return err
}

// keeper is a log of bounded size: what is too much begins it anew.
type keeper struct {
	f    *os.File
	size int
}

// logMost bounds what is kept of a shim's log, which lies in memory.
const logMost = 256 << 10

// keepLog reads the named pipe into which a shim writes its log, for as long as we
// live.
func keepLog(pipe, file string) error {
	if err := unix.Mkfifo(pipe, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	// Both ends: the shim finds a reader, and we no end.
	in, err := os.OpenFile(pipe, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		in.Close()
		return err
	}
	go func() { _, _ = io.Copy(&keeper{f: f}, in) }()
	return nil
}

func (k *keeper) Write(b []byte) (int, error) {
	if k.size += len(b); k.size > logMost {
		k.size = len(b)
		_ = k.f.Truncate(0)
	}
	_, _ = k.f.Write(b) // a full disk must not stop the shim
	return len(b), nil
}
