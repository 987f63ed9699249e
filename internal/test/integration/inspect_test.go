package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/inspect"
	asking "github.com/monocrio/monocrio/internal/inspect/client"
	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// httpGet gets a path of the HTTP API.
func httpGet(w *world.World, path string) (code int, contentType, body string) {
	w.T.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.Socket)
	}}}
	req, err := http.NewRequestWithContext(w.Ctx(), http.MethodGet, "http://localhost"+path, http.NoBody)
	if err != nil {
		w.T.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		w.T.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.T.Fatalf("%s: %v", path, err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(data)
}

// answer reads the JSON of a path.
func answer[T any](w *world.World, path string) (v T) {
	w.T.Helper()
	code, ct, body := httpGet(w, path)
	if code != http.StatusOK || ct != "application/json" {
		w.T.Fatalf("%s: %d %s\n%s", path, code, ct, body)
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		w.T.Fatalf("%s: %v\n%s", path, err, body)
	}
	return v
}

// told runs crio-status, which must succeed.
func told(w *world.World, args ...string) string {
	w.T.Helper()
	out, errs, code := w.Run(append([]string{"crio-status", "-s", w.Socket}, args...)...)
	if code != 0 || errs != "" {
		w.T.Fatalf("crio-status %v: code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// has wants patterns in a text, each in a line of its own.
func has(t testing.TB, text string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)^" + p + "$").MatchString(text) {
			t.Errorf("no line is %q:\n%s", p, text)
		}
	}
}

// slowPlugin puts a CNI plugin there whose ADD waits for a file to go, and fails as
// long as another one is there.
func slowPlugin(w *world.World) (hold, broken string) {
	w.T.Helper()
	hold, broken = filepath.Join(w.Dir, "hold"), filepath.Join(w.Dir, "broken")
	script := fmt.Sprintf(`#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || { [ "$CNI_COMMAND" = DEL ] && [ -e %[3]s ] && { echo '{"code": 7, "msg": "cannot let go"}'; exit 1; }; exit 0; }
while [ -e %[1]s ]; do sleep 0.02; done
[ -e %[2]s ] && { echo '{"code": 7, "msg": "no address is left"}'; exit 1; }
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.9.9/24"}]}'
`, hold, broken, broken+".del")
	path := filepath.Join(w.Dir, "plugins/slow")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		w.T.Fatal(err)
	}
	return hold, broken
}

const slowNet = `{"cniVersion": "1.1.0", "name": "tardy", "plugins": [{"type": "slow"}]}`

func touch(w *world.World, path string) {
	w.T.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		w.T.Fatal(err)
	}
}

// TestWhyItHangs: while a plugin hangs, everything answers and says what waits for it;
// then, why it failed, though nothing is left of it.
func TestWhyItHangs(t *testing.T) {
	w := world.New(t, world.Options{Net: slowNet})
	hold, broken := slowPlugin(w)
	touch(w, hold)
	run := func(name string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := w.RunPodSandbox(w.Ctx(), &cri.RunPodSandboxRequest{Config: w.PodConfig(name)})
			done <- err
		}()
		w.Eventually("the plugin is waited for", func() bool {
			return strings.Contains(told(w, "pods"), "waits for CNI plugin")
		})
		return done
	}
	done := run("web")
	const plugin = "CNI plugin slow: ADD"
	text := told(w, "pods")
	t.Log("\n" + text)
	has(t, text, "STATE +FOR +POD AND CONTAINERS +ID +STEP +DETAIL",
		`creating +\d+s +default/web +[0-9a-f]{12} +network +[0-9.]+m?s, waits for `+plugin)
	text = told(w, "why", "web")
	t.Log("\n" + text)
	has(t, text, "pod default/web", `  id +[0-9a-f]{64}`, `  state +creating, for \d+s`, `  now +network, for [0-9.]+m?s, waits for `+plugin,
		`  [0-9:.]+ +is creating`, `  [0-9:.]+ +[0-9.]+ms +files`, `  [0-9:.]+ +[0-9.]+ms +namespaces`, `  [0-9:.]+ +[0-9.]+m?s so far +network +waits for `+plugin)
	if code, _, _ := httpGet(w, "/info"); code != http.StatusOK {
		t.Error("/info does not answer")
	}

	touch(w, broken)
	os.Remove(hold)
	if err := <-done; status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	text = told(w, "pods")
	t.Log("\n" + text)
	has(t, text, `failed +\d+s +default/web +[0-9a-f]{12} +network +cannot attach pod [0-9a-f]{12} to .*no address is left.*`)
	text = told(w, "why", "default/web")
	t.Log("\n" + text)
	has(t, text, "pod default/web could not be made", `  [0-9:.]+ +[0-9.]+m?s +network +failed: .*no address is left.*`, `  [0-9:.]+ +[0-9.]+ms +undo namespaces`)

	touch(w, hold)
	done = run("web") // the kubelet tries again
	os.Remove(hold)
	<-done
	has(t, told(w, "pods"), `failed .* 2 times: cannot attach.*`)
	os.Remove(broken)
	pod := w.Pod("web", nil)
	text = told(w, "pods")
	has(t, text, `ready +\d+s +default/web +`+pod[:12]+` +10.9.9.9`)
	if strings.Contains(text, "failed") {
		t.Errorf("it has come up:\n%s", text)
	}

	// What a plugin does not give back is owed.
	touch(w, broken+".del")
	if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	text = told(w, "pods", "-p")
	t.Log("\n" + text)
	has(t, text, `notready +\d+s +default/web +`+pod[:12]+` +network +owed: .*cannot let go.*`)
	has(t, told(w, "why", pod[:8]), `  owed .*cannot let go.*`)
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	text = told(w, "pods")
	t.Log("\n" + text)
	has(t, text, `owed +\d+s +default/web +`+pod[:12]+` +network +CNI DEL of network tardy, .*cannot let go.*`)
	has(t, told(w, "why", "web"), `owed: the CNI DEL of network tardy, since .*, tried \d+ times`, `  .*cannot let go.*`)
	os.Remove(broken + ".del")
	w.Restart()
	w.Eventually("the debt is paid", func() bool { return !strings.Contains(told(w, "pods"), "owed") })
	has(t, told(w, "pods"), "there are no pods")
}

// TestTimeline: the life of a container, before and after a restart of the daemon.
func TestTimeline(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("web", nil)
	ctr := w.Ctr(pod, "app", "trap 'exit 7' TERM; while :; do sleep 0.02; done", nil)
	text := told(w, "pods")
	t.Log("\n" + text)
	has(t, text, `ready +\d+s +default/web +`+pod[:12]+` +10\.99\.0\.\d+, fd00:99::\w+`, `running +\d+s +  app +`+ctr[:12])
	has(t, told(w, "pods", "-p"), "nothing is under way and nothing is wrong")
	text = told(w, "why", ctr[:10])
	t.Log("\n" + text)
	has(t, text, "pod default/web", "container app", `  state +running, for \d+s`, `  [0-9:.]+ +[0-9.]+m?s +process`, `  [0-9:.]+ +[0-9.]+m?s +start`, `  [0-9:.]+ +is running`)

	// A stop in its grace period.
	stopped := make(chan error, 1)
	w.Exec(ctr, "true")
	stubborn := w.Ctr(pod, "stubborn", "trap '' TERM; echo up; while :; do sleep 0.02; done", nil)
	w.Eventually("the signal is ignored", func() bool { return strings.Contains(w.LogText(w.Status(stubborn).GetLogPath()), "up") })
	ctx, cancel := context.WithCancel(w.Ctx())
	go func() {
		_, err := w.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: stubborn, Timeout: 3600})
		stopped <- err
	}()
	w.Eventually("the stop shows", func() bool { return strings.Contains(told(w, "pods"), "SIGKILL comes at") })
	has(t, told(w, "pods", "-p"), `running +\d+s +  stubborn +`+stubborn[:12]+` +stop +[0-9.]+m?s, waits for its processes to end; SIGKILL comes at [0-9:]+`)
	cancel()
	<-stopped
	for _, id := range []string{ctr, stubborn} {
		if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: id, Timeout: map[bool]int64{true: 10}[id == ctr]}); err != nil {
			t.Fatal(err)
		}
	}
	text = told(w, "pods")
	t.Log("\n" + text)
	has(t, text, `exited +\d+s +  app +`+ctr[:12]+` +exit 7 Error`, `exited +\d+s +  stubborn +`+stubborn[:12]+` +exit 137 Error`)
	t.Log("\n" + told(w, "why", "web"))

	// A container that cannot be made, below its pod.
	c := w.CtrConfig("absent", "true")
	c.Image.Image = "nowhere.example/none:1"
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("x")}); err == nil {
		t.Fatal("a container without an image is made")
	}
	text = told(w, "pods")
	t.Log("\n" + text)
	has(t, text, `failed +\d+s +  absent +[0-9a-f]{12} +find the image +cannot create container absent: .*nowhere.example/none:1.*`)
	has(t, told(w, "why", "web"), "container default/web/absent could not be made")

	w.Restart()
	text = told(w, "why", "web")
	t.Log("\n" + text)
	has(t, text, `  state +ready, for \d+s`, `  ended +exit 7 Error`, `  [0-9:.]+ +is exited`, `The daemon began at [0-9:.]+. Of what was done before, only states and results are known.`)
	for _, args := range [][]string{{"pods", "--json"}, {"why", "web", "--json"}, {"pulls", "--json"}, {"info", "--json"}, {"containers", "-i", ctr[:9], "--json"}} {
		if out := told(w, args...); !json.Valid([]byte(out)) {
			t.Errorf("%v: %s", args, out)
		}
	}
}

// TestContainersAPI: what cAdvisor and others read.
func TestContainersAPI(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("web", nil)
	ctr := w.Ctr(pod, "app", "exec sleep 1000", func(c *cri.ContainerConfig) {
		c.Metadata.Attempt = 3
		c.Labels, c.Annotations = map[string]string{"io.kubernetes.container.name": "app"}, map[string]string{"note": "a\"b"}
	})
	info := answer[inspect.Info](w, "/info")
	if all := (inspect.IDMapping{Size: 4294967295}); info.CgroupDriver != "cgroupfs" || info.StorageDriver != "overlay" || info.StorageRoot != w.Dir+"/root" ||
		info.StorageImage != "" || len(info.DefaultIDMappings.UIDs) != 1 || info.DefaultIDMappings.UIDs[0] != all || info.DefaultIDMappings.GIDs[0] != all {
		t.Errorf("%+v", info)
	}
	c := answer[inspect.Container](w, "/containers/"+ctr)
	st := w.Status(ctr)
	w.Eventually("the process is its program", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Pid))
		return string(comm) == "sleep\n"
	})
	if _, err := os.Stat(filepath.Join(c.Root, "bin/busybox")); err != nil || !strings.HasSuffix(c.Root, "/merged") {
		t.Errorf("root %s: %v", c.Root, err)
	}
	if c.Name != "k8s_app_web_default_uid-web_3" || c.Image != w.Image || c.ImageRef != st.GetImageRef() || c.CreatedTime != st.GetCreatedAt() || c.LogPath != st.GetLogPath() ||
		c.Sandbox != pod || len(c.IPs) != 2 || c.IPs[0] != w.IP(pod) || c.Labels["io.kubernetes.container.name"] != "app" || c.Annotations["note"] != "a\"b" || c.HostNetwork {
		t.Errorf("%+v", c)
	}
	for k, want := range map[string]string{"ContainerID": ctr, "ContainerType": "container", "SandboxID": pod, "SandboxName": "web", "Namespace": "default", "IP.0": c.IPs[0],
		"ImageName": w.Image, "MountPoint": c.Root, "LogPath": c.LogPath, "TTY": "false", "HostNetwork": "false", "RuntimeHandler": "runc", "Annotations": `{"note":"a\"b"}`} {
		if got := c.CrioAnnotations["io.kubernetes.cri-o."+k]; got != want {
			t.Errorf("%s: %q, not %q", k, got, want)
		}
	}
	if c.CrioAnnotations["io.container.manager"] != "cri-o" {
		t.Errorf("%v", c.CrioAnnotations)
	}
	infra := answer[inspect.Container](w, "/containers/"+pod)
	if infra.Name != "k8s_POD_web_default_uid-web_0" || infra.Pid != c.Pid || infra.Sandbox != pod || infra.Labels["app"] != "web" || infra.CrioAnnotations["io.kubernetes.cri-o.ContainerType"] != "sandbox" {
		t.Errorf("%+v", infra)
	}
	shared := w.Pod("shared", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD })
	infra = answer[inspect.Container](w, "/containers/"+shared)
	if infra.Root == "" {
		t.Errorf("%+v", infra)
	}
	w.Eventually("its process is pause", func() bool {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", infra.Pid))
		return string(comm) == "pause\n"
	})
	for path, want := range map[string]int{"/containers/" + ctr[:20]: 404, "/containers/nothing": 404, "/containers/": 404, "/v1/pods/" + strings.Repeat("f", 64): 404, "/none": 404,
		"/debug/pprof/": 404, "/pause/nothing": 404, "/pause/" + ctr[:20]: 404, "/unpause/" + ctr: 409} {
		if code, _, body := httpGet(w, path); code != want {
			t.Errorf("%s: %d, not %d\n%s", path, code, want, body)
		}
	}
	code, ct, body := httpGet(w, "/config")
	if code != 200 || ct != "application/toml" || !regexp.MustCompile(`(?m)^log_level = .info.$`).MatchString(body) || !strings.Contains(body, "\nlisten = ") {
		t.Errorf("/config: %d %s\n%s", code, ct, body)
	}
	if code, ct, body = httpGet(w, "/debug/goroutines"); code != 200 || ct != "text/plain" || !strings.Contains(body, "goroutine 1 ") {
		t.Errorf("goroutines: %d %s\n%.200s", code, ct, body)
	}
	if code, ct, body = httpGet(w, "/debug/heap"); code != 200 || ct != "application/octet-stream" || !strings.HasPrefix(body, "go1.7 heap dump\n") {
		t.Errorf("heap: %d %s\n%.100s", code, ct, body)
	}

	text := told(w, "info")
	has(t, text, "cgroup driver: cgroupfs", "storage driver: overlay", "storage root: "+w.Dir+"/root", "default GID mappings .*:", "default UID mappings .*:", "  0:0:4294967295")
	for _, args := range [][]string{{"info", "-s", w.Socket}, {"-s", w.Socket, "i"}} { // as a part of crio, with the words of that
		out, errs, code := w.Run(append([]string{"crio", "status"}, args...)...)
		if code != 0 {
			t.Fatalf("crio status %v: %d %s", args, code, errs)
		}
		has(t, out, "storage graph root: "+w.Dir+"/root", "storage image: ")
	}
	text = told(w, "s", "--id", ctr[:8])
	t.Log("\n" + text)
	has(t, text, "name: k8s_app_web_default_uid-web_3", fmt.Sprintf("pid: %d", c.Pid), "image: "+w.Image, "image ref: .*", "created: .*", "labels:", "  io.kubernetes.container.name: app",
		"annotations:", `  note: a"b`, "CRI-O annotations:", "  io.kubernetes.cri-o.SandboxID: "+pod, "log path: "+c.LogPath, "root: "+c.Root, "sandbox: "+pod, "ips: "+strings.Join(c.IPs, ", "))
	has(t, told(w, "c"), "log_level = .info.")
	has(t, told(w, "g"), "goroutine 1 .*")
	dump := filepath.Join(w.Dir, "dump")
	has(t, told(w, "hp", "-f", dump), dump)
	if data, err := os.ReadFile(dump); err != nil || !strings.HasPrefix(string(data), "go1.7 heap dump\n") {
		t.Errorf("%v", err)
	}
	if !strings.HasPrefix(told(w, "heap", "--file", "-"), "go1.7 heap dump\n") {
		t.Error("no dump on standard output")
	}
}

// TestPulls: an image on its way, and how it ended.
func TestPulls(t *testing.T) {
	w := world.New(t, world.Options{})
	has(t, told(w, "pulls"), "no image is being pulled")
	w.Registry.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 10000})
	ctx, cancel := context.WithCancel(w.Ctx())
	defer cancel()
	pulled := make(chan error, 1)
	go func() {
		_, err := w.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Image}})
		pulled <- err
	}()
	var p inspect.Pulls
	w.Eventually("bytes come", func() bool {
		p = answer[inspect.Pulls](w, "/v1/pulls")
		return len(p.Pulls) == 1 && p.Pulls[0].Done > 0
	})
	if x := p.Pulls[0]; x.Image != w.Image || len(x.Hosts) != 1 || x.Hosts[0] != w.Addr || x.Total == nil || *x.Total <= x.Done || len(x.Layers) != 1 || x.Layers[0].State != "fetching" {
		t.Errorf("%+v", x)
	}
	text := told(w, "pulls")
	t.Log("\n" + text)
	has(t, text, "STATE +FOR +DONE +RATE +LEFT +FROM +IMAGE AND LAYERS", `fetching +\d+s +[0-9.]+ [kM]?B of [0-9.]+ [kM]B, \d+% +.* +`+w.Addr+` +`+w.Image, `  fetching +[0-9.]+ [kM]?B of [0-9.]+ [kM]B, \d+% +  [0-9a-f]{12}`)
	if brief, err := asking.New(w.Socket).Brief(w.Ctx(), w.Image); err != nil || !strings.HasPrefix(brief, "fetching ") {
		t.Errorf("%q %v", brief, err)
	}
	cmd := exec.Command(w.Bin(), "crio-status", "-s", w.Socket, "pulls", "-w", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	looks := bufio.NewReader(out)
	for range 2 {
		text, err := looks.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(text, &p)
		}
		if err != nil || len(p.Pulls) != 1 {
			t.Fatalf("%s: %v", text, err)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	w.Restart() // a pull ends with its daemon
	<-pulled
	w.Registry.SetFaults(registry.Faults{})
	w.Pull()
	if _, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Addr + "/none:1"}}); err == nil {
		t.Error("nothing is pulled")
	}
	text = told(w, "pulls")
	t.Log("\n" + text)
	has(t, text, "no image is being pulled", "ENDED +AGO +TOOK +BYTES +IMAGE +DETAIL", `failed +\d+s +[0-9.]+m?s +0 B +`+w.Addr+`/none:1 +cannot pull .*`, `pulled +\d+s +[0-9.]+m?s +[0-9.]+ [kM]B +`+w.Image+` +id [0-9a-f]{12}`)
}

// TestStatusErrors: what crio-status says when it cannot do what is wanted.
func TestStatusErrors(t *testing.T) {
	w := world.New(t, world.Options{})
	for _, c := range []struct{ args, says string }{
		{"", "a command is needed; crio-status --help lists them"},
		{"nonsense", `unknown command "nonsense" for "crio-status"`},
		{"containers", "--id must say which container"},
		{"containers -i 0123456789ab", `there is no container "0123456789ab"`},
		{"why nobody", `there is no pod or container "nobody"`},
		{"pods -s " + w.Dir + "/none.sock", "there is no daemon at " + w.Dir + "/none.sock: start crio, or say by --socket where it listens"},
		{"heap -f " + w.Dir + "/no/folder", "cannot write the dump: "},
		{"completion tcsh", `invalid argument "tcsh"`},
	} {
		out, errs, code := w.Run(append([]string{"crio-status", "--socket", w.Socket}, strings.Fields(c.args)...)...)
		if code != 1 || !strings.HasPrefix(errs, "crio-status: ") || !strings.Contains(errs, c.says) || out != "" {
			t.Errorf("%q: code %d, %q, %q", c.args, code, out, errs)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := told(w, "complete", shell); !strings.Contains(out, "crio-status") {
			t.Errorf("%s: %.200s", shell, out)
		}
	}
	if out := told(w, "--version"); !strings.HasPrefix(out, "crio-status version ") {
		t.Error(out)
	}
	w.Kill()
	if _, errs, code := w.Run("crio-status", "-s", w.Socket, "info"); code != 1 || !strings.Contains(errs, "nobody listens at "+w.Socket+" any more") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestPause: a container that an operator freezes.
func TestPause(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("web", nil)
	ctr := w.Ctr(pod, "app", "trap 'exit 5' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done", nil)
	lines := func() int { return strings.Count(w.LogText(w.Status(ctr).GetLogPath()), "\n") }
	w.Eventually("it writes", func() bool { return lines() > 0 })
	pause := func(verb string, want int) {
		t.Helper()
		if code, ct, body := httpGet(w, "/"+verb+"/"+ctr); code != want || want == 200 && (ct != "text/html" || body != "200 OK") {
			t.Errorf("%s: %d %s %q", verb, code, ct, body)
		}
	}
	pause("pause", 200)
	pause("pause", 409)
	was := lines()
	time.Sleep(100 * time.Millisecond)
	if now := lines(); now > was+1 { // one may have been under way to the log
		t.Errorf("it wrote %d lines while it was paused", now-was)
	}
	list, err := w.ListContainers(w.Ctx(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
	if err != nil || len(list.GetContainers()) != 1 { // the CRI has no word for it: it has not ended
		t.Errorf("%v %v", list, err)
	}
	has(t, told(w, "pods"), `paused +\d+s +  app +`+ctr[:12])
	if _, err := w.ExecSync(w.Ctx(), &cri.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"true"}}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("exec: %v", err)
	}
	w.Restart() // it is on record
	pause("pause", 409)
	has(t, told(w, "pods"), `paused .* app .*`)
	pause("unpause", 200)
	pause("unpause", 409)
	was = lines()
	w.Eventually("it writes again", func() bool { return lines() > was })

	pause("pause", 200)
	if _, err := w.StopContainer(w.Ctx(), &cri.StopContainerRequest{ContainerId: ctr, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	if st := w.Status(ctr); st.GetExitCode() != 5 {
		t.Errorf("a paused container is not asked to end: %v", st)
	}
	pause("pause", 409)
	other := w.Ctr(pod, "other", "exec sleep 1000", nil)
	if code, _, _ := httpGet(w, "/pause/"+other); code != 200 {
		t.Error(code)
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
}

// TestSocketShared: gRPC and HTTP on one socket, with clients that do not behave.
//
// Options: --enable-profile-unix-socket
func TestSocketShared(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	w.Start("ENABLE_PROFILE_UNIX_SOCKET=true")
	w.Pull()
	pod := w.Pod("web", nil)
	ctr := w.Ctr(pod, "app", "exec sleep 1000", nil)
	fds := w.FDs()
	var rude []net.Conn
	dial := func(words string) net.Conn {
		c, err := net.Dial("unix", w.Socket)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, words)
		rude = append(rude, c)
		return c
	}
	for i := range 200 {
		dial([]string{"", "PRI * HTTP/2.0\r\n", "GET /info HTTP/1.1\r\nHost: x\r\nX-Slow: ", "P"}[i%4])
	}
	for _, garbage := range []string{"\x16\x03\x01\x02\x00\x01", "garbage\r\n\r\n", "\x00\x00\x00\x00\x00\x00\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frames"} {
		dial(garbage)
	}
	// All at once, while those are there.
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				if out, _ := w.Exec(ctr, "echo yes"); out != "yes" {
					t.Errorf("exec: %q", out)
				}
			}
		})
		wg.Go(func() {
			for range 20 {
				answer[inspect.Info](w, "/info")
				answer[inspect.Pods](w, "/v1/pods")
				answer[inspect.Container](w, "/containers/"+ctr)
			}
		})
	}
	wg.Wait()
	if code, _, body := httpGet(w, "/debug/pprof/"); code != 200 || !strings.Contains(body, "goroutine") {
		t.Errorf("pprof: %d", code)
	}
	if code, _, body := httpGet(w, "/debug/pprof/heap"); code != 200 || body == "" {
		t.Errorf("pprof's heap: %d", code)
	}
	// Each is let go by the daemon: an answer, or nothing, and then the end.
	for i, c := range rude {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
			t.Fatalf("client %d is not given up", i)
		}
		c.Close()
	}
	w.Eventually("their descriptors are closed", func() bool { return w.FDs() <= fds+5 })
	// Requests one after the other on one connection.
	c := dial("")
	defer c.Close()
	r := bufio.NewReader(c)
	for range 3 {
		io.WriteString(c, "GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
}

// TestDrain: the daemon ends its answers before it ends, and waits for nobody who does
// not ask.
func TestDrain(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	w.Start("ENABLE_PROFILE_UNIX_SOCKET=true")
	for _, words := range []string{"", "GET /info HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HT"} { // silent, idle after an answer, slow
		c, err := net.Dial("unix", w.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, words)
	}
	c, err := net.Dial("unix", w.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /debug/pprof/profile?seconds=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	w.Eventually("the profile is being taken", func() bool { return strings.Contains(told(w, "goroutines"), "pprof.Profile") })
	begin := time.Now()
	w.Signal(syscall.SIGTERM)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	if data, err := io.ReadAll(resp.Body); err != nil || len(data) == 0 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	w.WaitEnd()
	t.Logf("it ended %v after the signal", time.Since(begin))
	if !strings.Contains(w.Log(), "ending") || strings.Contains(w.Log(), "cannot serve") {
		t.Errorf("the log:\n%s", w.Log())
	}
}
