package docs

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// world is where a document's commands run; this process is in it.
type world struct {
	dir     string
	machine bool
	cluster bool // the document makes one
	shell   *exec.Cmd
	stdin   io.WriteCloser
	done    *os.File // what the shell tells after each block
	n       int
}

// needs are what a block may need. Each tells what is missing, "" if it is there.
var needs = map[string]func(w *world) string{
	"crictl":     programs("crictl"),
	"kubelet":    programs("kubelet"),
	"podman":     programs("podman"),
	"kubectl":    programs("kubectl"),
	"kubeadm":    programs("kubeadm"),
	"cluster":    programs("kubeadm", "kubelet", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "etcd", "coredns"),
	"containerd": programs("containerd", "ctr"),
	"modules": func(*world) string {
		if _, err := os.Stat("/proc/modules"); err != nil {
			return "this kernel loads no modules"
		}
		return ""
	},
	"machine": func(w *world) string {
		if !w.machine {
			return "it changes the whole machine, and this one is not thrown away"
		}
		return ""
	},
	"checkout": func(*world) string { return "it is for a checkout with Go; the project's CI does it" },
}

func programs(names ...string) func(*world) string {
	return func(*world) string {
		var missing []string
		for _, n := range names {
			if _, err := exec.LookPath(n); err != nil {
				missing = append(missing, n)
			}
		}
		if len(missing) == 0 {
			return ""
		}
		return "this machine lacks " + strings.Join(missing, ", ") + ": MONOCRIO_KUBERNETES may name a folder with them"
	}
}

// inside runs a document; the results go to standard output, a line of JSON each.
func inside() int {
	w := &world{dir: os.Getenv("MONOCRIO_DOCS_WORLD"), machine: os.Getenv("MONOCRIO_DOCS_MACHINE") != ""}
	doc := os.Getenv("MONOCRIO_DOCS_DOC")
	for _, v := range os.Environ() { // what follows is a user's environment
		if k, _, _ := strings.Cut(v, "="); strings.HasPrefix(k, "MONOCRIO_DOCS") || strings.HasPrefix(k, "CONTAINER") {
			os.Unsetenv(k)
		}
	}
	text, err := os.ReadFile(filepath.Join(w.dir, doc))
	if err != nil {
		return fail(err)
	}
	list, err := parse(doc, string(text))
	if err != nil {
		return fail(err)
	}
	w.cluster = slices.ContainsFunc(list, func(b *block) bool { return slices.Contains(b.Needs, "cluster") })
	if err := w.make(); err != nil {
		return fail(err)
	}
	out := json.NewEncoder(os.Stdout)
	for _, b := range list {
		if b.Kind != "sh" {
			continue
		}
		r := w.do(b)
		out.Encode(r)
		if r.over {
			break // the shell is gone, and with it what later blocks count on
		}
	}
	w.stdin.Close()
	w.shell.Wait()
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "a document's world:", err)
	return 1
}

func (w *world) make() error {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if k := os.Getenv("MONOCRIO_KUBERNETES"); k != "" {
		there := filepath.Join(w.dir, "kubernetes")
		if err := os.MkdirAll(there, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(k, there, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("MONOCRIO_KUBERNETES: cannot bind %s: %w", k, err)
		}
		path += ":" + there
	}
	if !w.machine {
		path = filepath.Join(w.dir, "tools") + ":" + path
	}
	os.Setenv("PATH", path)
	os.Setenv("HOME", "/root")
	if !w.machine {
		for _, f := range []func() error{func() error { return layers(w.dir) }, func() error { return kernel(w.dir) }, node, serveUnits} {
			if err := f(); err != nil {
				return err
			}
		}
	}
	if err := network(); err != nil {
		return err
	}
	if err := w.serveWeb(); err != nil {
		return err
	}
	return w.startShell()
}

// node gives the world a hostname and a network with a default route.
func node() error {
	if err := unix.Sethostname([]byte("node1")); err != nil {
		return err
	}
	for path, text := range map[string]string{"/etc/hostname": "node1\n", "/etc/resolv.conf": "nameserver 192.0.2.1\n", "/etc/hosts": "127.0.0.1 localhost\n192.0.2.10 node1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return network()
}

// network gives a machine without one an interface with a default route that leads nowhere:
// kubelets and kubeadm look for the node's address there.
func network() error {
	routes, err := exec.Command("ip", "route", "show", "default").Output()
	if err != nil || len(routes) > 0 {
		return err
	}
	for _, line := range []string{"link add eth0 type veth peer name outside", "addr add 192.0.2.10/24 dev eth0", "link set eth0 up", "link set outside up", "route add default via 192.0.2.1"} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}

func (w *world) startShell() error {
	r, wr, err := os.Pipe()
	if err != nil {
		return err
	}
	w.shell = exec.Command("sh", "-eu")
	w.shell.Dir = "/root"
	w.shell.ExtraFiles = []*os.File{wr}
	w.shell.Stderr = os.Stderr
	if w.stdin, err = w.shell.StdinPipe(); err != nil {
		return err
	}
	w.done = r
	err = w.shell.Start()
	wr.Close()
	return err
}

// do runs a block, or says why not.
func (w *world) do(b *block) result {
	r := result{Name: b.name()}
	for _, n := range b.Needs {
		if r.Skip = needs[n](w); r.Skip != "" {
			return r
		}
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		var status string
		status, r.Output = w.once(b)
		r.Failed = ""
		switch {
		case status == "":
			r.Failed, r.over = "it failed", true
		case b.Fails && status == "0":
			r.Failed = "it succeeded"
		case b.Again && !b.Fails && status != "0":
			r.Failed = "it failed with status " + status
		case b.Output != nil:
			if d := differs(r.Output, *b.Output); d != "" {
				r.Failed = fmt.Sprintf("it does not print what the document shows; from here on: %s", d)
			}
		}
		if r.Failed == "" || !b.Again || time.Now().After(end) {
			break
		}
	}
	if r.Failed != "" {
		r.Output += w.journals()
	}
	return r
}

// once runs the block's commands in the document's shell; those that may fail, in a
// subshell. The status is "" when the shell has ended.
func (w *world) once(b *block) (status, output string) {
	w.n++
	file := filepath.Join(w.dir, "blocks", fmt.Sprintf("%d.sh", w.n))
	out := strings.TrimSuffix(file, ".sh") + ".out"
	if err := os.WriteFile(file, []byte(b.Text), 0o644); err != nil {
		return "", err.Error()
	}
	line := fmt.Sprintf(". %s </dev/null >%s 2>&1 3>&-\necho 0 >&3\n", file, out)
	if b.Fails || b.Again {
		line = fmt.Sprintf("set +e\n(set -e; . %s) </dev/null >%s 2>&1 3>&-\necho $? >&3\nset -e\n", file, out)
	}
	if _, err := io.WriteString(w.stdin, line); err != nil {
		return "", err.Error()
	}
	buf := make([]byte, 16)
	n, _ := w.done.Read(buf)
	data, err := os.ReadFile(out)
	if err != nil {
		return "", err.Error()
	}
	return strings.TrimSpace(string(buf[:n])), string(data)
}

// journals is the end of what the services said.
func (w *world) journals() string {
	var b strings.Builder
	for _, u := range []string{"crio", "kubelet"} {
		if out, err := exec.Command("journalctl", "--no-pager", "-n", "40", "-u", u).Output(); err == nil {
			fmt.Fprintf(&b, "--- %s:\n%s", u, out)
		}
	}
	return b.String()
}
