package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const vendor = `{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "devices": [
  {"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "permissions": "rw"}], "env": ["GPU=one"]}},
  {"name": "two", "containerEdits": {"mounts": [{"hostPath": "/etc", "containerPath": "/gpu", "options": ["ro", "bind"]}]}}],
 "containerEdits": {"env": ["VENDOR=yes"]}}`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestInject(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "vendor.json"), vendor)
	d := Devices{Dirs: []string{filepath.Join(dir, "absent"), dir}}
	s := &specs.Spec{Process: &specs.Process{Env: []string{"A=b"}}, Linux: &specs.Linux{}}
	if err := d.Inject(s, []string{"vendor.com/gpu=one", "vendor.com/gpu=two"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "GPU=one") || !slices.Contains(s.Process.Env, "VENDOR=yes") || len(s.Mounts) != 1 || s.Mounts[0].Destination != "/gpu" {
		t.Errorf("%+v %+v", s.Process, s.Mounts)
	}
	if n := s.Linux.Devices; len(n) != 1 || n[0].Path != "/dev/null" || n[0].Major != 1 || n[0].Minor != 3 {
		t.Errorf("nodes: %+v", n)
	}
	if r := s.Linux.Resources.Devices; len(r) != 1 || !r[0].Allow || r[0].Access != "rw" {
		t.Errorf("rules: %+v", r)
	}
	if err := d.Inject(&specs.Spec{}, nil); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "broken.json"), "{")
	err := d.Inject(s, []string{"vendor.com/gpu=three"})
	if !errs.Is(err, errs.KindInvalid) || !strings.Contains(err.Error(), "vendor.com/gpu=three") || !strings.Contains(err.Error(), "broken.json") {
		t.Errorf("a missing device: %v", err)
	}
}

func TestNames(t *testing.T) {
	got, err := Names([]string{"vendor.com/gpu=one"}, map[string]string{
		"cdi.k8s.io/b": "vendor.com/gpu=two,vendor.com/gpu=one", "cdi.k8s.io/a": "vendor.com/nic=x", "other": "vendor.com/gpu=9"})
	if err != nil || !slices.Equal(got, []string{"vendor.com/gpu=one", "vendor.com/nic=x", "vendor.com/gpu=two"}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Names(nil, map[string]string{"cdi.k8s.io/a": "no device"}); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("%v", err)
	}
}
