package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/monocrio/monocrio/internal/annotation"
	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const all = "ALL"

// capabilities: the node's default ones, minus what is dropped, plus what is added;
// "ALL" stands for every one. A user other than root gets them only as a bound
// (no file or process capabilities), unless they are asked for as ambient.
func (b *builder) capabilities() error {
	c, node := b.sc.GetCapabilities(), b.in.Node
	set := slices.Clone(node.Capabilities)
	add, drop, ambient := capNames(c.GetAddCapabilities()), capNames(c.GetDropCapabilities()), capNames(c.GetAddAmbientCapabilities())
	if b.sc.GetPrivileged() {
		set, add, drop = slices.Clone(node.AllCapabilities), nil, nil
	}
	for _, list := range [][]string{add, drop, ambient} {
		for _, name := range list {
			if name != "CAP_"+all && !slices.Contains(node.AllCapabilities, name) {
				return errs.Invalid("capability %q: this kernel knows none of that name", strings.TrimPrefix(name, "CAP_"))
			}
		}
	}
	if slices.Contains(add, "CAP_"+all) {
		set = slices.Clone(node.AllCapabilities)
	}
	if slices.Contains(drop, "CAP_"+all) {
		set = nil
	}
	for _, name := range append(add, ambient...) {
		if name != "CAP_"+all && !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	set = slices.DeleteFunc(set, func(n string) bool { return slices.Contains(drop, n) })
	slices.Sort(set)
	caps := &specs.LinuxCapabilities{Bounding: set}
	if node.InheritableCapabilities {
		caps.Inheritable = set
	}
	if b.spec.Process.User.UID == 0 {
		caps.Effective, caps.Permitted = set, set
	}
	if len(ambient) > 0 {
		amb := slices.DeleteFunc(ambient, func(n string) bool { return !slices.Contains(set, n) })
		slices.Sort(amb)
		caps.Ambient = amb
		if !node.InheritableCapabilities {
			caps.Inheritable = amb
		}
		if b.spec.Process.User.UID != 0 {
			caps.Effective, caps.Permitted = amb, amb
		}
	}
	b.spec.Process.Capabilities = caps
	return nil
}

// capNames writes names as the kernel's headers do.
func capNames(names []string) (out []string) {
	for _, n := range upper(names) {
		out = append(out, "CAP_"+strings.TrimPrefix(n, "CAP_"))
	}
	return out
}

// security sets masked and read-only paths, AppArmor and SELinux.
func (b *builder) security() error {
	for _, l := range []struct {
		key   string
		paths []string
	}{{"masked_paths", b.sc.GetMaskedPaths()}, {"readonly_paths", b.sc.GetReadonlyPaths()}} {
		for _, p := range l.paths {
			if !path.IsAbs(p) {
				return errs.Invalid("%s: %q is not an absolute path", l.key, p)
			}
		}
	}
	if !b.sc.GetPrivileged() {
		b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = b.sc.GetMaskedPaths(), b.sc.GetReadonlyPaths()
	}
	b.spec.Process.SelinuxLabel, b.spec.Linux.MountLabel = b.in.ProcessLabel, b.in.MountLabel
	return b.apparmor()
}

func (b *builder) apparmor() error {
	p, err := profile(b.sc.GetApparmor(), b.sc.GetApparmorProfile()) //nolint:staticcheck // old clients still send it
	if err != nil {
		return fmt.Errorf("apparmor: %w", err)
	}
	if b.sc.GetPrivileged() {
		return nil
	}
	switch p.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault:
		if b.in.Node.AppArmor {
			b.spec.Process.ApparmorProfile = b.in.Node.AppArmorDefault
		}
	case cri.SecurityProfile_Localhost:
		if !b.in.Node.AppArmor {
			return errs.Precondition("apparmor profile %q: AppArmor is not enabled on this node", p.GetLocalhostRef())
		}
		b.spec.Process.ApparmorProfile = p.GetLocalhostRef()
	case cri.SecurityProfile_Unconfined:
		if b.in.Node.AppArmor {
			b.spec.Process.ApparmorProfile = "unconfined"
		}
	}
	return nil
}

// profile reads the profile field, or the deprecated string that old clients send.
func profile(p *cri.SecurityProfile, old string) (*cri.SecurityProfile, error) {
	if p != nil {
		if p.GetProfileType() == cri.SecurityProfile_Localhost && p.GetLocalhostRef() == "" {
			return nil, errs.Invalid("the profile type is Localhost, but localhost_ref is empty")
		}
		return p, nil
	}
	ref, local := strings.CutPrefix(old, "localhost/")
	switch {
	case local && ref != "":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: ref}, nil
	case old == "unconfined":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, nil
	case old == "" || old == "runtime/default":
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, nil
	}
	return nil, errs.Invalid("profile %q: runtime/default, unconfined and localhost/NAME are known", old)
}

// SeccompArtifact is the reference of the OCI artifact with the container's seccomp
// profile, "" if it has none. A profile of the request wins; the kubelet sends
// "unconfined" for users who say nothing, so that is none. The annotation may be meant
// for one container, for all of the pod (NAME/POD, or alone), or be the image's.
func (in *Input) SeccompArtifact() string {
	sc := in.Config.GetLinux().GetSecurityContext()
	p, err := profile(sc.GetSeccomp(), sc.GetSeccompProfilePath())      //nolint:staticcheck // old clients still send it
	asked := sc.GetSeccomp() != nil || sc.GetSeccompProfilePath() != "" //nolint:staticcheck // as above
	if sc.GetPrivileged() || err != nil || asked && p.GetProfileType() != cri.SecurityProfile_Unconfined {
		return ""
	}
	for _, scope := range []string{in.Config.GetMetadata().GetName(), "POD"} {
		if ref, ok := in.Acting().Get(annotation.SeccompProfile, scope); ok {
			return ref
		}
	}
	ref, _ := in.Allowed.Acting(in.ImageAnnotations).Get(annotation.SeccompProfile, "")
	return ref
}

// seccomp loads the profile: the built-in default is that of Docker, which
// Kubernetes' documentation describes. It depends on the capabilities, so it comes
// last.
func (b *builder) seccomp() error {
	p := b.sc.GetSeccomp()
	if ref := b.in.SeccompArtifact(); ref != "" {
		var err error
		if b.spec.Linux.Seccomp, err = seccomp.LoadProfile(string(b.in.Artifact), b.spec); err != nil {
			return errs.Invalid("annotation %s: the seccomp profile of artifact %s: %w", annotation.SeccompProfile, ref, err)
		}
		return nil
	}
	if b.sc.GetPrivileged() {
		if b.in.Node.PrivilegedSeccomp == nil {
			return nil
		}
		var err error
		if b.spec.Linux.Seccomp, err = seccomp.LoadProfile(string(b.in.Node.PrivilegedSeccomp), b.spec); err != nil {
			return errs.Precondition("the seccomp profile of this node for privileged containers: %w", err)
		}
		return nil
	}
	if p == nil && b.sc.GetSeccompProfilePath() == "" { //nolint:staticcheck // old clients still send it
		return nil // as the CRI says: absent is unconfined
	}
	p, err := profile(p, b.sc.GetSeccompProfilePath()) //nolint:staticcheck // as above
	if err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	switch p.GetProfileType() {
	case cri.SecurityProfile_Unconfined:
		return nil
	case cri.SecurityProfile_Localhost:
		b.spec.Linux.Seccomp, err = seccomp.LoadProfile(string(b.in.Localhost), b.spec)
		if err != nil {
			return errs.Invalid("seccomp profile %s: %w", p.GetLocalhostRef(), err)
		}
		return nil
	}
	if b.in.Node.Seccomp != nil {
		b.spec.Linux.Seccomp, err = seccomp.LoadProfile(string(b.in.Node.Seccomp), b.spec)
	} else {
		b.spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(b.spec)
	}
	if err != nil {
		return errs.Precondition("the default seccomp profile of this node: %w", err)
	}
	return nil
}
