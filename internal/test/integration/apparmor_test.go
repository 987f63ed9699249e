package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// confine is a change that gives a container an AppArmor profile.
func confine(kind cri.SecurityProfile_ProfileType, ref string) func(*cri.ContainerConfig) {
	return func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.Apparmor = &cri.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
}

// loadProfile puts a profile into the kernel for the time of a test. It forbids what an
// ordinary container may do: to read /etc/hostname.
func loadProfile(t *testing.T, name string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	text := fmt.Sprintf("profile %s flags=(attach_disconnected,mediate_deleted) {\n network,\n capability,\n file,\n umount,\n signal,\n deny /etc/hostname r,\n}\n", name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	parser := func(verb string) ([]byte, error) {
		return exec.Command("apparmor_parser", verb, "-K", file).CombinedOutput()
	}
	if out, err := parser("-Kr"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := parser("-R"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

const whichProfile = "cat /proc/self/attr/current; cat /etc/hostname >/dev/null && echo hostname; cat /sys/firmware/acpi/pm_profile >/dev/null && echo firmware"

// Options: crio.runtime.apparmor_profile
func TestAppArmor(t *testing.T) {
	if !lsm.AppArmorEnabled() {
		t.Skip("this kernel has no AppArmor")
	}
	loadProfile(t, "world-one")
	loadProfile(t, "world-two")
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("aa", nil)
	root := w.Pod("aaroot", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	saw := func(pod, name string, change func(*cri.ContainerConfig)) string {
		out, _ := w.Output(pod, name, "("+whichProfile+") 2>/dev/null", change)
		return strings.Join(strings.Fields(strings.ReplaceAll(out, "\x00", "")), " ")
	}
	const runtimeDefault, unconfined, localhost = cri.SecurityProfile_RuntimeDefault, cri.SecurityProfile_Unconfined, cri.SecurityProfile_Localhost
	for _, c := range []struct {
		name, pod, want string
		change          func(*cri.ContainerConfig)
	}{
		{"silent", pod, "crio-default (enforce) hostname", nil},
		{"default", pod, "crio-default (enforce) hostname", confine(runtimeDefault, "")},
		{"local", pod, "world-one (enforce) firmware", confine(localhost, "world-one")},
		{"none", pod, "unconfined hostname firmware", confine(unconfined, "")},
		{"old", pod, "world-one (enforce) firmware", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.ApparmorProfile = "localhost/world-one" //nolint:staticcheck // old clients still send it
		}},
		{"privileged", root, "unconfined hostname firmware", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.Privileged = true
			confine(localhost, "not-loaded")(c)
		}},
	} {
		if got := saw(c.pod, c.name, c.change); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	config := w.CtrConfig("unloaded", "true")
	confine(localhost, "not-loaded")(config)
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: w.PodConfig("x")})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not-loaded") {
		t.Errorf("a profile that is not loaded: %v", err)
	}
	// Exec'd processes are confined as the container is.
	id := w.Ctr(pod, "execs", "sleep 1000", confine(localhost, "world-two"))
	if out, _ := w.Exec(id, "cat /proc/self/attr/current"); !strings.HasPrefix(out, "world-two (enforce)") {
		t.Errorf("an exec'd process has the profile %q", out)
	}
	appArmorOption(t, w, func(name string) string { return saw(pod, name, confine(runtimeDefault, "")) })
}

// appArmorOption reloads with other default profiles.
func appArmorOption(t *testing.T, w *world.World, saw func(name string) string) {
	base := w.ConfText()
	for _, c := range []struct{ name, logged, want string }{
		{"world-two", "configuration reloaded", "world-two (enforce) firmware"},
		{"nobody-loaded-it", "the present one stays", "world-two (enforce) firmware"},
		{"unconfined", "configuration reloaded", "unconfined hostname firmware"},
	} {
		at := len(w.Log())
		setFile(t, w.Conf, base+"[crio.runtime]\napparmor_profile = \""+c.name+"\"\n")
		logged(w, at, c.logged)
		if c.logged == "the present one stays" {
			logged(w, at, c.logged, c.name, "apparmor_parser")
		}
		if got := saw("with-" + c.name); got != c.want {
			t.Errorf("apparmor_profile = %s: %q, want %q", c.name, got, c.want)
		}
	}
}
