package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

const template = `{"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "first": "{{PodCIDR}}",
  "ipam": {"type": "host-local", "ranges": "{{PodCIDRRanges}}", "routes": "{{Routes}}"}}]}`

func TestPodCIDR(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "template")
	if err := os.WriteFile(file, []byte(template), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := New(Options{ConfDir: filepath.Join(dir, "net.d"), CacheDir: dir, Template: file, Plugins: Embedded()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	out := filepath.Join(dir, "net.d", TemplateFile)
	for _, none := range []string{"", " , "} {
		if err := n.SetPodCIDR(none); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q made a file", none)
		}
	}
	if err := n.SetPodCIDR("10.1.2.3/24"); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPodCIDR("10.1.2.0/24, fd00:1::/64"); err != nil {
		t.Fatal(err)
	}
	c, err := loadFile(out, n.opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"first":"10.1.2.0/24"`, `"ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1::/64"}]]`, `"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]`} {
		if !strings.Contains(string(c.List), want) {
			t.Errorf("%s is not in %s", want, c.List)
		}
	}
	before, _ := os.Stat(out)
	if err := n.SetPodCIDR("10.1.2.0/24,fd00:1::/64"); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(out); !os.SameFile(before, after) {
		t.Error("the same ranges wrote the file anew: its watchers would load it for nothing")
	}
	if err := n.SetPodCIDR("10.1.2.0"); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("no prefix: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"name": }`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.SetPodCIDR("10.1.3.0/24"); !errs.Is(err, errs.KindPrecondition) || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken template: %v", err)
	}
}
