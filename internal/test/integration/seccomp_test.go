package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const allowNotifier = `[crio.runtime.runtimes.runc]
allowed_annotations = ["seccomp-notifier-action.crio.io"]
`

// filtered is a change that gives a container a seccomp profile: a file, or the
// default one.
func filtered(file string) func(*cri.ContainerConfig) {
	return func(c *cri.ContainerConfig) {
		p := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		if file != "" {
			p = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: file}
		}
		c.Linux.SecurityContext.Seccomp = p
	}
}

// Calls that the filter refuses are refused as without a notifier, and are told of.
func TestSeccompNotifier(t *testing.T) {
	w := world.New(t, world.Options{Extra: allowNotifier})
	w.Pull()
	pod := w.Pod("notified", annotated("seccomp-notifier-action.crio.io", "log"))
	at := len(w.Log())
	out, st := w.Output(pod, "default", "swapoff /etc/hostname 2>&1; swapoff /etc/hostname 2>&1; echo end", filtered(""))
	if strings.Count(out, "not permitted") != 2 || !strings.Contains(out, "end") || st.GetExitCode() != 0 || st.GetReason() != "Completed" {
		t.Errorf("refused calls: %q, %v", out, st)
	}
	logged(w, at, "seccomp refused a system call", "ctr="+st.GetId(), "name=default", "syscall=swapoff", "errno=EPERM", "count=2")

	profile := filepath.Join(w.Dir, "profile.json")
	text := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["swapoff","write"],"action":"SCMP_ACT_ERRNO","errnoRet":95,"args":[{"index":2,"value":1234567,"op":"SCMP_CMP_EQ"}]},
		{"names":["swapoff"],"action":"SCMP_ACT_ERRNO","errnoRet":95},
		{"names":["sethostname"],"action":"SCMP_ACT_KILL_PROCESS"}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, st = w.Output(pod, "own", "swapoff /etc/hostname 2>&1; sh -c 'hostname x'; echo $?", filtered(profile))
	if !strings.Contains(out, "not supported") || !strings.Contains(out, "137") || st.GetExitCode() != 0 {
		t.Errorf("a profile with other errors and kills: %q, %v", out, st)
	}
	logged(w, at, "ctr="+st.GetId(), "syscall=sethostname")

	// Exec'd processes are heard too, and those of a restart later are.
	id := w.Ctr(pod, "execs", "sleep 1000", filtered(""))
	w.Exec(id, "swapoff /etc/hostname")
	logged(w, at, "ctr="+id, "syscall=swapoff", "count=1")
	w.Stop()
	at = len(w.Log())
	w.Start()
	logged(w, at, "are heard of no more", "ctr="+id, "ENOSYS")
	w.Exec(id, "swapoff /etc/hostname")
	logged(w, at, "ctr="+id, "syscall=swapoff")

	for _, c := range []struct{ value, want string }{{"Stop", "stop"}, {"kill", "log"}} {
		refused := w.Pod("refused"+c.value, annotated("seccomp-notifier-action.crio.io", c.value))
		config := w.CtrConfig("refused", "true")
		filtered("")(config)
		if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: refused, Config: config, SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the value %s: %v", c.value, err)
		}
	}
}

// A container whose listener died with the daemon goes on, and is refused with ENOSYS.
func TestSeccompNotifierLost(t *testing.T) {
	w := world.New(t, world.Options{Extra: allowNotifier})
	w.Pull()
	pod := w.Pod("lost", annotated("seccomp-notifier-action.crio.io", ""))
	id := w.Ctr(pod, "main", "until [ -e /go ]; do sleep 0.1; done; swapoff /etc/hostname 2>&1; echo end", filtered(""))
	w.Kill()
	w.Start()
	w.Exec(id, "touch /go")
	st := w.WaitExit(id)
	if out := w.LogText(st.GetLogPath()); !strings.Contains(out, "not implemented") || !strings.Contains(out, "end") {
		t.Errorf("after a restart: %q", out)
	}
}

// stop ends the container, a while after the last call; a restart does not spare it.
func TestSeccompNotifierStop(t *testing.T) {
	w := world.New(t, world.Options{Extra: allowNotifier})
	w.Pull()
	pod := w.Pod("stopped", annotated("io.kubernetes.cri-o.seccompNotifierAction", "stop"))
	const script = "swapoff /etc/hostname; swapoff /etc/hostname; hostname -s; trap : TERM; while :; do sleep 1; done"
	main, other, quiet := w.Ctr(pod, "main", script, filtered("")), w.Ctr(pod, "other", "sleep 1000", nil), w.Ctr(pod, "quiet", "sleep 1000", filtered(""))
	st := w.WaitExit(main)
	if st.GetReason() != "seccomp killed" || !strings.Contains(st.GetMessage(), "swapoff (2)") || st.GetExitCode() != 137 {
		t.Errorf("ended for its calls: %v", st)
	}
	at := len(w.Log())
	again := w.Ctr(pod, "again", script, filtered(""))
	logged(w, at, "ctr="+again, "count=2")
	w.Kill()
	w.Start()
	if st := w.WaitExit(again); st.GetReason() != "seccomp killed" || !strings.Contains(st.GetMessage(), "swapoff") {
		t.Errorf("a restart later: %v", st)
	}
	for _, id := range []string{other, quiet} {
		if st := w.Status(id); st.GetState() != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("a container that does nothing forbidden: %v", st)
		}
	}
}

// Runtimes of others send their listeners as ours does.
func TestSeccompNotifierPeers(t *testing.T) {
	for _, peer := range []string{"runc", "crun"} {
		path, err := exec.LookPath(peer)
		if err != nil {
			t.Logf("there is no %s here", peer)
			continue
		}
		if data, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); peer == "crun" && len(data) > 1 {
			t.Log("crun refuses a cgroup v2 that has controllers beside v1")
			continue
		}
		w := world.New(t, world.Options{Extra: fmt.Sprintf("[crio.runtime]\ndefault_runtime = \"peer\"\n[crio.runtime.runtimes.peer]\nruntime_path = %q\nallowed_annotations = [\"seccomp-notifier-action.crio.io\"]\n", path)})
		w.Pull()
		pod := w.Pod("peer", annotated("seccomp-notifier-action.crio.io", "log"))
		at := len(w.Log())
		out, st := w.Output(pod, "main", "swapoff /etc/hostname 2>&1; echo end", filtered(""))
		if !strings.Contains(out, "not permitted") || !strings.Contains(out, "end") {
			t.Errorf("%s: %q %v", peer, out, st)
			continue
		}
		logged(w, at, "ctr="+st.GetId(), "syscall=swapoff", "errno=EPERM")
	}
}

// A profile may be an OCI artifact, for one container or all of a pod;
// a profile of the request wins, and who is not allowed to name one gets none.
func TestSeccompArtifact(t *testing.T) {
	w := world.New(t, world.Options{Extra: `[crio.runtime.runtimes.runc]
allowed_annotations = ["seccomp-profile.crio.io", "seccomp-notifier-action.crio.io"]
[crio.runtime.runtimes.other]
inherit_default_runtime = true
`})
	w.Pull()
	profile := func(name, text string) string {
		if _, err := w.Registry.AddArtifact("seccomp/"+name, "v1", registry.Artifact{Type: "application/vnd.example.seccomp", Files: []registry.Blob{{Name: "profile.json", Data: []byte(text)}}}); err != nil {
			t.Fatal(err)
		}
		return w.Addr + "/seccomp/" + name + ":v1"
	}
	rule := func(errno int) string {
		return fmt.Sprintf(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["swapoff"],"action":"SCMP_ACT_ERRNO","errnoRet":%d}]}`, errno)
	}
	one, two := profile("one", rule(95)), profile("two", rule(38))
	const script = "swapoff /etc/hostname 2>&1"
	pod := w.Pod("artifact", annotated("seccomp-profile.crio.io/POD", one, "seccomp-profile.crio.io/special", two, "seccomp-notifier-action.crio.io", "log"))
	at := len(w.Log())
	runCases(t, w, pod, []specCase{
		{"main", script, ".*not supported", nil},
		{"special", script, ".*not implemented", nil},
		{"asked", script, ".*not permitted", filtered("")},
	})
	logged(w, at, "seccomp refused", "name=special", "errno=ENOSYS")
	plain := w.PodConfig("plain")
	annotated("seccomp-profile.crio.io/POD", one)(plain)
	p, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: plain, RuntimeHandler: "other"})
	if err != nil {
		t.Fatal(err)
	}
	runCases(t, w, p.GetPodSandboxId(), []specCase{{"main", script, ".*not permitted", nil}})
	for name, ref := range map[string]string{"absent": w.Addr + "/seccomp/absent:v1", "none": profile("none", "{}x"), "image": w.Image} {
		bad := w.Pod("bad"+name, annotated("seccomp-profile.crio.io", ref))
		c := w.CtrConfig("main", "true")
		if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: bad, Config: c, SandboxConfig: w.PodConfig("x")}); err == nil || !strings.Contains(err.Error(), "seccomp-profile.crio.io") {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
