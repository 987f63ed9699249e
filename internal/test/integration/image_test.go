package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/registry"
	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// add puts an image of random data into the world's registry, one layer per size,
// and returns its name.
func add(t *testing.T, w *world.World, name string, sizes ...int) string {
	t.Helper()
	img := registry.Image{Compress: registry.Gzip}
	for i, n := range sizes {
		data := make([]byte, n)
		rand.NewChaCha8([32]byte{byte(i), byte(n), byte(n >> 8), byte(len(name))}).Read(data)
		img.Layers = append(img.Layers, map[string]registry.File{fmt.Sprintf("f%d", i): {Data: data}})
	}
	if _, err := w.Registry.Add(name, "v1", img); err != nil {
		t.Fatal(err)
	}
	return w.Addr + "/" + name + ":v1"
}

func spec(ref string) *cri.ImageSpec { return &cri.ImageSpec{Image: ref} }

func pullImage(w *world.World, ref string) (string, error) {
	r, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(ref)})
	return r.GetImageRef(), err
}

func images(t *testing.T, w *world.World) []*cri.Image {
	t.Helper()
	r, err := w.Images.ListImages(w.Ctx(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetImages()
}

// noPull checks that no file of a pull is left.
func noPull(t *testing.T, w *world.World, root string) {
	t.Helper()
	w.Eventually("no temporary files are left", func() bool {
		for _, dir := range []string{"monocrio-pulls", "overlay/tempdirs", "overlay-layers/tmp"} {
			if e, _ := os.ReadDir(filepath.Join(root, dir)); len(e) > 0 {
				return false
			}
		}
		return true
	})
}

func TestImageVerbs(t *testing.T) {
	w := world.New(t, world.Options{})
	id := w.Pull()
	for _, ref := range []string{w.Image, id, "sha256:" + id, id[:13]} {
		r, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: spec(ref), Verbose: true})
		if err != nil || r.GetImage().GetId() != id || r.GetImage().GetRepoTags()[0] != w.Image || !strings.Contains(r.GetInfo()["info"], "FROM=image") {
			t.Errorf("%s: %v, %v", ref, r, err)
		}
		l, err := w.Images.ListImages(w.Ctx(), &cri.ListImagesRequest{Filter: &cri.ImageFilter{Image: spec(ref)}})
		if err != nil || len(l.GetImages()) != 1 {
			t.Errorf("%s: %v, %v", ref, l, err)
		}
	}
	fs, err := w.Images.ImageFsInfo(w.Ctx(), &cri.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	i := fs.GetImageFilesystems()[0]
	if _, err := os.Stat(i.GetFsId().GetMountpoint()); err != nil || i.GetUsedBytes().GetValue() < 100_000 || i.GetInodesUsed().GetValue() < 10 || i.GetTimestamp() == 0 {
		t.Errorf("%v, %v", i, err)
	}

	pod := w.Pod("img", nil)
	ctr := w.Create(pod, "user", "sleep 1000", nil)
	_, err = w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(w.Image)})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), ctr) {
		t.Errorf("removing what a container uses: %v", err)
	}
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: ctr}); err != nil {
		t.Fatal(err)
	}
	absent := strings.Repeat("ab", 32)
	for _, ref := range []string{id, id, w.Image, absent, w.Addr + "/absent:1"} { // absence is success
		if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(ref)}); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		if r, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: spec(ref)}); err != nil || r.GetImage() != nil {
			t.Errorf("%s: %v, %v", ref, r, err)
		}
	}
	if l := images(t, w); len(l) != 0 {
		t.Errorf("%v", l)
	}
	c := w.CtrConfig("none", "true")
	c.Image.Image = absent
	if _, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: w.PodConfig("img")}); status.Code(err) != codes.NotFound {
		t.Errorf("a container of an absent image: %v", err)
	}
	for _, ref := range []string{"", "UPPER", "a b", "a/../b", "oci:/etc"} {
		_, err := pullImage(w, ref)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("pulling %q: %v", ref, err)
		}
		if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(ref)}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("removing %q: %v", ref, err)
		}
	}
}

func TestPullErrorCodes(t *testing.T) {
	w := world.New(t, world.Options{})
	ref := add(t, w, "faulty", 100_000)
	for _, c := range []struct {
		name   string
		faults registry.Faults
		ref    string
		code   codes.Code
		prefix string
	}{
		{"503", registry.Faults{Unavailable: true}, ref, codes.Unavailable, "RegistryUnavailable: cannot pull " + ref},
		{"cut", registry.Faults{CutBlobs: true}, ref, codes.Unavailable, "RegistryUnavailable: cannot pull " + ref},
		{"garbage", registry.Faults{Garbage: true}, ref, codes.Unavailable, "cannot pull " + ref},
		{"absent", registry.Faults{}, w.Addr + "/faulty:v2", codes.NotFound, "cannot pull"},
		{"nobody", registry.Faults{}, "127.0.0.1:1/x:1", codes.Unavailable, "RegistryUnavailable: cannot pull 127.0.0.1:1/x:1"},
	} {
		w.Registry.SetFaults(c.faults)
		_, err := pullImage(w, c.ref)
		if s, _ := status.FromError(err); s.Code() != c.code || !strings.HasPrefix(s.Message(), c.prefix) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	w.Registry.SetFaults(registry.Faults{})
	w.Registry.SetLogin("me", "secret", "")
	_, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(ref), Auth: &cri.AuthConfig{Username: "me", Password: "guess"}})
	if status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "guess") {
		t.Errorf("wrong password: %v", err)
	}
	if l := images(t, w); len(l) != 0 {
		t.Errorf("left by failures: %v", l)
	}
	noPull(t, w, filepath.Join(w.Dir, "root"))
	if _, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: spec(ref), Auth: &cri.AuthConfig{Username: "me", Password: "secret"}}); err != nil {
		t.Error(err)
	}
	if strings.Contains(w.Log(), "secret") {
		t.Error("a password is in the log")
	}
}

// Options: crio.image.signature_policy
func TestPolicyRejects(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	path := filepath.Join(w.Dir, "policy.json")
	conf, err := os.ReadFile(w.Conf)
	if err == nil {
		err = os.WriteFile(w.Conf, []byte(strings.Replace(string(conf), "[crio.image]", fmt.Sprintf("[crio.image]\nsignature_policy = %q", path), 1)), 0o600)
	}
	if err == nil {
		err = os.WriteFile(path, []byte(`{"default": [{"type": "reject"}]}`), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Start()
	_, err = pullImage(w, w.Image)
	if s, _ := status.FromError(err); s.Code() != codes.PermissionDenied || !strings.HasPrefix(s.Message(), "SignatureValidationFailed: cannot pull "+w.Image) {
		t.Errorf("%v", err)
	}
}

// The daemon dies at any moment of a pull: the next one lists nothing partial, has
// nothing in the way and pulls the same image.
func TestKilledDuringPull(t *testing.T) {
	w := world.New(t, world.Options{})
	root := filepath.Join(w.Dir, "root")
	ref := add(t, w, "killed", 3<<20, 3<<20, 3<<20)
	w.Registry.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 1000})
	for i := range 6 {
		done := make(chan error, 1)
		go func() {
			_, err := pullImage(w, ref)
			done <- err
		}()
		if i == 0 { // in the middle of the transfers
			w.Eventually("the pull is in the middle", func() bool {
				e, _ := filepath.Glob(filepath.Join(root, "monocrio-pulls/*/*"))
				return len(e) > 2
			})
		} else {
			time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		}
		w.Kill()
		<-done
		w.Registry.SetFaults(registry.Faults{})
		w.Start()
		for _, i := range images(t, w) {
			if r, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: spec(i.GetId())}); err != nil || r.GetImage() == nil || i.GetSize() < 9<<20 {
				t.Errorf("an image is listed in part: %v, %v", i, err)
			}
		}
		noPull(t, w, root)
		if _, err := pullImage(w, ref); err != nil {
			t.Fatal(err)
		}
		if l := images(t, w); len(l) != 1 || l[0].GetSize() < 9<<20 {
			t.Fatalf("after the pull: %v", l)
		}
		if _, err := w.Images.RemoveImage(w.Ctx(), &cri.RemoveImageRequest{Image: spec(ref)}); err != nil {
			t.Fatal(err)
		}
	}
}

// The daemon's end does not wait for a pull, and leaves nothing of it.
func TestStopDuringPull(t *testing.T) {
	w := world.New(t, world.Options{})
	ref := add(t, w, "stopped", 3<<20)
	w.Registry.SetFaults(registry.Faults{Stall: time.Hour, BlobsOver: 1000})
	done := make(chan error, 1)
	go func() {
		_, err := pullImage(w, ref)
		done <- err
	}()
	w.Eventually("the pull is in the middle", func() bool {
		e, _ := filepath.Glob(filepath.Join(w.Dir, "root/monocrio-pulls/*/*"))
		return len(e) > 0
	})
	w.Stop()
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	noPull(t, w, filepath.Join(w.Dir, "root"))
	w.Registry.SetFaults(registry.Faults{})
	w.Start()
	if _, err := pullImage(w, ref); err != nil {
		t.Error(err)
	}
}

// A disk that is full: pulls say so, running containers and other images are not
// hurt, and after a removal all is well.
func TestPullOntoFullDisk(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	root := filepath.Join(w.Dir, "root")
	if err := os.MkdirAll(root, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("needs a tmpfs: ", err)
	}
	t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
	w.Start()
	w.Pull()
	pod := w.Pod("full", nil)
	ctr := w.Ctr(pod, "main", "sleep 1000", nil)
	big := add(t, w, "big", 2<<20, 30<<20)
	for range 2 {
		_, err := pullImage(w, big)
		if s, _ := status.FromError(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), "full") || !strings.Contains(s.Message(), big) {
			t.Errorf("%v", err)
		}
		noPull(t, w, root)
	}
	if out, code := w.Exec(ctr, "echo well > /f; cat /f"); out != "well" || code != 0 {
		t.Errorf("the container: %q, %d", out, code)
	}
	if l := images(t, w); len(l) != 1 {
		t.Errorf("%v", l)
	}
	if _, err := pullImage(w, add(t, w, "small", 1<<20)); err != nil {
		t.Error(err)
	}
}

// A call that is given up does not end the pull; nothing else waits for it; and the
// daemon gives its memory back.
func TestPullInTheBackground(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	before := rss(t, w)
	ref := add(t, w, "slow", 40<<20)
	w.Registry.SetFaults(registry.Faults{Stall: 2 * time.Second, BlobsOver: 1000})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := w.Images.PullImage(ctx, &cri.PullImageRequest{Image: spec(ref)}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a call with a deadline: %v", err)
	}
	if l := images(t, w); len(l) != 1 {
		t.Errorf("%v", l)
	}
	pod := w.Pod("meanwhile", nil)
	w.Ctr(pod, "main", "sleep 1000", nil)
	w.Eventually("the pull ends by itself", func() bool { return len(images(t, w)) == 2 })
	w.Eventually("its memory is given back", func() bool { return rss(t, w) < before+24<<20 })
}

func rss(t *testing.T, w *world.World) (bytes int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.Pid()))
	var size int
	if err == nil {
		_, err = fmt.Sscan(string(data), &size, &bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	return bytes * os.Getpagesize()
}

// The root user of a pod's user namespace is nobody on the host, its files are its
// own, and it gets through to its root file system.
func TestUserNamespacePod(t *testing.T) {
	w := world.New(t, world.Options{})
	if err := os.Chmod(w.Dir, 0o711); err != nil { // as the folders above a store must be
		t.Fatal(err)
	}
	w.Pull()
	ids := []*cri.IDMapping{{ContainerId: 0, HostId: 200_000, Length: 65536}}
	userns := &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
	pod := w.Pod("userns", func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns })
	out, st := w.Output(pod, "id", "id -u; cat /proc/self/uid_map; touch /new && stat -c %u /bin/busybox /new", func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns
	})
	if f := strings.Fields(out); st.GetExitCode() != 0 || len(f) != 6 || f[0] != "0" || f[2] != "200000" || f[4] != "0" || f[5] != "0" {
		t.Errorf("code %d: %q", st.GetExitCode(), out)
	}
}

// Pulls for a pod are charged to its cgroup, by a process that ends with the daemon.
//
// Options: crio.runtime.separate_pull_cgroup
func TestPullInCgroupOfPod(t *testing.T) {
	w := world.New(t, world.Options{Extra: "[crio.runtime]\nseparate_pull_cgroup = \"pod\"\ncgroup_manager = \"cgroupfs\"\n"})
	parent := fmt.Sprintf("/mtest-pull-%d", os.Getpid())
	w.AtEnd(func() { removeCgroup(t, parent) })
	sandbox := &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{CgroupParent: parent}}
	pull := func() (string, error) {
		r, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Image}, SandboxConfig: sandbox})
		return r.GetImageRef(), err
	}
	pullers := func() (pids []string) {
		for _, dir := range findCgroups(t, "crio-pull-*") {
			data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			pids = append(pids, strings.Fields(string(data))...)
		}
		return pids
	}
	w.Registry.SetFaults(registry.Faults{Stall: time.Minute})
	failed := make(chan error, 1)
	go func() { _, err := pull(); failed <- err }()
	w.Eventually("a process pulls in the pod's cgroup", func() bool { return len(pullers()) > 0 })
	w.Kill()
	if err := <-failed; err == nil {
		t.Error("the call outlived the daemon")
	}
	w.Eventually("the process ended with the daemon", func() bool { return len(pullers()) == 0 })
	w.Registry.SetFaults(registry.Faults{})
	w.Start()
	id, err := pull()
	if err != nil {
		t.Fatal(err)
	}
	if own := w.Pull(); own != id { // without a pod: by the daemon itself
		t.Errorf("two ways of pulling find %s and %s", id, own)
	}
	pod := w.Pod("pulled", nil)
	runCases(t, w, pod, []specCase{{"main", "echo $FROM", "image", nil}})
	w.Registry.SetFaults(registry.Faults{Unavailable: true})
	absent := &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Addr + "/test/absent:1"}, SandboxConfig: sandbox}
	_, inside := w.Images.PullImage(w.Ctx(), absent)
	absent.SandboxConfig = nil
	_, own := w.Images.PullImage(w.Ctx(), absent)
	if inside == nil || own == nil || status.Code(inside) != status.Code(own) || !strings.Contains(inside.Error(), "RegistryUnavailable") {
		t.Errorf("failures differ: %v; %v", inside, own)
	}
	names := map[string]bool{}
	for _, dir := range findCgroups(t, "crio-pull-*") {
		names[filepath.Base(dir)] = true
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if len(names) > 1 { // that of the killed daemon goes with its pod's
		t.Errorf("cgroups stay: %v", names)
	}
}

func TestPullInSlice(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("needs systemd")
	}
	w := world.New(t, world.Options{Extra: "[crio.runtime]\nseparate_pull_cgroup = \"mtestpulls.slice\"\ncgroup_manager = \"systemd\"\n"})
	w.Registry.SetFaults(registry.Faults{Stall: 2 * time.Second})
	pulled := make(chan error, 1)
	go func() {
		_, err := w.Images.PullImage(w.Ctx(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: w.Image}})
		pulled <- err
	}()
	w.Eventually("a process pulls in the slice", func() bool { return len(findCgroups(t, "crio-pull-*.scope")) > 0 })
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	w.Eventually("its scope is gone", func() bool { return len(findCgroups(t, "crio-pull-*.scope")) == 0 })
}
