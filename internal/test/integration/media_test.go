package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// media is crio-status media.
type media struct {
	Problem string
	Media   []struct {
		Path, State, Error string
		Images             []struct {
			Names     []string
			ID, State string
		}
	}
}

func mediaOf(t *testing.T, w *world.World) (m media) {
	t.Helper()
	out, said, code := w.Run("crio-status", "--socket", w.Socket, "media", "--json")
	if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 {
		t.Fatal(err, code, said)
	}
	return m
}

func mediaReady(t *testing.T, w *world.World, n int) {
	t.Helper()
	w.Eventually("all media are imported", func() bool {
		m := mediaOf(t, w)
		for _, f := range m.Media {
			if f.State != "ready" {
				return false
			}
		}
		return len(m.Media) == n
	})
}

// old makes a file one that was not written just now.
func old(t *testing.T, path string) {
	t.Helper()
	then := time.Now().Add(-time.Hour)
	for _, p := range []string{path, filepath.Join(path, "index.json")} {
		if err := os.Chtimes(p, then, then); err != nil && p == path {
			t.Fatal(err)
		}
	}
}

// TestImagesDir: a node without a registry runs pods from a folder of images, which are
// imported once, pinned, shown, and come back if somebody removes them.
// Options: crio.image.images_dir, crio.image.offline
func TestImagesDir(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	dir := filepath.Join(w.Dir, "images")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const name = "registry.example.org/base/busybox:1"
	files, err := w.Registry.Layout(map[string]string{name: strings.TrimPrefix(w.Image, w.Addr+"/")})
	if err == nil {
		err = registry.WriteFolder(filepath.Join(dir, "busybox"), files)
	}
	if err != nil {
		t.Fatal(err)
	}
	old(t, filepath.Join(dir, "busybox"))
	w.SetConf(strings.Replace(w.ConfText(), "[crio.image]", "[crio.image]\nimages_dir = \""+dir+"\"\noffline = true", 1))
	w.Start()
	id, err := pullImage(w, name) // as the kubelet: at once, and for imagePullPolicy Always
	if err != nil {
		t.Fatal(err)
	}
	if all := images(t, w); len(all) != 1 || !all[0].GetPinned() || all[0].GetId() != id {
		t.Errorf("%v", all)
	}
	_, err = pullImage(w, w.Image)
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "this node is offline") || !strings.Contains(err.Error(), w.Image) {
		t.Errorf("%v", err)
	}
	text, st := w.Output(w.Pod("p", nil), "c", "echo runs", func(c *cri.ContainerConfig) { c.Image = &cri.ImageSpec{Image: name} })
	if st.GetExitCode() != 0 || !strings.Contains(text, "runs") {
		t.Errorf("%q, %v", text, st)
	}
	if n := w.Registry.Manifests.Load(); n != 0 {
		t.Errorf("the registry was asked %d times", n)
	}
	imagesDirRestart(t, w, name, id)
	imagesDirAtWork(t, w, dir)
}

func imagesDirRestart(t *testing.T, w *world.World, name, id string) {
	t.Helper()
	w.Restart()
	if all := images(t, w); len(all) != 1 || !all[0].GetPinned() {
		t.Errorf("%v", all)
	}
	mediaReady(t, w, 1)
	if strings.Count(w.Log(), "imported") != 1 {
		t.Error("it was not imported once")
	}
	pods, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.GetItems() {
		if _, err := w.StopPodSandbox(w.Ctx(), &cri.StopPodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
			t.Error(err)
		}
		if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(name)}); err != nil {
		t.Error(err)
	}
	if again, err := pullImage(w, name); err != nil || again != id {
		t.Errorf("%s, %v", again, err)
	}
}

// imagesDirAtWork: files come and go, and the options change, while the daemon runs.
func imagesDirAtWork(t *testing.T, w *world.World, dir string) {
	t.Helper()
	add(t, w, "late", 100000)
	files, err := w.Registry.DockerArchive(map[string]string{"registry.example.org/late:v1": "late:v1"})
	if err == nil {
		err = registry.WriteTar(filepath.Join(dir, "late.tar.gz"), files, registry.Gzip)
	}
	if err == nil {
		err = registry.WriteTar(filepath.Join(dir, "zz.tar"), map[string][]byte{"notes": nil}, registry.None)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Eventually("what comes late is imported, what is none is refused", func() bool {
		m := mediaOf(t, w).Media
		return len(m) == 3 && m[1].State == "ready" && m[2].State == "failed"
	})
	if all := images(t, w); len(all) != 2 || slices.ContainsFunc(all, func(i *cri.Image) bool { return !i.GetPinned() }) {
		t.Errorf("%v", all)
	}
	out, _, _ := w.Run("crio-status", "--socket", w.Socket, "media")
	for _, want := range []string{"ready", "busybox", "registry.example.org/late:v1", "failed", "zz.tar (next try when it changes): cannot read", "neither index.json nor manifest.json"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out, _, code := w.Run("crio", "-c", w.Conf, "check")
	if code == 0 || !strings.Contains(out, "neither index.json nor manifest.json") {
		t.Errorf("crio check: %d\n%s", code, out)
	}
	if err := os.Remove(filepath.Join(dir, "zz.tar")); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := w.Run("crio", "-c", w.Conf, "check"); !strings.Contains(out, "files: 1, images in them: 1; compressed, and not read: 1") {
		t.Errorf("crio check:\n%s", out)
	}
	if err := os.Remove(filepath.Join(dir, "late.tar.gz")); err != nil {
		t.Fatal(err)
	}
	w.Eventually("the pin goes with the file", func() bool {
		return slices.ContainsFunc(images(t, w), func(i *cri.Image) bool { return !i.GetPinned() })
	})
	w.SetConf(strings.Replace(w.ConfText(), "offline = true", "offline = false", 1))
	w.Eventually("the registry may be asked again", func() bool { _, err := pullImage(w, w.Image); return err == nil })
}

// TestImagesDirKilled: a daemon that is killed while it imports leaves nothing that its
// successor does not finish or remove.
func TestImagesDirKilled(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	dir := filepath.Join(w.Dir, "images")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n, c := range map[string]registry.Compression{"plain": registry.None, "packed": registry.Gzip} {
		add(t, w, n, 4<<20, 4<<20, 4<<20)
		files, err := w.Registry.Layout(map[string]string{"registry.example.org/" + n + ":v1": n + ":v1"})
		path := filepath.Join(dir, n+".tar.gz") // the content tells, not the name
		if err == nil {
			err = registry.WriteTar(path, files, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		old(t, path)
	}
	w.SetConf(strings.Replace(w.ConfText(), "[crio.image]", "[crio.image]\nimages_dir = \""+dir+"\"", 1))
	for n := range 4 {
		w.Start()
		w.Eventually("an import is under way", func() bool {
			for _, m := range mediaOf(t, w).Media {
				if m.State != "waiting" {
					return true
				}
			}
			return false
		})
		time.Sleep(time.Duration(n) * 20 * time.Millisecond) // another point each time
		w.Kill()
	}
	w.Start()
	mediaReady(t, w, 2)
	if all := images(t, w); len(all) != 2 {
		t.Errorf("%v", all)
	}
	noPull(t, w, filepath.Join(w.Dir, "root"))
	if out, _, code := w.Run("crio", "-c", w.Conf, "check"); code != 0 {
		t.Errorf("crio check:\n%s", out)
	}
}
