package spec

import (
	"encoding/json"
	"path"
	"slices"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/test/random"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzBuild gives Build requests that are wrong in every field: from a seed, and as
// bytes of the wire. It refuses them with a kind, or what it returns holds what must
// always hold.
func FuzzBuild(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, []byte(nil))
	}
	f.Fuzz(func(t *testing.T, seed uint64, wire []byte) {
		in, fill := input(), random.New(seed)
		config := &cri.ContainerConfig{}
		if len(wire) > 0 {
			if proto.Unmarshal(wire, config) != nil {
				return
			}
		} else {
			fill.Fill(config)
		}
		in.Config = config
		in.Pod.Privileged, in.Node.CgroupV2, in.Node.AppArmor = seed%2 == 0, seed%3 == 0, seed%7 == 0
		for _, m := range config.GetMounts() {
			in.Mounts = append(in.Mounts, Mount{Mount: m, Source: "/" + path.Clean(m.GetHostPath())})
		}
		res, err := Build(in)
		if err != nil {
			if errs.KindOf(err) == errs.KindInternal {
				t.Errorf("an error without a kind: %v", err)
			}
			return
		}
		always(t, &in, res)
	})
}

// always is what no request can change.
func always(t *testing.T, in *Input, res *Result) {
	t.Helper()
	s, sc := res.Spec, in.Config.GetLinux().GetSecurityContext()
	if _, err := json.Marshal(s); err != nil {
		t.Errorf("it cannot be written: %v", err)
	}
	if s.Root.Path != in.Rootfs || s.Linux.CgroupsPath != in.CgroupsPath || len(s.Process.Args) == 0 || !path.IsAbs(s.Process.Cwd) {
		t.Errorf("root %q, cgroup %q, args %q, cwd %q", s.Root.Path, s.Linux.CgroupsPath, s.Process.Args, s.Process.Cwd)
	}
	if sc.GetPrivileged() && !in.Pod.Privileged {
		t.Error("privileged in a pod that is not")
	}
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Destination) || path.Clean(m.Destination) == "/" || path.Clean(m.Destination) != m.Destination {
			t.Errorf("a mount at %q", m.Destination)
		}
		if slices.Contains(m.Options, "rshared") && !sc.GetPrivileged() {
			t.Errorf("mount at %s propagates to the host from a container that is not privileged", m.Destination)
		}
	}
	c := s.Process.Capabilities
	for _, name := range append(slices.Clone(c.Effective), c.Permitted...) {
		if !slices.Contains(c.Bounding, name) || !slices.Contains(in.Node.AllCapabilities, name) {
			t.Errorf("capability %s outside its bound", name)
		}
	}
	if sc.GetNoNewPrivs() != s.Process.NoNewPrivileges {
		t.Error("no_new_privs is not what was asked for")
	}
}
