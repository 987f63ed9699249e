// Package lsm asks the kernel's security modules and loads the default AppArmor
// profile. It knows no container.
package lsm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/monocrio/monocrio/internal/errs"
)

// Places of AppArmor in the kernel's file systems (apparmor(7)).
const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
)

// AppArmorEnabled tells whether the kernel enforces AppArmor.
func AppArmorEnabled() bool {
	data, err := os.ReadFile(enabledFile)
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// AppArmorLoaded tells whether a profile of that name is in the kernel.
func AppArmorLoaded(name string) (bool, error) {
	f, err := os.Open(profilesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, errs.Precondition("cannot see AppArmor's profiles: securityfs is not mounted at /sys/kernel/security")
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if n, _, ok := strings.Cut(lines.Text(), " ("); ok && n == name {
			return true, nil
		}
	}
	return false, nil
}

// Profiles with a meaning of their own: the one that LoadAppArmorDefault knows, and the
// kernel's word for none.
const (
	AppArmorDefault    = "crio-default"
	AppArmorUnconfined = "unconfined"
)

// LoadAppArmorDefault puts the default profile into the kernel, unless one of that name
// is there: an operator may have loaded his own. A profile of another name is an
// operator's, and KindPrecondition if he has not loaded it. Profiles are compiled by
// apparmor_parser, the one host tool that AppArmor cannot do without; KindUnimplemented
// says that it is absent.
func LoadAppArmorDefault(ctx context.Context, name string) error {
	if name == AppArmorUnconfined {
		return nil
	}
	if there, err := AppArmorLoaded(name); err != nil || there {
		return err
	}
	if name != AppArmorDefault {
		return errs.Precondition("AppArmor profile %q is not loaded on this node: load it with apparmor_parser, or use %s, which is loaded when needed", name, AppArmorDefault)
	}
	parser, err := findParser()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, parser, "-Kr")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(profile, "NAME", name))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot load AppArmor profile %s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return nil
}

func findParser() (string, error) {
	for _, dir := range []string{"/sbin", "/usr/sbin", "/bin", "/usr/bin"} {
		path := dir + "/apparmor_parser"
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", errs.Unimplemented("cannot load AppArmor profiles: apparmor_parser is not installed (Debian package apparmor)")
}

// profile lets a container do what its capabilities allow, but for what would reach
// the host: the kernel's own files are not written, mounts not made, and signals
// come from outside or from the same profile only.
const profile = `
profile NAME flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send,receive) peer=NAME,
  ptrace (trace,read,tracedby,readby) peer=NAME,

  deny /proc/* w,
  deny /proc/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  deny mount,

  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
`
