package spec

import (
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Which artifact a container's seccomp profile comes from, and that a profile of the
// request wins.
func TestSeccompArtifact(t *testing.T) {
	const name, old = annotation.SeccompProfile, "seccomp-profile.kubernetes.cri-o.io"
	kind := func(k cri.SecurityProfile_ProfileType) *cri.SecurityProfile {
		return &cri.SecurityProfile{ProfileType: k, LocalhostRef: "/p"}
	}
	for _, c := range []struct {
		what       string
		pod, image map[string]string
		allowed    annotation.Allowed
		profile    *cri.SecurityProfile
		privileged bool
		want       string
	}{
		{"alone", map[string]string{name: "a"}, nil, annotation.Allowed{name}, nil, false, "a"},
		{"unconfined by the kubelet", map[string]string{name: "a"}, nil, annotation.Allowed{name}, kind(cri.SecurityProfile_Unconfined), false, "a"},
		{"of the container", map[string]string{name + "/main": "a", name + "/POD": "b"}, nil, annotation.Allowed{name}, nil, false, "a"},
		{"of the pod", map[string]string{name + "/other": "a", name + "/POD": "b"}, nil, annotation.Allowed{name}, nil, false, "b"},
		{"older spelling", map[string]string{old + "/POD": "b"}, nil, annotation.Allowed{name}, nil, false, "b"},
		{"of the image", nil, map[string]string{name: "i"}, annotation.Allowed{name}, nil, false, "i"},
		{"pod over image", map[string]string{name: "a"}, map[string]string{name: "i"}, annotation.Allowed{name}, nil, false, "a"},
		{"not allowed", map[string]string{name: "a"}, map[string]string{name: "i"}, nil, nil, false, ""},
		{"the default profile is asked for", map[string]string{name: "a"}, nil, annotation.Allowed{name}, kind(cri.SecurityProfile_RuntimeDefault), false, ""},
		{"a file is asked for", map[string]string{name: "a"}, nil, annotation.Allowed{name}, kind(cri.SecurityProfile_Localhost), false, ""},
		{"privileged", map[string]string{name: "a"}, nil, annotation.Allowed{name}, nil, true, ""},
	} {
		in := input()
		in.Allowed, in.Pod.Annotations, in.ImageAnnotations = c.allowed, c.pod, c.image
		sc := security(&in)
		sc.Seccomp, sc.Privileged = c.profile, c.privileged
		if got := in.SeccompArtifact(); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	in := input()
	security(&in).Seccomp = nil
	in.Allowed, in.Pod.Annotations = annotation.Allowed{name}, map[string]string{name: "registry/x:1"}
	in.Artifact = []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ERRNO"}]}`)
	res, err := Build(in)
	if err != nil || res.Spec.Linux.Seccomp == nil || res.Spec.Linux.Seccomp.DefaultAction != specs.ActAllow || len(res.Spec.Linux.Seccomp.Syscalls) != 1 {
		t.Errorf("the artifact's profile: %v", err)
	}
	in.Artifact = []byte("no profile")
	if _, err := Build(in); !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), "registry/x:1") {
		t.Errorf("an artifact without a profile: %v", err)
	}
}
