package spec

import (
	"os"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// devices lists device nodes and what the device cgroup lets through: nothing but
// the usual ones, which the runtime adds, the node's, and those of the request. A
// privileged container gets the node's all.
func (b *builder) devices() error {
	b.spec.Linux.Resources = &specs.LinuxResources{}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	list := append(append([]Device{}, b.in.Node.Devices...), b.in.Devices...)
	if b.sc.GetPrivileged() {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		if !b.in.Node.PrivilegedNoHostDevices {
			list = append(append([]Device{}, b.in.HostDevices...), list...)
		}
	}
	if b.in.Node.DeviceOwnership {
		list = b.owned(list)
	}
	at := map[string]int{}
	for _, d := range list {
		if d.Access == "" || strings.Trim(d.Access, "rwm") != "" {
			return errs.Invalid("device %s: permissions %q: a selection of r, w and m is needed", d.Path, d.Access)
		}
		mode := os.FileMode(d.Mode)
		node := specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
		if i, ok := at[d.Path]; ok {
			b.spec.Linux.Devices[i] = node
		} else {
			at[d.Path] = len(b.spec.Linux.Devices)
			b.spec.Linux.Devices = append(b.spec.Linux.Devices, node)
		}
		if !b.sc.GetPrivileged() {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Access})
		}
	}
	b.spec.Linux.Resources.Devices = rules
	return nil
}

// owned gives the devices to the user and group that the request names, so that a
// program which is not root can open them.
func (b *builder) owned(list []Device) []Device {
	for i := range list {
		if u := b.sc.GetRunAsUser(); u != nil {
			list[i].UID = uint32(u.GetValue())
		}
		if g := b.sc.GetRunAsGroup(); g != nil {
			list[i].GID = uint32(g.GetValue())
		}
	}
	return list
}
