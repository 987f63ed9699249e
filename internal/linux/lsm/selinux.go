package lsm

import (
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/opencontainers/selinux/go-selinux"
)

// SELinux asks and sets labels of the kernel's security module of that name.
type SELinux struct{}

// SELinuxEnabled tells whether the kernel has SELinux and a policy.
func SELinuxEnabled() bool { return selinux.GetEnabled() }

// Templates are the policy's labels for processes and files of containers
// (lxc_contexts); their levels mean nothing.
func (SELinux) Templates() (process, file string, err error) {
	process, file = selinux.ContainerLabels() //nolint:staticcheck // the policy's file has no other reader
	if process == "" || file == "" {
		return "", "", errs.Precondition("the SELinux policy names no labels for containers: install container-selinux")
	}
	selinux.ReleaseLabel(process) // the level that it has reserved
	return process, file, nil
}

// Check asks the policy whether there can be such a label.
func (SELinux) Check(label string) error { return selinux.SecurityCheckContext(label) }

// FileLabel returns the label of a file or folder.
func (SELinux) FileLabel(path string) (string, error) { return selinux.FileLabel(path) }

// Relabel labels a file, or a folder with all that is in it. Folders that the node
// itself lives in are refused.
func (SELinux) Relabel(path, label string) error { return selinux.Chcon(path, label, true) }

// LabelFile labels one file; an empty label changes nothing.
func LabelFile(path, label string) error {
	if label == "" {
		return nil
	}
	return selinux.SetFileLabel(path, label)
}
