package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	c, _, err := Load(write(t, t.TempDir(), "crio.conf", text), "", true)
	if err == nil {
		err = c.Complete()
	}
	return c, err
}

func TestHandlersAndWorkloadsThatCannotBeMeant(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[crio.runtime.runtimes.runc]\nallowed_annotations = [\"shm-size.crio.oi\"]", "shm-size.crio.io"},
		{"[crio.runtime.runtimes.runc]\nallowed_annotations = [\"io.kubernetes.cri-o.\"]", "no annotation of that name"},
		{"[crio.runtime.runtimes.runc]\nmonitor_cgroup = \"here\"", "monitor_cgroup"},
		{"[crio.runtime.runtimes.runc]\nplatform_runtime_paths = {\"wasm\" = \"/x\"}", "OS/ARCHITECTURE"},
		{"[crio.runtime.runtimes.runc]\nplatform_runtime_paths = {\"wasi/wasm\" = \"x\"}", "absolute path"},
		{"[crio.runtime.runtimes.kata]\nruntime_type = \"vm\"", "containerd-shim-kata-v2"},
		{"[crio.runtime.runtimes.kata]\nruntime_type = \"pod\"", "conmon-rs"},
		{"[crio.runtime.runtimes.kata]\nruntime_config_path = \"/x\"", "\"vm\" only"},
		{"[crio.runtime.runtimes.kata]\nruntime_pull_image = true", "\"vm\" only"},
		{"[crio.runtime.runtimes.kata]\nruntime_type = \"vm\"\nruntime_path = \"/x\"\nplatform_runtime_paths = {\"wasi/wasm\" = \"/y\"}", "one shim"},
		{"[crio.runtime.workloads.w]\nannotation_prefix = \"p\"", "activation_annotation"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\nannotation_prefix = \"p/\"", "annotation_prefix"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\nallowed_annotations = [\"nothing\"]", "nothing"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\n[crio.runtime.workloads.w.resources]\ncpushares = 1", "cpushares"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\n[crio.runtime.workloads.w.resources]\ncpuperiod = 5", "cpuperiod"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\n[crio.runtime.workloads.w.resources]\ncpuquota = 5", "cpuquota"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\n[crio.runtime.workloads.w.resources]\ncpuset = \"x\"", "cpuset"},
		{"[crio.runtime.workloads.w]\nactivation_annotation = \"a\"\n[crio.runtime.workloads.w.resources]\ncpulimit = 100\ncpuquota = 5000", "exclude"},
		{"[crio.runtime]\nallowed_devices = [\"fuse\"]", "allowed_devices"},
	} {
		if _, err := load(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\n%v, want it to say %q", c.text, err, c.want)
		}
	}
}

func TestWhatIsAllowed(t *testing.T) {
	c, err := load(t, `[crio.runtime.runtimes.other]
allowed_annotations = ["umask.crio.io"]
[crio.runtime.workloads.w]
activation_annotation = "example.org/w"
allowed_annotations = ["shm-size.crio.io"]
`)
	if err != nil {
		t.Fatal(err)
	}
	active := map[string]string{"example.org/w": ""}
	for _, one := range []struct {
		handler string
		pod     map[string]string
		want    []string
	}{
		{"runc", nil, []string{annotation.Devices}},
		{"other", nil, []string{annotation.Umask}},
		{"other", map[string]string{"example.org/w2": ""}, []string{annotation.Umask}},
		{"other", active, []string{annotation.Umask, annotation.ShmSize}},
		{"runc", active, []string{annotation.Devices, annotation.ShmSize}},
	} {
		if got := c.Runtime.Allowed(one.handler, one.pod); !slices.Equal(got, one.want) {
			t.Errorf("%s %v: %v, want %v", one.handler, one.pod, got, one.want)
		}
	}
	if c, err = load(t, "[crio.runtime.runtimes.runc]\nallowed_annotations = []"); err != nil || len(c.Runtime.Allowed("runc", nil)) != 0 {
		t.Errorf("an empty list allows %v (%v)", c.Runtime.Allowed("runc", nil), err)
	}
}

func TestInherited(t *testing.T) {
	c, err := load(t, "[crio.runtime]\ndefault_runtime = \"crun\"\n[crio.runtime.runtimes.crun]\nruntime_path = \"/c\"\nruntime_root = \"/r\"\n[crio.runtime.runtimes.hp]\ninherit_default_runtime = true\nruntime_path = \"/x\"\nmonitor_path = \"/m\"\n")
	if err != nil {
		t.Fatal(err)
	}
	if h, kind := c.Runtime.Effective("hp"); h.Path != "/c" || h.Root != "/r" || h.MonitorPath != "/m" || kind != "crun" {
		t.Errorf("%+v %s", h, kind)
	}
	if h, kind := c.Runtime.Effective("crun"); h.Path != "/c" || kind != "crun" {
		t.Errorf("%+v %s", h, kind)
	}
}

func TestWorkloadOfOneContainer(t *testing.T) {
	w := Workload{ActivationAnnotation: "a", AnnotationPrefix: "p", Resources: WorkloadResources{CPUShares: 100, CPULimit: 500}}
	for text, want := range map[string]WorkloadResources{
		`{"cpushares":7}`:                 {CPUShares: 7, CPULimit: 500},
		`{"cpuset":"0-1","cpushares":0}`:  {CPUSet: "0-1", CPULimit: 500},
		`{"cpuquota":5000}`:               {CPUShares: 100, CPUQuota: 5000},
		`{"cpulimit":5,"cpuperiod":2000}`: {CPUShares: 100, CPULimit: 5, CPUPeriod: 2000},
		`{}`:                              {CPUShares: 100, CPULimit: 500},
	} {
		if got, err := w.For("c", map[string]string{"p/c": text, "p/other": "broken"}); err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
	for _, text := range []string{`x`, `{"cpu":1}`, `{"cpushares":-1}`, `{"cpuset":"a"}`, `{"cpulimit":1,"cpuquota":5000}`} {
		if _, err := w.For("c", map[string]string{"p/c": text}); err == nil || !strings.Contains(err.Error(), "p/c") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
