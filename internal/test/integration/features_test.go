package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCDI: devices that a vendor's file describes, by the CRI's field and by the older
// annotations; unknown ones are refused with the place that was looked at.
//
// Options: crio.runtime.cdi_spec_dirs
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vendor.json"), []byte(`{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "devices": [
	  {"name": "one", "containerEdits": {"deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}], "env": ["GPU=one"]}},
	  {"name": "two", "containerEdits": {"mounts": [{"hostPath": "`+dir+`", "containerPath": "/gpu", "options": ["ro", "bind"]}]}}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, world.Options{Extra: "[crio.runtime]\ncdi_spec_dirs = [\"/no/such/folder\", \"" + dir + "\"]\n"})
	w.Pull()
	pod := w.Pod("cdi", nil)
	out, st := w.Output(pod, "main", "echo $GPU; echo x >/dev/one && echo written; ls /gpu", func(c *cri.ContainerConfig) {
		c.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/gpu=one"}}
		c.Annotations = map[string]string{"cdi.k8s.io/plugin": "vendor.com/gpu=two,vendor.com/gpu=one"}
	})
	if out != "one\nwritten\nvendor.json\n" {
		t.Errorf("code %d: %q", st.GetExitCode(), out)
	}
	c := w.CtrConfig("none", "true")
	c.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/gpu=three"}}
	_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("cdi")})
	refused(t, "an unknown device", err, codes.InvalidArgument, "vendor.com/gpu=three", dir)
}

// TestUserNamespaceOnHostNetwork: a pod can have its own users in the node's network.
func TestUserNamespaceOnHostNetwork(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	ids := []*cri.IDMapping{{ContainerId: 0, HostId: 400_000, Length: 65536}}
	o := &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER,
		UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}}
	pod := w.Pod("userns", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions = o })
	out, st := w.Output(pod, "main", "cat /proc/self/uid_map; readlink /proc/self/ns/net; ls /sys/class/net >/dev/null && echo sys", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = o
	})
	mine, err := os.Readlink("/proc/self/ns/net")
	if f := strings.Fields(out); err != nil || len(f) != 5 || f[1] != "400000" || f[3] != mine || f[4] != "sys" {
		t.Errorf("code %d: %q, our network is %s", st.GetExitCode(), out, mine)
	}
}

// TestFeatures: Status tells what each handler can do, as the runtime itself says.
func TestFeatures(t *testing.T) {
	extra := ""
	if path, err := exec.LookPath("runc"); err == nil {
		extra = "[crio.runtime.runtimes.debian]\nruntime_path = \"" + path + "\"\n"
	}
	dumb := filepath.Join(t.TempDir(), "dumb")
	if err := os.WriteFile(dumb, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w := world.New(t, world.Options{Extra: extra + "[crio.runtime.runtimes.dumb]\nruntime_path = \"" + dumb + "\"\n"})
	r, err := w.RuntimeServiceClient.Status(w.Ctx(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if f := r.GetFeatures(); !f.GetSupplementalGroupsPolicy() || !f.GetUserNamespacesHostNetwork() || !f.GetMountOptions() {
		t.Errorf("features: %v", f)
	}
	got := map[string]*cri.RuntimeHandlerFeatures{}
	for _, h := range r.GetRuntimeHandlers() {
		got[h.GetName()] = h.GetFeatures()
	}
	for _, name := range []string{"", "runc"} {
		if f := got[name]; !f.GetRecursiveReadOnlyMounts() || !f.GetUserNamespaces() {
			t.Errorf("handler %q: %v", name, f)
		}
	}
	if f, ok := got["dumb"]; !ok || f.GetRecursiveReadOnlyMounts() || f.GetUserNamespaces() {
		t.Errorf("a runtime that tells nothing: %v", f)
	}
	if extra != "" && got["debian"] == nil {
		t.Errorf("handlers: %v", got)
	}
	w.Pull()
	c := w.CtrConfig("rro", "true")
	c.Mounts = []*cri.Mount{{HostPath: "/tmp", ContainerPath: "/x", Readonly: true, RecursiveReadOnly: true}}
	p, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig("dumb"), RuntimeHandler: "dumb"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: p.GetPodSandboxId(), Config: c, SandboxConfig: w.PodConfig("dumb")})
	refused(t, "a recursive read-only mount", err, codes.Unimplemented, "RROUnsupported: ")
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.GetPodSandboxId()}); err != nil {
		t.Fatal(err)
	}
}
