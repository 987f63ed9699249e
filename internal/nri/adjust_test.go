package nri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/pod/state"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAdjust shows every adjustment that plugins can make, one by one, as the
// difference that it makes in the specification's JSON.
func TestAdjust(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.ContainerAdjustment)
		want   []string // in the JSON
		not    []string
	}{
		"annotation":  {func(a *api.ContainerAdjustment) { a.AddAnnotation("k", "v"); a.RemoveAnnotation("old") }, []string{`"k":"v"`}, []string{`"old"`}},
		"environment": {func(a *api.ContainerAdjustment) { a.AddEnv("A", "new"); a.AddEnv("B", "c=d") }, []string{`"A=new"`, `"B=c=d"`}, []string{`"A=b"`}},
		"arguments":   {func(a *api.ContainerAdjustment) { a.SetArgs([]string{"other"}) }, []string{`"args":["other"]`}, []string{`"sh"`}},
		"mount": {func(a *api.ContainerAdjustment) {
			a.AddMount(&api.Mount{Source: "/s", Destination: "/d", Type: "bind", Options: []string{"ro"}})
			a.RemoveMount("/gone")
		}, []string{`"destination":"/d"`}, []string{`"/gone"`}},
		"device": {func(a *api.ContainerAdjustment) {
			a.AddDevice(&api.LinuxDevice{Path: "/dev/x", Type: "c", Major: 1, Minor: 3})
			a.RemoveDevice("/dev/old")
		}, []string{`"path":"/dev/x"`, `"allow":true,"type":"c","major":1,"minor":3`}, []string{`"/dev/old"`}},
		"hooks": {func(a *api.ContainerAdjustment) {
			h := []*api.Hook{{Path: "/hook"}}
			a.AddHooks(&api.Hooks{Prestart: h, CreateRuntime: h, CreateContainer: h, StartContainer: h, Poststart: h, Poststop: h})
		}, []string{`"prestart":[{"path":"/hook"`, `"createRuntime":[`, `"createContainer":[`, `"startContainer":[`, `"poststart":[`, `"poststop":[`}, nil},
		"rlimit": {func(a *api.ContainerAdjustment) { a.AddRlimit("RLIMIT_CORE", 5, 4) }, []string{`"type":"RLIMIT_CORE","hard":5,"soft":4`}, nil},
		"processor": {func(a *api.ContainerAdjustment) {
			a.SetLinuxCPUShares(1)
			a.SetLinuxCPUQuota(2)
			a.SetLinuxCPUPeriod(3)
			a.SetLinuxCPUSetCPUs("4")
			a.SetLinuxCPUSetMems("5")
			a.SetLinuxCPURealtimePeriod(6)
			a.SetLinuxCPURealtimeRuntime(7)
		}, []string{`"cpu":{"shares":1,"quota":2,"period":3,"realtimeRuntime":7,"realtimePeriod":6,"cpus":"4","mems":"5"}`}, nil},
		"memory":     {func(a *api.ContainerAdjustment) { a.SetLinuxMemoryLimit(1 << 20) }, []string{`"memory":{"limit":1048576`}, nil},
		"huge pages": {func(a *api.ContainerAdjustment) { a.AddLinuxHugepageLimit("2MB", 9) }, []string{`"pageSize":"2MB","limit":9`}, nil},
		"unified":    {func(a *api.ContainerAdjustment) { a.AddLinuxUnified("memory.high", "7") }, []string{`"memory.high":"7"`}, nil},
		"processes":  {func(a *api.ContainerAdjustment) { a.SetLinuxPidLimits(11) }, []string{`"pids":{"limit":11}`}, nil},
		"score":      {func(a *api.ContainerAdjustment) { a.SetLinuxOomScoreAdj(new(12)) }, []string{`"oomScoreAdj":12`}, nil},
		"cgroup":     {func(a *api.ContainerAdjustment) { a.SetLinuxCgroupsPath("/c") }, []string{`"cgroupsPath":"/c"`}, nil},
		"sysctl":     {func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("net.x", "1") }, []string{`"net.x":"1"`}, nil},
		"namespace": {func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "ipc", Path: "/ipc"})
		}, []string{`"type":"ipc","path":"/ipc"`}, nil},
		"CDI":       {func(a *api.ContainerAdjustment) { a.AddCDIDevice(&api.CDIDevice{Name: "v.com/c=d"}) }, []string{`"v.com/c=d":"injected"`}, nil},
		"block I/O": {func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("slow") }, []string{`"blockIO":{"weight":10}`}, nil},
		"RDT":       {func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("some") }, []string{`"closID":"some"`}, nil},
		"nothing":   {func(*api.ContainerAdjustment) {}, []string{`"A=b"`, `"/gone"`, `"/dev/old"`}, nil},
	} {
		s := &specs.Spec{Process: &specs.Process{Args: []string{"sh"}, Env: []string{"A=b"}}, Annotations: map[string]string{"old": "x"},
			Mounts: []specs.Mount{{Destination: "/gone"}}, Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/old"}}}}
		a := &api.ContainerAdjustment{}
		c.change(a)
		if err := adjust(s, a, known()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			if !strings.Contains(string(data), w) {
				t.Errorf("%s: %s is not in %s", name, w, data)
			}
		}
		for _, n := range c.not {
			if strings.Contains(string(data), n) {
				t.Errorf("%s: %s is in %s", name, n, data)
			}
		}
	}
	if err := adjust(&specs.Spec{}, nil, &Options{}); err != nil {
		t.Error(err)
	}
}

// known are options of a node with the classes slow and some.
func known() *Options {
	return &Options{InjectCDI: func(s *specs.Spec, names []string) error { s.Annotations[names[0]] = "injected"; return nil },
		BlockIO: func(class string) (*specs.LinuxBlockIO, error) {
			if class != "slow" {
				return nil, fmt.Errorf("no class %s", class)
			}
			return &specs.LinuxBlockIO{Weight: new(uint16(10))}, nil
		},
		RDT: func(class string) (*specs.LinuxIntelRdt, error) {
			if class != "some" {
				return nil, fmt.Errorf("no class %s", class)
			}
			return &specs.LinuxIntelRdt{ClosID: class}, nil
		}}
}

func TestAdjustRefuses(t *testing.T) {
	for name, change := range map[string]func(*api.ContainerAdjustment){
		"block I/O class":   func(a *api.ContainerAdjustment) { a.SetLinuxBlockIOClass("gold") },
		"RDT class":         func(a *api.ContainerAdjustment) { a.SetLinuxRDTClass("gold") },
		"unknown namespace": func(a *api.ContainerAdjustment) { a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "gold"}) },
	} {
		a := &api.ContainerAdjustment{}
		change(a)
		if err := adjust(&specs.Spec{}, a, known()); err == nil || !strings.Contains(err.Error(), "gold") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestResources: limits come back from the plugins' words as they went.
func TestResources(t *testing.T) {
	in := &cri.LinuxContainerResources{CpuPeriod: 1, CpuQuota: 2, CpuShares: 3, MemoryLimitInBytes: 4, MemorySwapLimitInBytes: 5, CpusetCpus: "6", CpusetMems: "7",
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 8}}, Unified: map[string]string{"a": "b"}}
	if out := fromResources(toResources(in)); out.String() != in.String() {
		t.Errorf("%v became %v", in, out)
	}
	if toResources(nil) != nil {
		t.Error("no limits became some")
	}
}

// TestNone: where the interface is off, nothing is asked and nothing held.
func TestNone(t *testing.T) {
	p := None()
	if err := p.Start(nil); err != nil {
		t.Error(err)
	}
	p.Hold()()
	want := &cri.LinuxContainerResources{CpuShares: 1}
	got, err := p.Update(context.Background(), &state.PodView{}, &state.ContainerView{}, want)
	err = errors.Join(err, p.Pod(context.Background(), state.PodRun, &state.PodView{}), p.Create(context.Background(), nil, nil, nil),
		p.Container(context.Background(), state.ContainerStop, nil, nil), p.UpdatePod(context.Background(), nil, nil, nil))
	if err != nil || got != want {
		t.Errorf("%v, %v", got, err)
	}
	p.Stop()
}

func TestRefused(t *testing.T) {
	if err := refused(errors.New("rpc error: code = Unknown desc = not on my node")); !errs.Is(err, errs.KindPrecondition) || !strings.HasSuffix(err.Error(), "refuses it: not on my node") {
		t.Errorf("%v", err)
	}
	if known := errs.NotFound("container", "x"); refused(known) != known || refused(nil) != nil {
		t.Error("an error of ours was changed")
	}
}
