package cri

import (
	"math"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkPod refuses a pod that cannot be meant.
func checkPod(config *cri.PodSandboxConfig) error {
	md := config.GetMetadata()
	for _, f := range []struct{ name, value string }{{"name", md.GetName()}, {"namespace", md.GetNamespace()}, {"uid", md.GetUid()}} {
		if f.value == "" {
			return errs.Invalid("cannot run the pod: metadata.%s is empty", f.name)
		}
		if strings.ContainsAny(f.value, ";=\x00") {
			return errs.Invalid("cannot run the pod: metadata.%s is %q; CNI plugins could not be told a name with ';', '=' or a null byte", f.name, f.value)
		}
	}
	if d := config.GetLogDirectory(); d != "" && (!filepath.IsAbs(d) || strings.ContainsRune(d, 0)) {
		return errs.Invalid("cannot run pod %s: log_directory %q is not an absolute path", md.GetName(), d)
	}
	if h := config.GetHostname(); len(h) > 64 || strings.ContainsAny(h, "/\x00\n ") {
		return errs.Invalid("cannot run pod %s: hostname %q: at most 64 characters, without blanks and slashes", md.GetName(), h)
	}
	return checkNamespaces(config)
}

func checkNamespaces(config *cri.PodSandboxConfig) error {
	o, name := config.GetLinux().GetSecurityContext().GetNamespaceOptions(), config.GetMetadata().GetName()
	for _, ns := range []struct {
		what string
		mode cri.NamespaceMode
	}{{"network", o.GetNetwork()}, {"ipc", o.GetIpc()}} {
		if ns.mode != cri.NamespaceMode_POD && ns.mode != cri.NamespaceMode_NODE {
			return errs.Invalid("cannot run pod %s: the %s namespace can be POD or NODE, not %s", name, ns.what, ns.mode)
		}
	}
	if o.GetPid() < cri.NamespaceMode_POD || o.GetPid() > cri.NamespaceMode_NODE {
		return errs.Invalid("cannot run pod %s: the PID namespace of a pod can be POD, CONTAINER or NODE, not %s", name, o.GetPid())
	}
	u := o.GetUsernsOptions()
	if u == nil || u.GetMode() == cri.NamespaceMode_NODE && len(u.GetUids())+len(u.GetGids()) == 0 {
		return nil
	}
	switch {
	case u.GetMode() == cri.NamespaceMode_NODE:
		return errs.Invalid("cannot run pod %s: user namespace mappings contradict the mode NODE", name)
	case u.GetMode() != cri.NamespaceMode_POD:
		return errs.Invalid("cannot run pod %s: the user namespace can be POD or NODE, not %s", name, u.GetMode())
	case len(u.GetUids()) != 1 || len(u.GetGids()) != 1:
		return errs.Invalid("cannot run pod %s: a user namespace needs exactly one uid and one gid mapping", name)
	}
	for _, m := range []*cri.IDMapping{u.GetUids()[0], u.GetGids()[0]} {
		if m.GetContainerId() != 0 || m.GetLength() == 0 {
			return errs.Invalid("cannot run pod %s: a user namespace mapping must begin at container id 0 and have a length", name)
		}
		if uint64(m.GetHostId())+uint64(m.GetLength()) > math.MaxUint32 {
			return errs.Invalid("cannot run pod %s: the user namespace mapping of %d ids from host id %d goes past the last id, %d", name, m.GetLength(), m.GetHostId(), math.MaxUint32-1)
		}
	}
	return nil
}
