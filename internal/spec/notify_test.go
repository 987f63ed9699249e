package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/annotation"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func notified(t *testing.T, value, profile string) (*specs.LinuxSeccomp, Refusals) {
	t.Helper()
	in := input()
	in.Node.SeccompListener = "/run/x.sock"
	in.Allowed, in.Pod.Annotations = annotation.Allowed{annotation.SeccompNotify}, map[string]string{annotation.SeccompNotify: value}
	sc := security(&in)
	sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	if profile != "" {
		in.Localhost = []byte(profile)
		sc.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/p"}
	}
	res, err := Build(in)
	if err != nil {
		t.Fatal(err)
	}
	var r Refusals
	if err := json.Unmarshal([]byte(res.Spec.Linux.Seccomp.ListenerMetadata), &r); err != nil {
		t.Fatal(err)
	}
	return res.Spec.Linux.Seccomp, r
}

func asked(p *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
		return s.Action == specs.ActNotify && slices.Contains(s.Names, name)
	})
}

// What the default profile refuses is asked about, but for what the runtime needs, what
// is allowed for some arguments, and what is newer than the profile.
func TestNotifierOfDefaultProfile(t *testing.T) {
	p, r := notified(t, "stop", "")
	for name, want := range map[string]bool{"swapoff": true, "mount": true, "clone3": true, "write": false, "read": false, "personality": false} {
		if asked(p, name) != want {
			t.Errorf("%s is asked about: %v", name, !want)
		}
	}
	if p.ListenerPath != "/run/x.sock" || !r.Stop || r.Errno != 1 || r.Errnos["clone3"] != 38 || len(r.Kills) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestNotifierOfOwnProfile(t *testing.T) {
	p, r := notified(t, "", `{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[
		{"names":["execve","write"],"action":"SCMP_ACT_ALLOW"},
		{"names":["bpf"],"action":"SCMP_ACT_TRAP"},
		{"names":["swapon","write"],"action":"SCMP_ACT_ERRNO","errnoRet":95,"args":[{"index":0,"value":5,"op":"SCMP_CMP_EQ"}]},
		{"names":["epoll_pwait2"],"action":"SCMP_ACT_KILL_THREAD"}]}`)
	for name, want := range map[string]bool{"swapon": true, "swapoff": true, "epoll_pwait2": true, "execve": false, "bpf": false, "write": false} {
		if asked(p, name) != want {
			t.Errorf("%s is asked about: %v", name, !want)
		}
	}
	if !slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
		return slices.Equal(s.Names, []string{"write"}) && s.Action == specs.ActErrno && len(s.Args) == 1
	}) {
		t.Errorf("the rule for write is lost: %+v", p.Syscalls)
	}
	if !slices.Equal(r.Kills, []string{"epoll_pwait2", AllCalls}) || r.Errnos["swapon"] != 95 || r.Stop {
		t.Errorf("%+v", r)
	}
}

func TestNotifierRefusals(t *testing.T) {
	for name, c := range map[string]struct{ value, listener, profile, says string }{
		"unknown word":      {"Stop", "/s", `{"defaultAction":"SCMP_ACT_ALLOW"}`, "stop"},
		"nobody listens":    {"stop", "", `{"defaultAction":"SCMP_ACT_ALLOW"}`, "run_dir"},
		"a listener of own": {"stop", "/s", `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/own"}`, "/own"},
	} {
		in := input()
		in.Node.SeccompListener, in.Localhost = c.listener, []byte(c.profile)
		in.Allowed, in.Pod.Annotations = annotation.Allowed{annotation.SeccompNotify}, map[string]string{annotation.SeccompNotify: c.value}
		security(&in).Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/p"}
		if _, err := Build(in); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
