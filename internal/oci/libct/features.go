package libct

import (
	"context"
	"slices"

	"github.com/opencontainers/runc/libcontainer/apparmor"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/opencontainers/selinux/go-selinux"

	"github.com/monocrio/monocrio/internal/version"
)

// Features tells what this runtime can do, as runtime-spec's features.md has it.
func (r *Runtime) Features(context.Context) (*features.Features, error) {
	yes, seccompOn := true, seccompEnabled()
	apparmorOn, selinuxOn := apparmor.IsEnabled(), selinux.GetEnabled()
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         configs.KnownHookNames(),
		MountOptions:  specconv.KnownMountOptions(),
		Linux: &features.Linux{
			Namespaces:   specconv.KnownNamespaces(),
			Capabilities: capabilities.KnownCapabilities(),
			Cgroup: &features.Cgroup{
				V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &yes, Rdma: &yes,
			},
			Seccomp:         &features.Seccomp{Enabled: &seccompOn},
			Apparmor:        &features.Apparmor{Enabled: &apparmorOn},
			Selinux:         &features.Selinux{Enabled: &selinuxOn},
			IntelRdt:        &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: specconv.KnownMemoryPolicyModes(), Flags: specconv.KnownMemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property.", "org.criu.config"},
		Annotations: map[string]string{
			"io.monocrio.version": version.Version,
		},
	}
	if seccompOn {
		s := f.Linux.Seccomp
		s.Actions, s.Operators, s.Archs = seccomp.KnownActions(), seccomp.KnownOperators(), seccomp.KnownArchs()
		s.KnownFlags, s.SupportedFlags = seccomp.KnownFlags(), seccomp.SupportedFlags()
		slices.Sort(s.Archs)
	}
	return f, nil
}

// seccompEnabled: a build without libseccomp answers version 0.
func seccompEnabled() bool {
	major, minor, patch := seccomp.Version()
	return major+minor+patch > 0
}
