package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ocic does a pod's whole life with files as crictl takes them.
func TestOcic(t *testing.T) {
	w := world.New(t, world.Options{})
	ocic := func(args ...string) string {
		t.Helper()
		out, errs, code := w.Run(append([]string{"ocic", "-s", w.Socket}, args...)...)
		if code != 0 {
			t.Fatalf("ocic %v: code %d\n%s%s", args, code, out, errs)
		}
		return strings.TrimSpace(out)
	}
	file := func(name, text string) string {
		path := filepath.Join(w.Dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got := ocic("info"); !strings.Contains(got, "NetworkReady") || !strings.Contains(got, "handler runc") {
		t.Errorf("info:\n%s", got)
	}
	id := ocic("image", "pull", w.Image)
	if got := ocic("image", "list"); !strings.Contains(got, w.Image) || !strings.Contains(got, id[:12]) {
		t.Errorf("image list:\n%s", got)
	}
	if got := ocic("image", "status", w.Image); !strings.Contains(got, id) {
		t.Errorf("image status:\n%s", got)
	}
	pod := ocic("pod", "run", "--config", file("pod.json", `{"metadata": {"name": "p", "namespace": "n", "uid": "u", "attempt": 1},
		"hostname": "p", "log_directory": "`+w.Dir+`/logs", "linux": {"security_context": {"namespace_options": {"pid": "CONTAINER"}}}}`))
	ctr := ocic("ctr", "create", "--pod", pod, "--config", file("ctr.json", `{"metadata": {"name": "c"}, "image": {"image": "`+w.Image+`"},
		"command": ["sh", "-c", "echo $GREETING; trap 'exit 0' TERM; while :; do sleep 0.05; done"], "envs": [{"key": "GREETING", "value": "good day"}], "log_path": "c.log"}`))
	ocic("ctr", "start", ctr)
	if got := ocic("pod", "list"); !strings.Contains(got, pod[:12]) || !strings.Contains(got, "ready") {
		t.Errorf("pod list:\n%s", got)
	}
	var status struct {
		Status struct{ ID, State string }
	}
	if err := json.Unmarshal([]byte(ocic("-o", "json", "pod", "status", pod)), &status); err != nil || status.Status.ID != pod {
		t.Errorf("pod status as JSON: %+v %v", status, err)
	}
	w.Eventually("the container has greeted", func() bool { return strings.Contains(ocic("ctr", "logs", ctr), "good day") })
	if got := ocic("ctr", "exec", ctr, "echo", "hi"); got != "hi" {
		t.Errorf("exec: %q", got)
	}
	if _, _, code := w.Run("ocic", "-s", w.Socket, "ctr", "exec", ctr, "sh", "-c", "exit 9"); code != 9 {
		t.Errorf("exec of a failing command ends with %d", code)
	}
	ocicStreams(t, w, pod, ctr)
	ocic("ctr", "stop", "--grace", "20", ctr)
	if got := ocic("ctr", "status", ctr); !strings.Contains(got, "exited") || !strings.Contains(got, "Completed") {
		t.Errorf("ctr status:\n%s", got)
	}
	ocic("ctr", "remove", ctr)
	if got := ocic("ctr", "list", "-q"); got != "" {
		t.Errorf("after the removal: %q", got)
	}
	ocic("pod", "stop", pod)
	ocic("pod", "remove", pod)
	ocic("image", "remove", w.Image)
}

// ocicStreams uses the streaming server.
func ocicStreams(t *testing.T, w *world.World, pod, ctr string) {
	t.Helper()
	run := func(stdin string, args ...string) (string, string, int) {
		cmd := exec.Command(w.Bin(), append([]string{"ocic", "-s", w.Socket}, args...)...)
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
		cmd.Run()
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	if out, errs, code := run("words", "ctr", "exec", "-i", ctr, "sh", "-c", "cat; echo oops >&2; exit 6"); out != "words" || errs != "oops\n" || code != 6 {
		t.Errorf("exec -i: %q, %q, code %d", out, errs, code)
	}
	if out, _, code := run("", "ctr", "exec", "--tty", ctr, "tty"); !strings.HasPrefix(out, "/dev/pts/") || code != 0 {
		t.Errorf("exec --tty: %q, code %d", out, code)
	}
	if _, errs, code := run("", "ctr", "exec", "-i", ctr, "/not/there"); !strings.Contains(errs, "/not/there") || code != 1 {
		t.Errorf("exec -i of nothing: %q, code %d", errs, code)
	}
	id := w.Ctr(pod, "attach", "read word; echo $word", func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	if out, errs, code := run("words\n", "ctr", "attach", "-i", id); out != "words\n" || code != 0 {
		t.Errorf("attach: %q, %q, code %d", out, errs, code)
	}
	_, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: id})
	must(t, err)
	port, stop := serveIn(t, netns(w, pod), "127.0.0.1:0")
	defer stop()
	cmd := exec.Command(w.Bin(), "ocic", "-s", w.Socket, "pod", "forward", pod, fmt.Sprint("0:", port))
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	_, local, err := net.SplitHostPort(strings.Fields(line)[0])
	must(t, err)
	number, err := strconv.ParseUint(local, 10, 16)
	must(t, err)
	ask(t, uint16(number), []byte("hello"))
}

func TestOcicRefusals(t *testing.T) {
	w := world.New(t, world.Options{})
	bad := filepath.Join(w.Dir, "bad.json")
	for _, c := range []struct{ name, text, want string }{
		{"no JSON", "{\n \"metadata\": {,\n", "line 2"},
		{"unknown field", `{"metadatta": {}}`, "metadatta"},
		{"nothing in it", `{}`, "metadata"},
	} {
		if err := os.WriteFile(bad, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, errs, code := w.Run("ocic", "-s", w.Socket, "pod", "run", "--config", bad)
		if code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: code %d, %q", c.name, code, errs)
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no CRI socket", []string{"-s", "/nowhere.sock", "info"}},
		{"table or json", []string{"-o", "yaml", "info"}},
		{"NotFound", []string{"pod", "status", strings.Repeat("a", 64)}},
		{"not there", []string{"image", "status", "localhost/none:1"}},
		{"required flag", []string{"ctr", "create"}},
	} {
		args := append([]string{"ocic", "-s", w.Socket}, c.args...)
		if _, errs, code := w.Run(args...); code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%v: code %d, %q", c.args, code, errs)
		}
	}
}
