package cgroup

import (
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// Driver is who makes cgroups.
type Driver int

// The drivers, as the kubelet's --cgroup-driver names them.
const (
	Cgroupfs Driver = iota // by mkdir
	Systemd                // by units, over D-Bus
)

// String returns the kubelet's word.
func (d Driver) String() string {
	if d == Systemd {
		return "systemd"
	}
	return "cgroupfs"
}

// ParseDriver is the inverse of String.
func ParseDriver(s string) (Driver, error) {
	switch s {
	case "cgroupfs":
		return Cgroupfs, nil
	case "systemd":
		return Systemd, nil
	}
	return 0, errs.Invalid("cgroup driver %q is not known; use \"cgroupfs\" or \"systemd\"", s)
}

// ParentPath turns the cgroup parent of a request into a cgroup path: with
// cgroupfs "/a/b" stays, with systemd the slice "a-b.slice" becomes
// "/a.slice/a-b.slice". Empty is the driver's root for containers. A name that
// leaves the tree or contradicts the driver is KindInvalid.
func ParentPath(d Driver, parent string) (string, error) {
	if strings.ContainsAny(parent, "\x00\n:") {
		return "", errs.Invalid("cgroup parent %q has a character that cannot be in it", parent)
	}
	for part := range strings.SplitSeq(parent, "/") {
		if part == ".." || part == "." || len(part) > 255 {
			return "", errs.Invalid("cgroup parent %q must not contain %q", parent, part)
		}
	}
	slice := strings.HasSuffix(parent, ".slice")
	switch {
	case d == Cgroupfs && slice:
		return "", errs.Invalid("cgroup parent %q is a systemd slice, but the cgroup driver is cgroupfs: set the same driver in the kubelet and here", parent)
	case d == Cgroupfs:
		return filepath.Clean("/" + parent), nil
	case parent == "":
		return "/system.slice", nil
	case !slice:
		return "", errs.Invalid("cgroup parent %q does not end in .slice, but the cgroup driver is systemd: set the same driver in the kubelet and here", parent)
	}
	path, err := expandSlice(filepath.Base(parent))
	if err == nil && strings.Contains(strings.Trim(parent, "/"), "/") && filepath.Clean("/"+parent) != path {
		err = errs.Invalid("cgroup parent %q is not where systemd puts that slice, %s", parent, path)
	}
	return path, err
}

// expandSlice finds a slice's place: dashes are levels (systemd.slice(5)).
func expandSlice(name string) (string, error) {
	stem := strings.TrimSuffix(name, ".slice")
	if stem == "-" {
		return "/", nil
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(stem, "-") {
		if part == "" {
			return "", errs.Invalid("%q is not a slice name: no part between dashes may be empty", name)
		}
		path += "/" + prefix + part + ".slice"
		prefix += part + "-"
	}
	return path, nil
}

// ContainerPath returns the cgroupsPath of an OCI specification for a container:
// with cgroupfs "parent/prefix-id", with systemd "slice:prefix:id". parent is
// what ParentPath returned.
func ContainerPath(d Driver, parent, prefix, id string) string {
	if d == Systemd {
		slice := filepath.Base(parent)
		if slice == "/" {
			slice = "-.slice"
		}
		return slice + ":" + prefix + ":" + id
	}
	if prefix != "" {
		id = prefix + "-" + id
	}
	return filepath.Join(parent, id)
}

// Path turns an OCI cgroupsPath into a cgroup path, "slice:prefix:id" being the
// scope "prefix-id.scope" in its slice.
func Path(d Driver, cgroupsPath string) (string, error) {
	if d == Cgroupfs {
		return clean(cgroupsPath)
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 || parts[2] == "" || strings.Contains(parts[1]+parts[2], "/") {
		return "", errs.Invalid("cgroupsPath %q must be slice:prefix:name with the systemd driver", cgroupsPath)
	}
	parent, err := ParentPath(d, parts[0])
	if err != nil {
		return "", err
	}
	return clean(filepath.Join(parent, unitName(parts[1], parts[2])))
}

func unitName(prefix, name string) string {
	if strings.HasSuffix(name, ".slice") {
		return name
	}
	if prefix != "" {
		name = prefix + "-" + name
	}
	return name + ".scope"
}

// Below turns the whole path of a cgroup's folder, in any hierarchy, into its
// path below the root.
func Below(dir string) string {
	longest := ""
	for _, m := range host().dirs {
		if len(m) > len(longest) && (dir == m || strings.HasPrefix(dir, m+"/")) {
			longest = m
		}
	}
	if rest := strings.TrimPrefix(dir, longest); rest != "" {
		return rest
	}
	return "/"
}
