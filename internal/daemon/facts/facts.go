// Package facts finds out what specifications depend on: what the node, its kernel and
// files, and an image's files say, in the words of package spec.
package facts

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/moby/sys/capability"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/device"
	"github.com/monocrio/monocrio/internal/linux/lsm"
	"github.com/monocrio/monocrio/internal/spec"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxAccounts bounds /etc/passwd and /etc/group: they are the image's.
const maxAccounts = 10 << 20

// AppArmor loads the default profile where the kernel has AppArmor, and tells
// whether profiles can be used. A profile that the operator names must be there.
func AppArmor(name string, log *slog.Logger) (bool, error) {
	if !lsm.AppArmorEnabled() {
		return false, nil
	}
	err := lsm.LoadAppArmorDefault(context.Background(), name)
	if err != nil && name != lsm.AppArmorDefault {
		return false, errs.Errorf(errs.KindOf(err), "[crio.runtime] apparmor_profile: %w", err)
	}
	if err != nil {
		log.Warn("containers run without AppArmor", "err", err)
	}
	return err == nil, nil
}

// CheckAppArmor refuses a profile that the kernel does not have.
func CheckAppArmor(name string) error {
	if name == "" || name == "unconfined" {
		return nil
	}
	there, err := lsm.AppArmorLoaded(name)
	if err == nil && !there {
		err = errs.Precondition("AppArmor profile %q is not loaded on this node", name)
	}
	return err
}

// HasMountSetattr tells whether mounts can be made read-only with all below them
// (mount_setattr(2), Linux 5.12).
func HasMountSetattr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
}

// Capabilities are the names of those that the kernel knows.
func Capabilities() (names []string) {
	list, err := capability.ListSupported()
	if err != nil {
		list = capability.ListKnown()
	}
	for _, c := range list {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// Rlimits reads NAME=SOFT:HARD; one number is both, "unlimited" or -1 is none.
func Rlimits(list []string) (out []specs.POSIXRlimit, err error) {
	for _, e := range list {
		name, text, ok := strings.Cut(e, "=")
		soft, hard, two := strings.Cut(text, ":")
		if !two {
			hard = soft
		}
		s, err1 := limit(soft)
		h, err2 := limit(hard)
		if !ok || err1 != nil || err2 != nil || s > h {
			return nil, errs.Invalid("[crio.runtime] default_ulimits: %q: write NAME=SOFT:HARD, for example nofile=1024:4096", e)
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: s, Hard: h})
	}
	return out, nil
}

func limit(s string) (uint64, error) {
	if s == "unlimited" || s == "-1" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// ParseDevice reads HOST[:CONTAINER[:PERMISSIONS]].
func ParseDevice(where, s string) ([]spec.Device, error) {
	part := strings.Split(s, ":")
	if len(part) > 3 || !filepath.IsAbs(part[0]) {
		return nil, errs.Invalid("%s: %q: write HOST:CONTAINER:PERMISSIONS", where, s)
	}
	d := &cri.Device{HostPath: part[0], ContainerPath: part[0], Permissions: "rwm"}
	if len(part) > 1 {
		d.ContainerPath = part[1]
	}
	if len(part) > 2 {
		d.Permissions = part[2]
	}
	return FindDevice(d)
}

// FindDevice finds a device of a request, or all in a folder.
func FindDevice(d *cri.Device) ([]spec.Device, error) {
	found, err := device.Find(d.GetHostPath())
	if err != nil {
		return nil, err
	}
	var list []spec.Device
	for _, f := range found {
		to := d.GetContainerPath()
		if to == "" {
			to = d.GetHostPath()
		}
		to = filepath.Join(to, strings.TrimPrefix(f.Path, d.GetHostPath()))
		list = append(list, Device(f, to, d.GetPermissions()))
	}
	return list, nil
}

// Device is a device of the node as a container is to see it.
func Device(f device.Device, to, access string) spec.Device {
	if access == "" {
		access = "rwm"
	}
	return spec.Device{Path: to, Type: f.Type, Major: f.Major, Minor: f.Minor, Mode: f.Mode, UID: f.UID, GID: f.GID, Access: access}
}

// ReadInRoot reads a file of a root file system without leaving it; absence is an
// empty file.
func ReadInRoot(root, name string) ([]byte, error) {
	p, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return nil, err
	}
	fi, err := os.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if fi.Size() > maxAccounts {
		return nil, errs.Invalid("the image's %s has %d bytes; %d are the most", name, fi.Size(), maxAccounts)
	}
	return os.ReadFile(p)
}

// ImageMount finds what of a mounted image is wanted, without leaving the image.
func ImageMount(r *cri.Mount, volume string) (spec.Mount, error) {
	fail := func(format string, args ...any) (spec.Mount, error) {
		return spec.Mount{}, errs.Invalid("%.0wmount at %q of image %s: "+format, append([]any{errs.ImageVolumeMountFailed, r.GetContainerPath(), r.GetImage().GetImage()}, args...)...)
	}
	switch sub := r.GetImageSubPath(); {
	case r.GetHostPath() != "":
		return fail("host_path %q and image exclude each other", r.GetHostPath())
	case !r.GetReadonly():
		return fail("images are mounted read-only; set readonly")
	case r.GetPropagation() != cri.MountPropagation_PROPAGATION_PRIVATE:
		return fail("images are mounted with private propagation")
	case filepath.IsAbs(sub) || sub != "" && !filepath.IsLocal(sub):
		return fail("image_sub_path %q leaves the image", sub)
	}
	src, err := securejoin.SecureJoin(volume, r.GetImageSubPath())
	if err == nil {
		_, err = os.Lstat(src)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fail("image_sub_path %q is not in the image", r.GetImageSubPath())
	}
	return spec.Mount{Mount: r, Source: src}, err
}

// Localtime is the file of the node's time zone option; "" for none.
func Localtime(zone string) (string, error) {
	path := "/etc/localtime"
	switch {
	case zone == "":
		return "", nil
	case zone != "Local":
		if !filepath.IsLocal(zone) {
			return "", errs.Invalid("[crio.runtime] timezone = %q: write Local, or a name such as Europe/Berlin", zone)
		}
		path = filepath.Join("/usr/share/zoneinfo", zone)
	}
	real, err := filepath.EvalSymlinks(path)
	if zone == "Local" && errors.Is(err, fs.ErrNotExist) {
		return "", nil // the node has none: UTC, like containers
	}
	if err == nil {
		var fi os.FileInfo
		if fi, err = os.Stat(real); err == nil && !fi.Mode().IsRegular() {
			err = errs.Invalid("it is no file")
		}
	}
	if err != nil {
		return "", errs.Invalid("[crio.runtime] timezone = %q: %w; write Local, or the name of a zone that is below /usr/share/zoneinfo", zone, err)
	}
	return real, nil
}

// ReadProfile reads the seccomp profile that an option names. A file that is not there is
// told in the log, and none.
func ReadProfile(key, path string, log *slog.Logger) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		log.Warn("the file of a seccomp profile is not there; what holds without it is used", "option", key, "path", path)
		return nil, nil
	} else if err != nil {
		return nil, errs.Invalid("[crio.runtime] %s: %w", key, err)
	}
	return data, nil
}

// Links makes the names under which the executable runs as another applet: a
// monitor and a runtime must be called by a name that is theirs.
func Links(dir string, names ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, n := range names {
		path := filepath.Join(dir, n)
		if old, err := os.Readlink(path); err == nil && old == self {
			continue
		}
		tmp := path + ".new"
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		if err := os.Symlink(self, tmp); err != nil {
			return err
		}
		if err := os.Rename(tmp, path); err != nil {
			return err
		}
	}
	return nil
}

// SysctlMap reads NAME=VALUE pairs, which were checked before.
func SysctlMap(list []string) map[string]string {
	m := map[string]string{}
	for _, e := range list {
		k, v, _ := strings.Cut(e, "=")
		m[k] = v
	}
	return m
}

// CheckCPUs refuses a list with processors that this node cannot have. What systemd says
// of them would not tell whose fault it is.
func CheckCPUs(list string) error {
	data, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if list == "" || err != nil {
		return nil // whoever sets them will say what is wrong
	}
	last := func(s string) int {
		n, most := 0, 0
		for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
			if n, err = strconv.Atoi(f); err != nil {
				n = math.MaxInt
			}
			most = max(most, n)
		}
		return most
	}
	if possible := strings.TrimSpace(string(data)); last(list) > last(possible) {
		return errs.Invalid("cpuset_cpus %q: this node has the processors %s", list, possible)
	}
	return nil
}
