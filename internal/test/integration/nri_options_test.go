package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"github.com/monocrio/monocrio/internal/test/fakeshim"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestMain lets the test binary be a plugin that the daemon starts.
func TestMain(m *testing.M) {
	if os.Getenv(api.PluginNameEnvVar) != "" {
		os.Exit(installedPlugin())
	}
	if code, is := fakeshim.Main(os.Args); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// installed is a plugin that writes what it is told to a file beside its configuration.
type installed struct{ told *os.File }

func (p *installed) Configure(_ context.Context, config, runtime, version string) (stub.EventMask, error) {
	_, err := fmt.Fprintf(p.told, "configured %s\n", config)
	return 0, err
}

func (p *installed) RunPodSandbox(_ context.Context, s *api.PodSandbox) error {
	_, err := fmt.Fprintf(p.told, "run %s\n", s.GetName())
	return err
}

func installedPlugin() int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	told, err := os.OpenFile(filepath.Join(filepath.Dir(self), "../told"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return 1
	}
	s, err := stub.New(&installed{told})
	if err != nil {
		return 1
	}
	if err := s.Run(context.Background()); err != nil {
		return 1
	}
	return 0
}

// Plugins of the folder are started with the daemon and get their configuration; others
// cannot connect if the node says so.
//
// Options: crio.nri.enable_nri, crio.nri.nri_plugin_dir, crio.nri.nri_plugin_config_dir, crio.nri.nri_disable_connections
func TestNRIInstalled(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	inTable(w, "crio.nri", "nri_disable_connections = true")
	for _, dir := range []string{"nri", "nri.d"} {
		if err := os.MkdirAll(filepath.Join(w.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, self, filepath.Join(w.Dir, "nri/10-mine"))
	if err := os.WriteFile(filepath.Join(w.Dir, "nri.d/10-mine.conf"), []byte("for mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.Start()
	w.Pod("installed", nil)
	w.Eventually("the plugin is told", func() bool {
		text, _ := os.ReadFile(filepath.Join(w.Dir, "told"))
		return string(text) == "configured for mine\nrun installed\n"
	})
	if _, err := os.Stat(filepath.Join(w.Dir, "nri.sock")); err == nil {
		t.Error("there is a socket for other plugins")
	}
	w.Stop() // the plugin ends with the daemon
	if err := os.RemoveAll(filepath.Join(w.Dir, "nri")); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// A plugin that does not answer is let go, and the call goes on without it.
//
// Options: crio.nri.nri_plugin_request_timeout, crio.nri.nri_plugin_registration_timeout
func TestNRITimeouts(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	inTable(w, "crio.nri", "nri_plugin_request_timeout = \"300ms\"\nnri_plugin_registration_timeout = \"1s\"")
	w.Start()
	w.Pull()
	p := &nriPlugin{}
	connect(w, p, "10")
	joined(w, p)
	pod := w.Pod("slow", nil)
	release := make(chan struct{})
	p.onCreate = func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		<-release
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(w.Ctx(), 30*time.Second)
	defer cancel()
	_, err := w.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig("main", "true"), SandboxConfig: w.PodConfig("slow")})
	close(release)
	if err != nil && !strings.Contains(err.Error(), "NRI") {
		t.Errorf("with a plugin that hangs: %v", err)
	}
	w.Ctr(pod, "later", "true", nil) // without it
}

// What a plugin must not do is refused, rule by rule.
//
// Options: crio.nri.default_validator.nri_enable_default_validator,
// crio.nri.default_validator.nri_validator_reject_oci_hook_adjustment,
// crio.nri.default_validator.nri_validator_reject_runtime_default_seccomp_adjustment,
// crio.nri.default_validator.nri_validator_reject_unconfined_seccomp_adjustment,
// crio.nri.default_validator.nri_validator_reject_custom_seccomp_adjustment,
// crio.nri.default_validator.nri_validator_reject_namespace_adjustment,
// crio.nri.default_validator.nri_validator_reject_sysctl_adjustment
func TestNRIValidator(t *testing.T) {
	profile := func(kind cri.SecurityProfile_ProfileType, path string) ctrChange {
		return func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: path}
		}
	}
	custom := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(custom, []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	seccomp := func(a *api.ContainerAdjustment) {
		a.SetLinuxSeccompPolicy(&api.LinuxSeccomp{DefaultAction: "SCMP_ACT_ALLOW"})
	}
	for rule, c := range map[string]struct {
		adjust func(*api.ContainerAdjustment)
		change ctrChange
	}{
		"oci_hook": {func(a *api.ContainerAdjustment) {
			a.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/true"}}})
		}, nil},
		"runtime_default_seccomp": {seccomp, profile(cri.SecurityProfile_RuntimeDefault, "")},
		"unconfined_seccomp":      {seccomp, profile(cri.SecurityProfile_Unconfined, "")},
		"custom_seccomp":          {seccomp, profile(cri.SecurityProfile_Localhost, custom)},
		"namespace": {func(a *api.ContainerAdjustment) {
			a.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "cgroup"})
		}, nil},
		"sysctl": {func(a *api.ContainerAdjustment) { a.SetLinuxSysctl("net.ipv4.ip_forward", "1") }, nil},
	} {
		t.Run(rule, func(t *testing.T) {
			w := world.New(t, world.Options{Late: true})
			free := w.ConfText()
			for _, on := range []bool{true, false} {
				w.SetConf(free + fmt.Sprintf("[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_reject_%s_adjustment = %v\n", rule, on))
				w.Start()
				w.Pull()
				p := &nriPlugin{onCreate: func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
					a := &api.ContainerAdjustment{}
					c.adjust(a)
					return a, nil, nil
				}}
				connect(w, p, "10")
				joined(w, p)
				pod := w.Pod(fmt.Sprintf("rule-%v", on), nil)
				config := w.CtrConfig("main", "true")
				if c.change != nil {
					c.change(config)
				}
				_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig(fmt.Sprintf("rule-%v", on))})
				if on {
					refused(t, rule, err, codes.FailedPrecondition)
				} else if err != nil {
					t.Errorf("without the rule: %v", err)
				}
				p.stub.Stop()
				w.Stop()
			}
		})
	}
}

// Containers wait for plugins that a node cannot do without, unless their pod says that
// it can.
//
// Options: crio.nri.default_validator.nri_validator_required_plugins,
// crio.nri.default_validator.nri_validator_tolerate_missing_plugins_annotation
func TestNRIRequiredPlugins(t *testing.T) {
	w := world.New(t, world.Options{Extra: "[crio.nri.default_validator]\nnri_enable_default_validator = true\nnri_validator_required_plugins = [\"test10\"]\nnri_validator_tolerate_missing_plugins_annotation = \"may-lack.example.com\"\n"})
	w.Pull()
	create := func(name string, annotations map[string]string) error {
		change := func(c *cri.PodSandboxConfig) { c.Annotations = annotations }
		pod := w.Pod(name, change)
		config := w.PodConfig(name)
		change(config)
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: w.CtrConfig("main", "true"), SandboxConfig: config})
		return err
	}
	// The library asks its validator only while there are plugins at all.
	other := &nriPlugin{}
	connect(w, other, "20")
	joined(w, other)
	refused(t, "without the plugin", create("lacks", nil), codes.FailedPrecondition, "test10")
	if err := create("tolerates", map[string]string{"may-lack.example.com": "true"}); err != nil {
		t.Errorf("a pod that may lack it: %v", err)
	}
	p := &nriPlugin{}
	connect(w, p, "10")
	joined(w, p)
	if err := create("has", nil); err != nil {
		t.Errorf("with the plugin: %v", err)
	}
}
