// Package files makes what a pod needs on the disk: its resolver configuration, hosts,
// host name, shared memory, and the folder of its logs.
package files

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/linux/mount"
	"github.com/monocrio/monocrio/internal/pod/state"
	"github.com/monocrio/monocrio/internal/spec"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Names of a pod's files below its RUN folder; the pinned namespaces are beside
// them under their kinds.
const (
	Shm      = "shm"
	Resolv   = "resolv.conf"
	Hosts    = "hosts"
	Hostname = "hostname"
)

// shmSize is the size of a pod's /dev/shm in bytes: Docker's choice, which programs
// have come to expect.
const shmSize = 64 << 20

// Make makes a pod's files in dir, and the folder of its logs.
func Make(dir string, r *state.PodRequest) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if d := r.Config.GetLogDirectory(); d != "" {
		if err := LogDir(d); err != nil {
			return err
		}
	}
	resolv, err := ResolvConf(r.Config.GetDnsConfig())
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{{Resolv, resolv}, {Hosts, hosts(r, nil)}, {Hostname, r.Hostname() + "\n"}} {
		if err := write(filepath.Join(dir, f.name), f.text, r); err != nil {
			return err
		}
	}
	if r.HostIPC() {
		return nil
	}
	uid, gid := r.RootIDs()
	return mount.Shm(filepath.Join(dir, Shm), r.Acts.SELinux.Mount, cmp.Or(r.Acts.ShmSize, shmSize), uid, gid)
}

// write makes or replaces a file that the pod's containers read.
func write(path, text string, r *state.PodRequest) error {
	if err := fsx.WriteFile(path, []byte(text), 0o644, fsx.Process); err != nil {
		return err
	}
	return lsm.LabelFile(path, r.Acts.SELinux.Mount)
}

// Remove deletes dir with all that is in it; absence is success.
func Remove(dir string, r *state.PodRequest) error {
	if !r.HostIPC() {
		if err := mount.Unmount(filepath.Join(dir, Shm)); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// logsName is where a volume shows the pod's logs.
const logsName = "logs"

// ShowLogs lets a volume of the pod show its logs, where an annotation asked for it.
func ShowLogs(r *state.PodRequest) error {
	if r.Acts.LogsIn == "" {
		return nil
	}
	return mount.ShowBelow(r.Acts.LogsIn, logsName, r.Config.GetLogDirectory())
}

// HideLogs undoes ShowLogs: the kubelet deletes its volumes when the pod has stopped.
func HideLogs(r *state.PodRequest) error {
	if r.Acts.LogsIn == "" {
		return nil
	}
	return mount.Unmount(filepath.Join(r.Acts.LogsIn, logsName))
}

// LogPath is where a container's log goes: below dir, else below the folder of its pod
// in other.
func LogPath(r *state.PodRequest, other, rel string) (string, error) {
	dir := cmp.Or(r.Config.GetLogDirectory(), other)
	path := filepath.Join(dir, rel)
	return path, LogDir(filepath.Dir(path))
}

// WriteHosts names the pod's addresses, for containers that the kubelet gives no
// /etc/hosts.
func WriteHosts(dir string, r *state.PodRequest, ips []string) error {
	return write(filepath.Join(dir, Hosts), hosts(r, ips), r)
}

// LogDir makes a folder that a request names.
func LogDir(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cannot make the log folder %s: %w", dir, err)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.ELOOP) {
		return errs.With(errs.KindInvalid, err)
	}
	return err
}

func hosts(r *state.PodRequest, ips []string) string {
	if r.HostNetwork() {
		if data, err := os.ReadFile("/etc/hosts"); err == nil {
			return string(data)
		}
	}
	return spec.Hosts(r.Hostname(), ips)
}

// ResolvConf is the pod's DNS configuration; without one it is the host's.
func ResolvConf(dns *cri.DNSConfig) (string, error) {
	if text, err := spec.ResolvConf(dns); text != "" || err != nil {
		return text, err
	}
	data, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}

// InfraRootfs makes what the infra process's mounts need; in a user namespace the
// runtime could not make it.
func InfraRootfs(dir string) error {
	for _, d := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "pause"), nil, 0o755)
}
