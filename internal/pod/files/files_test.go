package files

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/pod/state"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A labelled pod's containers can read its files, also those that are written again.
func TestFilesAreLabelled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: attributes of the kernel's security modules")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	r := &state.PodRequest{Config: state.PodConfig{PodSandboxConfig: &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p"},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE}}}}}}
	r.Acts.SELinux.Mount = label
	if err := Make(dir, r); err != nil {
		t.Fatal(err)
	}
	if err := WriteHosts(dir, r, []string{"10.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Resolv, Hosts, Hostname} {
		if got, err := (lsm.SELinux{}).FileLabel(filepath.Join(dir, name)); err != nil || got != label {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	r.Acts.SELinux.Mount = ""
	if err := Make(dir, r); err != nil {
		t.Fatal(err)
	}
	if got, err := (lsm.SELinux{}).FileLabel(filepath.Join(dir, Resolv)); err == nil && got != "" {
		t.Errorf("a pod without labels has %q on its files", got)
	}
}
