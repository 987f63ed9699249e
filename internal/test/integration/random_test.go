package integration

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/random"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// methods are all calls of the CRI.
func methods(t *testing.T) (list []protoreflect.MethodDescriptor) {
	t.Helper()
	for _, name := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		m := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range m.Len() {
			list = append(list, m.Get(i))
		}
	}
	return list
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return m.New().Interface()
}

// call makes one call by its description; a stream is read for a while.
func call(t *testing.T, w *world.World, m protoreflect.MethodDescriptor, req proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	name := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	if !m.IsStreamingServer() {
		return w.Conn().Invoke(ctx, name, req, newMessage(t, m.Output()))
	}
	ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	s, err := w.Conn().NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err == nil {
		err = s.SendMsg(req)
	}
	for err == nil {
		err = s.RecvMsg(newMessage(t, m.Output()))
	}
	if err == io.EOF || ctx.Err() != nil {
		return nil
	}
	return err
}

// TestRandomRequests calls everything with requests that are wrong in every field,
// and some that are nearly right: no panic, no answer without a reason, and in the end
// nothing that cannot be removed.
func TestRandomRequests(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MONOCRIO_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("MONOCRIO_SEED=%d", seed)
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("good", nil)
	ctr := w.Ctr(pod, "good", "exec sleep 1000", nil)
	f := random.New(seed)
	f.Texts = []string{pod, pod[:12], ctr, ctr[:8], "sh", "sleep"}
	dir := filepath.Join(w.Dir, "host")
	f.Fields = map[string][]string{ // nothing outside the test's own folder is made or used up
		"host_path": {dir, dir + "/a", "relative", ""}, "log_directory": {dir, "", "relative"}, "cgroup_parent": {"", "..", "a/../.."},
		"image": {w.Image, "", "UPPER", strings.Repeat("ab", 32)}, "location": {"", "relative"}, "output_path": {"", "relative"}, "checkpoint_path": {"", "relative"},
		"runtime_handler": {"", "", "runc", "none"}, "pod_cidr": {""}, "name": {"a", "b", "", "c/d"}, "uid": {"u"}, "namespace": {"n"},
		"network": nil, "pod_sandbox_id": {pod, "", "none"}, "container_id": {ctr, "", "none"},
	}
	all := methods(t)
	counts := map[codes.Code]int{}
	for range 1200 {
		m := all[f.Rand.IntN(len(all))]
		req := newMessage(t, m.Input())
		f.Fill(req)
		err := call(t, w, m, req)
		counts[status.Code(err)]++
		switch code := status.Code(err); {
		case code == codes.Unknown || code == codes.Unavailable && strings.Contains(err.Error(), "transport"):
			t.Fatalf("%s: %v\n%v", m.Name(), err, req)
		case code == codes.Internal && strings.Contains(err.Error(), "panicked"):
			t.Fatalf("%s: %v\n%v", m.Name(), err, req)
		case code == codes.Internal:
			t.Logf("%s: %v", m.Name(), err)
		}
	}
	t.Logf("answers: %v", counts)
	if counts[codes.OK] < 100 || counts[codes.InvalidArgument] < 50 {
		t.Errorf("too few requests get somewhere: %v", counts)
	}
	if strings.Contains(w.Log(), "panicked") {
		t.Error("a call panicked")
	}
	l, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.GetItems() {
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
			t.Errorf("removing %s: %v", p.GetId(), err)
		}
	}
}
