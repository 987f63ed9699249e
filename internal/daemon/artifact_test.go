package daemon

import (
	"context"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/spec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type artifacts map[string]string

func (a artifacts) Profile(_ context.Context, ref string) ([]byte, error) {
	if text, ok := a[ref]; ok {
		return []byte(text), nil
	}
	return nil, errs.NotFound("artifact", ref)
}

func TestArtifactProfile(t *testing.T) {
	in := func(ref string) *spec.Input {
		return &spec.Input{Config: &cri.ContainerConfig{}, Allowed: annotation.Allowed{annotation.SeccompProfile},
			Pod: spec.Pod{Annotations: map[string]string{annotation.SeccompProfile: ref}}}
	}
	m := &specMaker{artifacts: artifacts{"here": "profile"}}
	if i := in("here"); m.security(t.Context(), i) != nil || string(i.Artifact) != "profile" {
		t.Errorf("the artifact's content: %q", i.Artifact)
	}
	if err := m.security(t.Context(), in("absent")); !errs.Is(err, errs.KindNotFound) || !strings.Contains(err.Error(), annotation.SeccompProfile) {
		t.Errorf("an absent artifact: %v", err)
	}
	m.artifacts = nil
	if err := m.security(t.Context(), in("here")); !errs.Is(err, errs.KindUnimplemented) {
		t.Errorf("without a store: %v", err)
	}
}
