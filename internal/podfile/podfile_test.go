package podfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "web")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadPod(t *testing.T) {
	p, err := ReadPod(folder(t, map[string]string{
		"pod.json": `{"labels": {"a": "b"}, "metadata": {"namespace": "shop"}}`,
		"b.json":   `{"image": {"image": "x"}, "envs": [{"key": "K", "value": "text"}]}`,
		"a.json":   `{"image": {"image": "y"}, "metadata": {"name": "first"}, "logPath": "own.log"}`,
		"README":   "not read",
	}), "/logs")
	if err != nil {
		t.Fatal(err)
	}
	m := p.Config.GetMetadata()
	if m.GetName() != "web" || m.GetNamespace() != "shop" || m.GetUid() != "shop-web" || p.Config.GetHostname() != "web" ||
		p.Config.GetLogDirectory() != "/logs/shop_web" || p.Config.GetLabels()["a"] != "b" {
		t.Errorf("the pod is %v", p.Config)
	}
	if len(p.Containers) != 2 {
		t.Fatalf("containers: %v", p.Containers)
	}
	a, b := p.Containers[0], p.Containers[1]
	if a.GetMetadata().GetName() != "first" || a.GetLogPath() != "own.log" || b.GetMetadata().GetName() != "b" || b.GetLogPath() != "b.log" || string(b.GetEnvs()[0].GetValue()) != "text" {
		t.Errorf("the containers are %v, %v", a, b)
	}
}

func TestReadPodRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "a.json: it names no image", "{\n\n]": "a.json: line 3", `{"image": {"image": "x"}, "colour": 1}`: "colour",
	} {
		if _, err := ReadPod(folder(t, map[string]string{"a.json": text}), "/logs"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
	if _, err := ReadPod(folder(t, map[string]string{"pod.json": "{}"}), "/logs"); err == nil || !strings.Contains(err.Error(), "no container") {
		t.Error(err)
	}
}

func TestOnNode(t *testing.T) {
	p := OnNode("run", "localhost/x:1", "/logs")
	c := p.Containers[0]
	if p.Config.GetHostname() != "" || p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != cri.NamespaceMode_NODE ||
		c.GetImage().GetImage() != "localhost/x:1" || c.GetLinux().GetSecurityContext().GetSeccomp().GetProfileType() != cri.SecurityProfile_RuntimeDefault || len(c.GetCommand()) > 0 {
		t.Errorf("%v, %v", p.Config, c)
	}
}
