package state

import (
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxFileName is the longest name of a file, in bytes, with room for what log
// rotation adds.
const maxFileName = 255 - len(".20060102-150405.gz")

// CheckContainer refuses a container that cannot be meant in this pod, whose id is
// named in errors.
func (r *PodRequest) CheckContainer(id string, config *cri.ContainerConfig) error {
	name := config.GetMetadata().GetName()
	if name == "" {
		return errs.Invalid("cannot create the container: metadata.name is empty")
	}
	if config.GetImage().GetImage() == "" {
		return errs.Invalid("cannot create container %s: image.image is empty", name)
	}
	if l := config.GetLogPath(); l != "" && (!filepath.IsLocal(l) || strings.ContainsRune(l, 0) || len(filepath.Base(l)) > maxFileName) {
		return errs.Invalid("cannot create container %s: log_path %q is no file below the pod's log directory", name, l)
	}
	if s := config.GetStopSignal(); s != cri.Signal_SIGNAL_RUNTIME_DEFAULT && ParseSignal(s) == 0 {
		return errs.Invalid("cannot create container %s: stop_signal %s: Linux has no such signal", name, s)
	}
	o := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o == nil {
		return nil
	}
	if net := o.GetNetwork(); (net == cri.NamespaceMode_NODE) != r.HostNetwork() {
		return errs.Invalid("cannot create container %s: its network namespace %s contradicts that of pod %s", name, net, id)
	}
	if o.GetPid() == cri.NamespaceMode_POD && !r.SharedPID() {
		return errs.Invalid("cannot create container %s: it asks for the pod's PID namespace, but pod %s shares none", name, id)
	}
	return nil
}
