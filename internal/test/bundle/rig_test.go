// Package bundle tests what people install by: scripts/bundle, scripts/get, and the
// bundle's own install, uninstall and rollback.
package bundle

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

const root = "../../.."

var made struct {
	sync.Once
	dir string // the folder in which the tarball was made and unpacked
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if made.dir != "" {
		os.RemoveAll(made.dir)
	}
	os.Exit(code)
}

// makeBundle runs scripts/bundle with the executable of the test run.
func makeBundle(out string, env ...string) (string, error) {
	script, err := filepath.Abs(filepath.Join(root, "scripts/bundle"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("bash", "-c", `umask "${TEST_UMASK:-022}" && exec "$@"`, "sh", script, "-o", out, "-b", os.Getenv("MONOCRIO_BIN"), "-r", "v1")
	cmd.Env = append(os.Environ(), append([]string{"MONOCRIO_COMMIT_DATE=2026-01-02T03:04:05Z"}, env...)...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("scripts/bundle: %w\n%s", err, text)
	}
	files, err := filepath.Glob(filepath.Join(out, "monocrio.*.v1.tar.gz"))
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("scripts/bundle made %v", files)
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// real is the folder with one real bundle, and its tree unpacked.
func realBundle(t *testing.T) (tarball, tree string) {
	t.Helper()
	if os.Getenv("MONOCRIO_BIN") == "" {
		t.Skip("MONOCRIO_BIN names no executable to bundle")
	}
	made.Do(func() {
		if made.dir, made.err = os.MkdirTemp("", "monocrio-bundle-test-"); made.err != nil {
			return
		}
		var file string
		if file, made.err = makeBundle(made.dir); made.err != nil {
			return
		}
		if out, err := exec.Command("tar", "-xzf", file, "-C", made.dir).CombinedOutput(); err != nil {
			made.err = fmt.Errorf("cannot unpack it: %w\n%s", err, out)
		}
	})
	if made.err != nil {
		t.Fatal(made.err)
	}
	files, _ := filepath.Glob(filepath.Join(made.dir, "*.tar.gz"))
	return files[0], filepath.Join(made.dir, "monocrio")
}

// rig is a machine's folders, and a web server with releases.
type rig struct {
	t     *testing.T
	dir   string // of everything
	site  string
	arch  string
	path  string // PATH of what is run
	shell string // the shell that runs it
	url   string
	extra []string // of the environment
	cut   bool     // the server ends in the middle of a tarball
}

func newRig(t *testing.T) *rig {
	t.Helper()
	tarball, _ := realBundle(t)
	r := &rig{t: t, dir: t.TempDir(), path: os.Getenv("PATH"), shell: "sh", arch: strings.Split(filepath.Base(tarball), ".")[1]}
	r.site = filepath.Join(r.dir, "site")
	r.mkdir("site/latest/download", "site/download", "machine/etc", "tmp")
	if err := os.Chmod(filepath.Join(r.dir, "tmp"), 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if data, err := os.ReadFile(filepath.Join(r.site, q.URL.Path)); err == nil && r.cut && strings.HasSuffix(q.URL.Path, ".gz") {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Write(data[:len(data)/2])
			panic(http.ErrAbortHandler)
		}
		http.FileServer(http.Dir(r.site)).ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

func (r *rig) mkdir(dirs ...string) {
	r.t.Helper()
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
}

// file is a path on the machine.
func (r *rig) file(path string) string { return filepath.Join(r.dir, "machine", path) }

func (r *rig) write(path, text string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.file(path)), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.file(path), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(r.file(path))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

// sh runs a line of shell and must succeed.
func (r *rig) sh(line string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("sh", append([]string{"-euc", line, "sh"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// release publishes a small bundle: the real one's files without the licences, and a
// script in the executable's place that says which version it is. change may alter the
// tree first.
func (r *rig) release(rev string, change ...string) string {
	r.t.Helper()
	_, tree := realBundle(r.t)
	name := "monocrio." + r.arch + "." + rev + ".tar.gz"
	r.sh(`tree=$1 rev=$2 site=$3 name=$4 work=$5; shift 5
		rm -rf "$work"; mkdir -p "$work/monocrio" "$site/download/$rev"
		(cd "$tree" && tar -cf - --exclude ./licences --exclude ./bin/monocrio .) | tar -xf - -C "$work/monocrio"
		cd "$work/monocrio"
		echo "$rev" >VERSION
		printf '#!/bin/sh\necho %s\n' "$rev" >bin/monocrio
		chmod 755 bin/monocrio
		for c in "$@"; do eval "$c"; done
		find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >../sums && mv ../sums SHA256SUMS
		cd "$site/download/$rev"
		tar -C "$work" -czf "$name" monocrio
		sha256sum "$name" >"$name.sha256sum"
		echo "$rev" >VERSION; cp VERSION "$site/latest/download/"`,
		append([]string{tree, rev, r.site, name, filepath.Join(r.dir, "work")}, change...)...)
	return filepath.Join(r.site, "download", rev, name)
}

func (r *rig) env() []string {
	return append([]string{"PATH=" + r.path, "TMPDIR=" + filepath.Join(r.dir, "tmp"), "MONOCRIO_BASE_URL=" + r.url,
		"PREFIX=" + r.file("usr"), "ETCDIR=" + r.file("etc"), "OPT_CNI_BIN_DIR=" + r.file("opt/cni/bin")}, r.extra...)
}

// run runs a script and returns what it says and its status.
func (r *rig) run(as *syscall.Credential, script string, args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command(r.shell, append([]string{script}, args...)...)
	cmd.Env = r.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// get runs scripts/get, which must succeed.
func (r *rig) get(args ...string) string {
	r.t.Helper()
	out, code := r.run(nil, filepath.Join(root, "scripts/get"), args...)
	if code != 0 {
		r.t.Fatalf("get %v: status %d: %s", args, code, out)
	}
	return out
}

// installed runs rollback or uninstall of what is installed.
func (r *rig) installed(script string) string {
	r.t.Helper()
	out, code := r.run(nil, r.file("usr/lib/monocrio/current/"+script))
	if code != 0 {
		r.t.Fatalf("%s: status %d: %s", script, code, out)
	}
	return out
}

// version runs the command that people call.
func (r *rig) version() string {
	r.t.Helper()
	out, err := exec.Command(r.file("usr/bin/crio")).CombinedOutput()
	if err != nil {
		r.t.Fatalf("crio: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// tree tells every file below a folder: its kind, mode and content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		what := fi.Mode().String()
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " " + to
		case fi.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// same compares the machine with what it was.
func (r *rig) same(what string, before map[string]string) {
	r.t.Helper()
	now := tree(r.t, r.file(""))
	for p, w := range now {
		if before[p] != w {
			r.t.Errorf("%s: %s is now %q, was %q", what, p, w, before[p])
		}
	}
	for p := range before {
		if _, ok := now[p]; !ok {
			r.t.Errorf("%s: %s is gone", what, p)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(r.dir, "tmp")); len(left) > 0 {
		r.t.Errorf("%s: left in the folder for temporary files: %v", what, left)
	}
}

// tools are all that scripts/get and install may use.
func tools() []string {
	return []string{"curl", "wget", "tar", "gzip", "sha256sum", "sh", "uname", "mkdir", "rm", "rmdir", "cp", "ln", "ls", "mv", "cat"}
}

// busybox makes a PATH in which all is busybox, which has no curl.
func (r *rig) busybox() {
	r.t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		r.t.Skip("this machine lacks busybox")
	}
	r.path = filepath.Join(r.dir, "tools-of-busybox")
	r.shell = filepath.Join(r.path, "sh")
	r.mkdir("tools-of-busybox")
	for _, n := range tools()[1:] {
		if err := os.Symlink(path, filepath.Join(r.path, n)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// killing makes a PATH whose tools count their calls, and kill the shell whose process
// is in the file "pid" before the n-th.
func (r *rig) killing(n int) {
	r.t.Helper()
	r.mkdir("tools-that-kill")
	dir := filepath.Join(r.dir, "tools-that-kill")
	for _, tool := range []string{"mkdir", "rm", "rmdir", "cp", "ln", "mv", "sha256sum"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			r.t.Fatal(err)
		}
		text := fmt.Sprintf("#!/bin/sh\nread -r n <%[1]s/count\nn=$((n + 1))\necho $n >%[1]s/count\nif [ $n -ge %[2]d ]; then read -r p <%[1]s/pid; kill -9 $p; exit 1; fi\nexec %[3]s \"$@\"\n", r.dir, n, path)
		if err := os.WriteFile(filepath.Join(dir, tool), []byte(text), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(r.dir, "count"), []byte("0\n"), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// without makes a PATH in which a tool is missing.
func (r *rig) without(tool string) {
	r.t.Helper()
	dir := "tools-without-" + tool
	r.mkdir(dir)
	for _, n := range tools() {
		if path, err := exec.LookPath(n); err == nil && n != tool {
			if err := os.Symlink(path, filepath.Join(r.dir, dir, n)); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	r.path = filepath.Join(r.dir, dir)
}
