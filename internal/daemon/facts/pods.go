package facts

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/idrange"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/secrets"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kubeletPods is where the kubelet keeps what belongs to pods.
const kubeletPods = "/var/lib/kubelet/pods"

// LogsIn is the folder of the volume in which a pod wants to see its logs.
func LogsIn(r *state.PodRequest, volume string) (string, error) {
	uid := r.Config.GetMetadata().GetUid()
	for _, part := range []string{uid, volume} {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00") {
			return "", errs.Invalid("annotation %s = %q of the pod with uid %q: the name of one of its emptyDir volumes is needed", annotation.LinkLogs, volume, uid)
		}
	}
	if r.Config.GetLogDirectory() == "" {
		return "", errs.Invalid("annotation %s: the pod has no log_directory", annotation.LinkLogs)
	}
	dir := filepath.Join(kubeletPods, uid, "volumes/kubernetes.io~empty-dir", volume)
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return "", errs.Precondition("annotation %s = %q: there is no folder %s", annotation.LinkLogs, volume, dir)
	}
	return dir, nil
}

// ToRanges and FromRanges turn the ids of user namespaces into another package's words.
func ToRanges(list []*cri.IDMapping) (out []idrange.Range) {
	for _, m := range list {
		out = append(out, idrange.Range{Container: m.GetContainerId(), Host: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// FromRanges is the inverse, for a pod's record.
func FromRanges(list []idrange.Range) (out []specs.LinuxIDMapping) {
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.Container, HostID: m.Host, Size: m.Size})
	}
	return out
}

// DefaultMounts reads mounts.conf.
func DefaultMounts(path string) ([]secrets.Entry, error) {
	if path != "" {
		list, err := secrets.Read(path)
		return list, err
	}
	return secrets.Read("/etc/containers/mounts.conf", "/usr/share/containers/mounts.conf")
}
