package appliance

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The commands of docs/appliance.md make a machine that boots.
func TestGuide(t *testing.T) {
	for _, tool := range []string{"cpio", "gzip"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("this machine lacks %s", tool)
		}
	}
	m := newMachine(t)
	if os.Getenv("MONOCRIO_MODULES") == "" {
		t.Skip("MONOCRIO_MODULES names no modules to copy")
	}
	text := string(m.read(filepath.Join("../../..", "docs/appliance.md")))
	dir := t.TempDir()
	// skopeo stands for itself: it has an image of that name, and writes its layout.
	m.layout("hello", "echo hello from the guide")
	layout, err := m.images.Layout(map[string]string{"registry.example.com/hello:1": "hello:1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range layout {
		put(t, filepath.Join(dir, "layout", name), 0o644, data)
	}
	put(t, filepath.Join(dir, "tools/skopeo"), 0o755, []byte(`#!/bin/sh
[ "$*" = "copy docker://registry.example.com/hello:1 oci:root/images/hello:registry.example.com/hello:1" ] || { echo "skopeo $*" >&2; exit 1; }
exec cp -r layout root/images/hello
`))
	here := strings.NewReplacer("/usr/local/lib/monocrio/current/bin/monocrio", os.Getenv("MONOCRIO_BIN"), "/lib/modules/$(uname -r)", os.Getenv("MONOCRIO_MODULES"))
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) != 3 {
		t.Fatalf("the guide has %d blocks of commands", len(blocks))
	}
	for _, b := range blocks {
		cmd := exec.Command("sh", "-euc", here.Replace(b[1]))
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATH="+filepath.Join(dir, "tools")+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", b[1], err, out)
		}
	}
	words := regexp.MustCompile(`-append "([^"]*)"`).FindStringSubmatch(text)
	if words == nil {
		t.Fatal("the guide boots nothing")
	}
	for _, w := range strings.Fields(words[1]) {
		if strings.HasPrefix(w, "monocrio.") {
			m.append = append(m.append, w)
		}
	}
	m.initrd = filepath.Join(dir, "initramfs")
	r := m.bootAgain()
	r.shows("hello from the guide")
	r.shows("init: registry.example.com/hello:1 ended with status 0")
	r.ends()
}
