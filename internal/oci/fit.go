package oci

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
)

// FitToHost cuts a specification down to what this host can give, where a
// runtime would otherwise refuse to start the container: capabilities outside
// our bounding set, an oom_score_adj below our own without CAP_SYS_RESOURCE, and
// huge page limits without a controller that could hold them. It changes the
// spec in place and returns a sentence for each thing it took away.
//
// A container in a user namespace of its own has all capabilities there, so
// those are left alone.
func FitToHost(s *specs.Spec) (notes []string) {
	host := readHost()
	if s.Process != nil {
		if !hasUserNamespace(s) {
			notes = append(notes, host.fitCapabilities(s.Process.Capabilities)...)
		}
		notes = append(notes, host.fitOOMScore(s.Process)...)
	}
	if s.Linux != nil && s.Linux.Resources != nil {
		notes = append(notes, host.fitHugePages(s.Linux.Resources)...)
	}
	return notes
}

// FitProcess is FitToHost for the process of an exec.
func FitProcess(p *specs.Process) []string {
	host := readHost()
	return append(host.fitCapabilities(p.Capabilities), host.fitOOMScore(p)...)
}

// hostFacts is what the kernel says about this process; zero values mean that it
// did not say, and then nothing is cut.
type hostFacts struct {
	known    bool
	bounding uint64
	oomScore int
	hugetlb  []string // page sizes that can be limited
}

func readHost() hostFacts {
	var h hostFacts
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h
	}
	_, rest, ok := strings.Cut(string(status), "\nCapBnd:")
	line, _, _ := strings.Cut(rest, "\n")
	h.bounding, err = strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	h.known = ok && err == nil
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err == nil {
		h.oomScore, err = strconv.Atoi(strings.TrimSpace(string(score)))
	}
	h.known = h.known && err == nil
	h.hugetlb = cgroup.Available().HugePageSizes
	return h
}

func (h hostFacts) fitCapabilities(c *specs.LinuxCapabilities) []string {
	if c == nil || !h.known {
		return nil
	}
	var gone []string
	cut := func(list []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(name string) bool {
			bit := slices.Index(capabilityNames[:], name)
			out := bit >= 0 && h.bounding&(1<<bit) == 0
			if out && !slices.Contains(gone, name) {
				gone = append(gone, name)
			}
			return out
		})
	}
	c.Bounding, c.Effective, c.Permitted = cut(c.Bounding), cut(c.Effective), cut(c.Permitted)
	c.Inheritable, c.Ambient = cut(c.Inheritable), cut(c.Ambient)
	if gone == nil {
		return nil
	}
	return []string{"capabilities outside the bounding set of this process are left out: " + strings.Join(gone, ", ")}
}

func (h hostFacts) fitOOMScore(p *specs.Process) []string {
	if p.OOMScoreAdj == nil || !h.known || *p.OOMScoreAdj >= h.oomScore || h.bounding&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return nil
	}
	note := fmt.Sprintf("oom_score_adj %d needs CAP_SYS_RESOURCE; %d is used", *p.OOMScoreAdj, h.oomScore)
	score := h.oomScore
	p.OOMScoreAdj = &score
	return []string{note}
}

func (h hostFacts) fitHugePages(r *specs.LinuxResources) (notes []string) {
	r.HugepageLimits = slices.DeleteFunc(slices.Clone(r.HugepageLimits), func(l specs.LinuxHugepageLimit) bool {
		if slices.Contains(h.hugetlb, l.Pagesize) {
			return false
		}
		// A kubelet sends a limit of 0 for each size to each container; that is
		// not worth a line.
		if l.Limit != 0 {
			notes = append(notes, fmt.Sprintf("huge pages of %s cannot be limited here: no hugetlb controller", l.Pagesize))
		}
		return true
	})
	return notes
}

func hasUserNamespace(s *specs.Spec) bool {
	return s.Linux != nil && slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.UserNamespace
	})
}

// capabilityNames has the kernel's names in the order of their numbers
// (linux/capability.h); capabilities(7).
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
	"CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
	"CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
	"CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
	"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
