package namespace

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/monocrio/monocrio/internal/errs"
)

// sysctlKind returns the namespace in which a sysctl lives; empty for one that is
// the whole machine's or that we do not let anybody set.
func sysctlKind(name string) Kind {
	switch {
	case name == "kernel.sem", strings.HasPrefix(name, "kernel.shm"), strings.HasPrefix(name, "kernel.msg"),
		strings.HasPrefix(name, "fs.mqueue."):
		return IPC
	case strings.HasPrefix(name, "net."):
		return Net
	}
	return ""
}

// CheckSysctls tells whether sysctls may be set for a pod that owns namespaces of
// these kinds. Names must be written with dots; a dot inside a part, as in the
// name of a VLAN interface, is written as a slash (sysctl(8)). The error has kind
// Invalid and names the sysctl and the reason.
func CheckSysctls(m map[string]string, owned []Kind) error {
	for _, name := range sortedKeys(m) {
		value := m[name]
		k := sysctlKind(name)
		switch {
		case !plainSysctl(name):
			return errs.Invalid("cannot set sysctl %q: the name must be words of letters, digits, - and _, joined by dots", name)
		case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return errs.Invalid("cannot set sysctl %q: the value has control characters", name)
		case name == "kernel.hostname" || name == "kernel.domainname":
			return errs.Invalid("cannot set sysctl %q: it is reserved; set the pod's hostname instead", name)
		case k == "":
			return errs.Invalid("cannot set sysctl %q: it belongs to no namespace, so it would change the whole node", name)
		case !slices.Contains(owned, k):
			return errs.Invalid("cannot set sysctl %q: the pod shares the host's %s namespace", name, k)
		}
	}
	return nil
}

const wordChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// plainSysctl refuses whatever could leave /proc/sys or mean another sysctl.
func plainSysctl(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		for word := range strings.SplitSeq(part, "/") { // eth0/100 is interface eth0.100
			if word == "" || strings.Trim(word, wordChars) != "" {
				return false
			}
		}
	}
	return true
}

// sysctlPath is the file of a sysctl: dots are slashes, and slashes dots.
func sysctlPath(name string) string {
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// writeSysctls sets sysctls in the namespaces of the calling thread.
func writeSysctls(m map[string]string) error {
	for _, name := range sortedKeys(m) {
		f, err := os.OpenFile(sysctlPath(name), os.O_WRONLY, 0)
		if os.IsNotExist(err) {
			return errs.Invalid("cannot set sysctl %q: this kernel does not have it", name)
		}
		if err == nil {
			_, err = f.WriteString(m[name])
			f.Close()
		}
		if errors.Is(err, syscall.EINVAL) {
			return errs.Invalid("cannot set sysctl %q to %q: the kernel refuses the value", name, m[name])
		}
		if err != nil {
			return fmt.Errorf("cannot set sysctl %q to %q: %w", name, m[name], err)
		}
	}
	return nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
