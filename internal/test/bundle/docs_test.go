package bundle

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command of docs/installation.md does what the text says, in its order, on a
// machine whose folders are elsewhere and whose systemctl only notes what it is told.
func TestInstallationGuide(t *testing.T) {
	for _, tool := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("this machine lacks %s", tool)
		}
	}
	r := newRig(t)
	r.release("v1")
	before := tree(t, r.file(""))
	script, err := os.ReadFile(filepath.Join(root, "scripts/get"))
	if err != nil {
		t.Fatal(err)
	}
	r.mkdir("home/scripts", "tools")
	for name, text := range map[string]string{"site/get": string(script), "home/scripts/get": string(script), "tools/systemctl": "#!/bin/sh\necho \"$@\" >>" + r.dir + "/told\n"} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, "docs/installation.md"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("https://raw.githubusercontent.com/monocrio/monocrio/main/scripts/get", r.url+"/get", "/usr/local/", r.file("usr")+"/",
		"/etc/", r.file("etc")+"/", "amd64", r.arch, "TAG", "v2")
	_, real := realBundle(t)
	if err := os.Symlink(filepath.Join(real, "bin/monocrio"), filepath.Join(r.dir, "tools/crio")); err != nil {
		t.Fatal(err)
	}
	r.path = filepath.Join(r.dir, "tools") + ":" + r.path
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	after := map[string]func(){
		"get | sh\n": func() {
			if v := r.version(); v != "v1" {
				t.Errorf("installed is %s", v)
			}
			r.release("v2")
		},
		"cp ": func() {
			r.read("etc/cni/net.d/10-crio-bridge.conflist")
			os.Remove(r.file("etc/cni/net.d/10-crio-bridge.conflist"))
		},
		"--verify":  func() { r.version() },
		"-t TAG":    func() { r.release("v3"); r.get() },
		"rollback":  func() { r.version() },
		"uninstall": func() { r.same("uninstall", before) },
	}
	for _, b := range blocks {
		cmd := exec.Command("sh", "-euc", here.Replace(b[1]))
		cmd.Env, cmd.Dir = r.env(), filepath.Join(r.dir, "home")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", b[1], err, out)
		}
		for mark, f := range after {
			if strings.Contains(b[1], mark) {
				f()
				delete(after, mark)
			}
		}
	}
	for mark := range after {
		t.Errorf("the guide has no command with %q", mark)
	}
	told, err := os.ReadFile(filepath.Join(r.dir, "told"))
	if err != nil || !strings.Contains(string(told), "enable --now crio") {
		t.Errorf("systemctl was told %q, %v", told, err)
	}
}
