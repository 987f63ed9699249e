package world

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodConfig is a pod as the kubelet asks for it; its PID namespaces are the
// containers' own.
func (w *World) PodConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: name, LogDirectory: filepath.Join(w.Dir, "podlogs", name),
		Labels: map[string]string{"app": name}, Annotations: map[string]string{"note": "verbatim; $(x) \"y\""},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
}

// CtrConfig is a container of the busybox image that runs a shell script.
func (w *World) CtrConfig(name, script string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: w.Image},
		Command: []string{"sh", "-c", script}, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
}

// Pull fetches the busybox image.
func (w *World) Pull() string {
	w.T.Helper()
	r, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Image}})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetImageRef()
}

// Pod runs a pod; change, if not nil, changes its configuration first.
func (w *World) Pod(name string, change func(*cri.PodSandboxConfig)) string {
	w.T.Helper()
	c := w.PodConfig(name)
	if change != nil {
		change(c)
	}
	r, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: c})
	if err != nil {
		w.T.Fatalf("RunPodSandbox %s: %v\n%s", name, err, w.log)
	}
	w.pods[r.GetPodSandboxId()] = true
	return r.GetPodSandboxId()
}

// Create makes a container, which is not started.
func (w *World) Create(pod, name, script string, change func(*cri.ContainerConfig)) string {
	w.T.Helper()
	c := w.CtrConfig(name, script)
	if change != nil {
		change(c)
	}
	r, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("x")})
	if err != nil {
		w.T.Fatalf("CreateContainer %s: %v\n%s", name, err, w.log)
	}
	return r.GetContainerId()
}

// Ctr makes and starts a container.
func (w *World) Ctr(pod, name, script string, change func(*cri.ContainerConfig)) string {
	w.T.Helper()
	id := w.Create(pod, name, script, change)
	if _, err := w.StartContainer(w.Ctx(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		w.T.Fatalf("StartContainer %s: %v\n%s", name, err, w.log)
	}
	return id
}

// Status is a container's status.
func (w *World) Status(id string) *cri.ContainerStatus {
	w.T.Helper()
	r, err := w.ContainerStatus(w.Ctx(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetStatus()
}

// WaitExit waits until a container has ended.
func (w *World) WaitExit(id string) *cri.ContainerStatus {
	w.T.Helper()
	var st *cri.ContainerStatus
	w.Eventually("the container ends", func() bool {
		st = w.Status(id)
		return st.GetState() == cri.ContainerState_CONTAINER_EXITED
	})
	return st
}

// Output runs a container to its end and returns what it wrote, without times.
func (w *World) Output(pod, name, script string, change func(*cri.ContainerConfig)) (string, *cri.ContainerStatus) {
	w.T.Helper()
	id := w.Ctr(pod, name, script, change)
	st := w.WaitExit(id)
	return w.LogText(st.GetLogPath()), st
}

// LogText reads a CRI log: the texts of its lines.
func (w *World) LogText(path string) string {
	w.T.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		w.T.Fatal(err)
	}
	var b strings.Builder
	for _, line := range strings.SplitAfter(string(data), "\n") {
		if p := strings.SplitN(line, " ", 4); len(p) == 4 {
			b.WriteString(strings.TrimSuffix(p[3], "\n"))
			if p[2] == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

// Exec runs a shell script in a container.
func (w *World) Exec(id, script string) (string, int32) {
	w.T.Helper()
	r, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}})
	if err != nil {
		w.T.Fatalf("ExecSync: %v\n%s", err, w.log)
	}
	return string(bytes.TrimSpace(append(r.GetStdout(), r.GetStderr()...))), r.GetExitCode()
}

// Eventually waits for something that must come true soon.
func (w *World) Eventually(what string, f func() bool) {
	w.T.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.T.Fatalf("%s: it does not come true\n%s", what, w.log)
		}
	}
}

// IP is a pod's first address.
func (w *World) IP(pod string) string {
	w.T.Helper()
	r, err := w.PodSandboxStatus(w.Ctx(), &cri.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		w.T.Fatal(err)
	}
	return r.GetStatus().GetNetwork().GetIp()
}
