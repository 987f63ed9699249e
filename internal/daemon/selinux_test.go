package daemon

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/selinux"
	"github.com/monocrio/monocrio/internal/spec"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// policy stands for a kernel with SELinux.
type policy struct{ labels map[string]string }

func (policy) Templates() (string, string, error) {
	return "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0", nil
}
func (policy) Check(string) error                      { return nil }
func (p policy) FileLabel(path string) (string, error) { return p.labels[path], nil }
func (p policy) Relabel(path, label string) error      { p.labels[path] = label; return nil }

func labelled(o *cri.SELinuxOption, network cri.NamespaceMode, privileged bool) *state.PodRequest {
	return &state.PodRequest{Handler: "runc", Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{SelinuxOptions: o, Privileged: privileged,
			NamespaceOptions: &cri.NamespaceOption{Network: network}}}}}}
}

// A pod has a level of its own, which all its containers share that say nothing else.
//
// Options: crio.runtime.selinux, crio.runtime.hostnetwork_disable_selinux
func TestSELinux(t *testing.T) {
	conf := &config.Runtime{DropInfraCtr: true, HostNetworkSELinux: true, Runtimes: map[string]config.Handler{"runc": {}}}
	m := &specMaker{conf: conf, labels: &selinux.Labeler{Kernel: policy{}}, log: slog.New(slog.DiscardHandler)}
	var pods []state.PodView
	run := func(r *state.PodRequest) *state.PodRequest {
		t.Helper()
		done, err := m.Pod("", r, func() []state.PodView { return pods })
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, state.PodView{Request: *r})
		done()
		return r
	}
	ctr := func(p *state.PodRequest, o *cri.SELinuxOption, privileged bool) selinux.Labels {
		t.Helper()
		c := &state.ContainerRequest{Config: state.ContainerConfig{ContainerConfig: &cri.ContainerConfig{Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{SelinuxOptions: o, Privileged: privileged}}}}}
		if err := m.Admit(p, c); err != nil {
			t.Fatal(err)
		}
		return c.SELinux
	}
	one, two := run(labelled(nil, cri.NamespaceMode_POD, false)), run(labelled(nil, cri.NamespaceMode_POD, true))
	asked := run(labelled(&cri.SELinuxOption{Level: "s0:c5,c6", Type: "pod_t"}, cri.NamespaceMode_POD, false))
	if one.Acts.Level == two.Acts.Level || !strings.HasPrefix(one.Acts.Level, "s0:c") || asked.Acts.Level != "s0:c5,c6" {
		t.Errorf("levels %q %q %q", one.Acts.Level, two.Acts.Level, asked.Acts.Level)
	}
	file := "system_u:object_r:container_file_t:"
	for _, c := range []struct {
		name          string
		got           selinux.Labels
		process, file string
	}{
		{"the pod", one.Acts.SELinux, "system_u:system_r:container_t:" + one.Acts.Level, file + one.Acts.Level},
		{"a container", ctr(one, nil, false), "system_u:system_r:container_t:" + one.Acts.Level, file + one.Acts.Level},
		{"privileged", ctr(two, nil, true), "system_u:system_r:spc_t:" + two.Acts.Level, file + two.Acts.Level},
		{"beside it", ctr(two, nil, false), "system_u:system_r:container_t:" + two.Acts.Level, file + two.Acts.Level},
		{"of the pod's options", ctr(asked, nil, false), "system_u:system_r:pod_t:s0:c5,c6", file + "s0:c5,c6"},
		{"with its own", ctr(asked, &cri.SELinuxOption{Type: "own_t", Level: "s0:c9"}, false), "system_u:system_r:own_t:s0:c9", file + "s0:c9"},
		{"with its own type", ctr(one, &cri.SELinuxOption{Type: "own_t"}, false), "system_u:system_r:own_t:" + one.Acts.Level, file + one.Acts.Level},
	} {
		if c.got.Process != c.process || c.got.Mount != c.file {
			t.Errorf("%s: %+v, want %s %s", c.name, c.got, c.process, c.file)
		}
	}
	host := run(labelled(&cri.SELinuxOption{Level: "s0:c1"}, cri.NamespaceMode_NODE, false))
	if got := ctr(host, nil, false); got != (selinux.Labels{}) {
		t.Errorf("in the node's network: %+v", got)
	}
	conf.HostNetworkSELinux = false
	host = run(labelled(&cri.SELinuxOption{Level: "s0:c1"}, cri.NamespaceMode_NODE, false))
	if got := ctr(host, nil, false); got.Process != "system_u:system_r:container_t:s0:c1" {
		t.Errorf("in the node's network, with hostnetwork_disable_selinux = false: %+v", got)
	}
	conf.Runtimes["kata"] = config.Handler{Type: config.TypeVM}
	vm := labelled(nil, cri.NamespaceMode_POD, false)
	vm.Handler = "kata"
	if got := run(vm).Acts.SELinux.Process; !strings.HasPrefix(got, "system_u:system_r:container_kvm_t:") || ctr(vm, nil, true).Process != got {
		t.Errorf("a machine: %s, a privileged container in it: %s", got, ctr(vm, nil, true).Process)
	}
	own := labelled(&cri.SELinuxOption{Type: "own_t"}, cri.NamespaceMode_POD, false)
	own.Handler = "kata"
	if got := run(own).Acts.SELinux.Process; !strings.Contains(got, ":own_t:") {
		t.Errorf("a machine that asks for a type: %s", got)
	}
	m.labels = nil // selinux = false, or no SELinux
	if off := run(labelled(nil, cri.NamespaceMode_POD, false)); off.Acts.Level != "" || ctr(off, nil, false) != (selinux.Labels{}) || ctr(one, nil, false) != (selinux.Labels{}) {
		t.Errorf("labels though SELinux is off: %+v", off.Acts)
	}
}

// What is made for the container gets its label, and mounts that ask for it.
func TestRelabel(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	k := policy{labels: map[string]string{"/has": label}}
	m := &specMaker{labels: &selinux.Labeler{Kernel: k}, log: slog.New(slog.DiscardHandler)}
	in := &spec.Input{MountLabel: label, Config: &cri.ContainerConfig{},
		Mounts:  []spec.Mount{{Mount: &cri.Mount{SelinuxRelabel: true}, Source: "/asked"}, {Mount: &cri.Mount{}, Source: "/not"}},
		Volumes: []spec.Volume{{Source: "/volume"}}, Node: spec.Node{Secrets: []spec.Volume{{Source: "/run/ctr/secrets/x"}}},
		Allowed: annotation.Allowed{annotation.SkipRelabel}}
	m.relabel(in, "/run/ctr")
	if got := slices.Sorted(maps.Keys(k.labels)); !slices.Equal(got, []string{"/asked", "/has", "/run/ctr/secrets", "/volume"}) {
		t.Errorf("relabelled: %v", got)
	}
	in.MountLabel, k.labels["/asked"] = "", "before"
	m.relabel(in, "/run/ctr")
	if k.labels["/asked"] != "before" {
		t.Error("a container without labels had a mount relabelled")
	}
}
