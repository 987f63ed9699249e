package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/config"
	"github.com/monocrio/monocrio/internal/daemon/facts"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/pod/state"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func wantError(t *testing.T, what string, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("%s: error %v, want %q", what, err, want)
	}
}

func TestLocaltime(t *testing.T) {
	for zone, want := range map[string]string{"": "", "Local": "", "../../../etc/passwd": "write Local", "/etc/passwd": "write Local", "No/Where": "No/Where", "Asia/": "Asia"} {
		_, err := facts.Localtime(zone)
		wantError(t, zone, err, want)
	}
}

func TestWhereMonitorsMayLive(t *testing.T) {
	for _, c := range []struct {
		d           cgroup.Driver
		place, want string
	}{
		{cgroup.Cgroupfs, "", ""}, {cgroup.Cgroupfs, "pod", ""}, {cgroup.Cgroupfs, "/x", ""}, {cgroup.Cgroupfs, "a.slice", "cgroup_manager"},
		{cgroup.Systemd, "", ""}, {cgroup.Systemd, "pod", ""}, {cgroup.Systemd, "a.slice", ""}, {cgroup.Systemd, "/x", "name of a slice"},
	} {
		wantError(t, c.place, checkPlace(c.d, "t", c.place), c.want)
	}
	if got := (places{cgroup.Cgroupfs}).Path("pod", "/p/q", "id"); got != "/p/q/crio-conmon-id" {
		t.Errorf("cgroup of a monitor: %q", got)
	}
	for _, p := range []places{{cgroup.Cgroupfs}, {cgroup.Systemd}} {
		if got := p.Path("/x", "/p", "id"); got != "" {
			t.Errorf("a cgroup that others use too would be deleted: %q", got)
		}
	}
}

// Options: crio.runtime.seccomp_profile
func TestAbsentProfilesFallBack(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.json")
	if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := &specMaker{log: slog.Default(), conf: &config.Runtime{SeccompProfile: path, Runtimes: map[string]config.Handler{
		"a": {}, "b": {SeccompProfile: filepath.Join(dir, "absent")}, "c": {SeccompProfile: path}}}}
	if err := m.profiles(); err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"a", "b", "c"} {
		if string(m.seccomp[h]) != "{}" {
			t.Errorf("profile of %s: %q", h, m.seccomp[h])
		}
	}
	m.conf.PrivilegedSeccomp = dir // cannot be read
	wantError(t, "a folder", m.profiles(), "privileged_seccomp_profile")
}

func TestContainersThatAreRefused(t *testing.T) {
	m := &specMaker{conf: &config.Runtime{DefaultRuntime: "runc", Runtimes: map[string]config.Handler{"runc": {
		AllowedAnnotations:   []string{"platform-runtime-path.crio.io", "org.opencontainers.image.stopSignal"},
		PlatformRuntimePaths: map[string]string{"wasi/wasm": "/x"}}}}}
	for _, c := range []struct{ key, value, image, handler, want string }{
		{"", "", "linux/amd64", "runc", ""},
		{"", "", "wasi/wasm", "runc:wasi/wasm", ""},
		{"io.kubernetes.cri-o.PlatformRuntimePath", "wasi/wasm", "linux/amd64", "runc:wasi/wasm", ""},
		{"platform-runtime-path.crio.io", "/bin/sh", "linux/amd64", "runc", "wasi/wasm"},
		{"org.opencontainers.image.stopSignal", "SIGNOTHING", "linux/amd64", "runc", "no such signal"},
	} {
		p := &state.PodRequest{Handler: "runc", Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{Annotations: map[string]string{c.key: c.value}}}}
		r := &state.ContainerRequest{Handler: "runc", Image: state.Image{Platform: c.image}, Config: state.ContainerConfig{ContainerConfig: &cri.ContainerConfig{}}}
		wantError(t, c.key+"="+c.value, m.Admit(p, r), c.want)
		if r.Handler != c.handler {
			t.Errorf("%s=%s, image of %s: handler %s, want %s", c.key, c.value, c.image, r.Handler, c.handler)
		}
	}
}

// Options: crio.runtime.conmon_cgroup, crio.runtime.conmon_env,
// crio.runtime.runtimes.NAME.container_create_timeout, crio.runtime.runtimes.NAME.inherit_default_runtime
func TestHandlersFromConfiguration(t *testing.T) {
	c := config.Default()
	c.Crio.RunDir, c.Runtime.NoSyncLog = t.TempDir(), false
	c.Runtime.ConmonCgroup, c.Runtime.ConmonEnv = "pod", []string{"A=1"}
	c.Runtime.Runtimes = map[string]config.Handler{"runc": {}, "mine": {InheritDefault: true, Path: "/no/such", NoSyncLog: true, CreateTimeout: 31,
		MonitorEnv: []string{"B=2"}, MonitorCgroup: "/m", PlatformRuntimePaths: map[string]string{"wasi/wasm": "/bin/true"}}}
	hs, err := newHandlers(c, "/bin", cgroup.Cgroupfs, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	def, mine, wasm := hs.byName["runc"], hs.byName["mine"], hs.platforms["mine:wasi/wasm"]
	if def.NoSyncLog || def.Patience(time.Minute) != time.Minute || def.MonitorCgroup != "pod" || def.Env[len(def.Env)-1] != "A=1" {
		t.Errorf("the default handler: %+v", def)
	}
	if !mine.NoSyncLog || mine.Patience(time.Minute) != 31*time.Second || mine.MonitorCgroup != "/m" || mine.Env[len(mine.Env)-1] != "B=2" {
		t.Errorf("the other: %+v", mine)
	}
	want, _, _ := def.Runtime.Command()
	if got, _, args := mine.Runtime.Command(); got != want || !strings.Contains(strings.Join(args, " "), filepath.Join(c.Crio.RunDir, "runtime", "runc")) {
		t.Errorf("the inherited runtime is %s %v", got, args)
	}
	if got, _, _ := wasm.Runtime.Command(); got != "/bin/true" || !wasm.NoSyncLog {
		t.Errorf("the platform's runtime is %s: %+v", got, wasm)
	}
	for _, h := range hs.list() {
		if strings.Contains(h.GetName(), ":") {
			t.Errorf("clients see %s", h.GetName())
		}
	}
	for _, name := range []string{"", "mine", "mine:wasi/wasm"} {
		if _, err := hs.Handler(name); err != nil {
			t.Error(err)
		}
	}
}

func TestNodesMapping(t *testing.T) {
	m := &specMaker{conf: &config.Runtime{DropInfraCtr: true}}
	var err error
	if m.nodeIDs, err = idrange.Whole("1:9:5,0:1000:1", "0:1000:10"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sc     *cri.LinuxSandboxSecurityContext
		mapped bool
	}{
		{nil, true},
		{&cri.LinuxSandboxSecurityContext{Privileged: true}, false},
		{&cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}, false},
		{&cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_NODE}}}, false},
	} {
		r := &state.PodRequest{Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: c.sc}}}}
		if _, err := m.Pod("id", r, nil); err != nil || (r.UserNS() != nil) != c.mapped {
			t.Errorf("%v: %v %v, want a mapping: %v", c.sc, r.UserNS(), err, c.mapped)
		}
		if uid, gid := r.RootIDs(); c.mapped && (uid != 1000 || gid != 1000) {
			t.Errorf("root is %d:%d", uid, gid)
		}
	}
	for _, wrong := range []string{"", "0:1", "1:5:1", "0:5:2,1:9:1"} {
		if _, err := idrange.Whole(wrong, "0:1:1"); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

// Options: crio.runtime.minimum_mappable_uid, crio.runtime.minimum_mappable_gid
func TestPodsThatAreRefused(t *testing.T) {
	m := &specMaker{ids: idPool(&config.Runtime{}), conf: &config.Runtime{DropInfraCtr: true, Runtimes: map[string]config.Handler{"runc": {
		AllowedAnnotations: []string{"shm-size.crio.io", "link-logs.crio.io", "userns-mode.crio.io"}}}}}
	for _, c := range []struct{ key, value, want string }{
		{"shm-size.crio.io", "64Mi", ""},
		{"shm-size.crio.io", "-1", "size"},
		{"shm-size.crio.io", "0", "size"},
		{"link-logs.crio.io", "", "emptyDir"},
		{"link-logs.crio.io", "..", "emptyDir"},
		{"link-logs.crio.io", ".", "emptyDir"},
		{"link-logs.crio.io", "a/../../b", "emptyDir"},
		{"link-logs.crio.io", "not-there", "there is no folder"},
		{"userns-mode.crio.io", "auto:keep-id=true", "run_as_user"},
	} {
		r := &state.PodRequest{Handler: "runc", Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Uid: "u"}, LogDirectory: "/l", Annotations: map[string]string{c.key: c.value}}}}
		_, err := m.Pod("id", r, func() []state.PodView { return nil })
		wantError(t, c.key+"="+c.value, err, c.want)
	}
	r := &state.PodRequest{Handler: "runc", Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{
		Annotations: map[string]string{"shm-size.crio.io": "1M"},
		Linux:       &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}}}}}}
	_, err := m.Pod("id", r, nil)
	wantError(t, "shared memory of the node", err, "IPC")
	r.Config.Annotations = nil
	m.conf.Runtimes["runc"] = config.Handler{DefaultAnnotations: map[string]string{"shm-size.crio.io": "1M", "userns-mode.crio.io": "auto"}}
	r.Config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD}
	if _, err := m.Pod("id", r, nil); err != nil || r.Acts.ShmSize != 0 || len(r.Acts.UIDs) > 0 {
		t.Errorf("what a handler gives to whom it fits is forced on a pod: %+v %v", r.Acts, err)
	}
}
