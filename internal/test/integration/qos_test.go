package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/linux/cgroup"
	"github.com/monocrio/monocrio/internal/linux/device"
	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// disk is a whole disk of the node that the kernel can throttle.
func disk(t *testing.T) (path, number string) {
	t.Helper()
	list, err := device.Find("/dev")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		number := fmt.Sprintf("%d:%d", d.Major, d.Minor)
		if _, err := os.Stat("/sys/block/" + filepath.Base(d.Path)); d.Type == "b" && err == nil {
			return d.Path, number
		}
	}
	t.Skip("this node has no disk below /dev")
	return "", ""
}

// Classes of block I/O limit containers whose annotations name them; a reload brings
// others, and one that is wrong changes nothing.
//
// Options: crio.runtime.blockio_config_file, crio.runtime.blockio_reload, crio.runtime.rdt_config_file
func TestBlockIOClasses(t *testing.T) {
	path, number := disk(t)
	w := world.New(t, world.Options{Late: true})
	file := filepath.Join(w.Dir, "blockio.yaml")
	class := func(rate int) string {
		return fmt.Sprintf("Classes:\n  slow:\n  - Devices: [%q, /dev/absent*]\n    ThrottleReadBps: %d\n", path, rate)
	}
	setFile(t, file, class(1<<20))
	base := w.ConfText() + `[crio.runtime.runtimes.runc]
allowed_annotations = ["blockio.resources.beta.kubernetes.io/", "io.kubernetes.cri.rdt-class"]
[crio.runtime]
blockio_reload = true
`
	setFile(t, w.Conf, base+fmt.Sprintf("blockio_config_file = %q\n", file))
	w.Start()
	w.Pull()
	pod := w.Pod("io", annotated("blockio.resources.beta.kubernetes.io/container.main", "slow", "blockio.resources.beta.kubernetes.io/container.wrong", "fast"))
	rate := func(ctr string) string {
		text := limit(t, w, pod, ctr, "blkio.throttle.read_bps_device", "io.max")
		if f := strings.Fields(text); len(f) > 1 && f[0] == number {
			return strings.TrimPrefix(f[1], "rbps=")
		}
		return text
	}
	main := w.Ctr(pod, "main", "sleep 1000", nil)
	other := w.Ctr(pod, "other", "sleep 1000", nil)
	if _, err := os.Stat("/sys/fs/cgroup/blkio"); err == nil || cgroup.Unified() {
		if got := rate(main); got != "1048576" {
			t.Errorf("the class's limit: %q", got)
		}
		if got := rate(other); got != "" {
			t.Errorf("a container without class: %q", got)
		}
	}
	refuse := func(name, key, value string, code codes.Code, says ...string) {
		t.Helper()
		c := w.CtrConfig(name, "true")
		p := pod
		if key != "" {
			p = w.Pod("p"+name, annotated(key, value))
		}
		_, err := w.CreateContainer(w.Ctx(), &cri.CreateContainerRequest{PodSandboxId: p, Config: c, SandboxConfig: w.PodConfig("x")})
		if status.Code(err) != code || slices.ContainsFunc(says, func(s string) bool { return !strings.Contains(err.Error(), s) }) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuse("wrong", "", "", codes.InvalidArgument, "fast", "slow")
	refuse("rdt", "io.kubernetes.cri.rdt-class", "gold", codes.FailedPrecondition, "rdt_config_file")

	at := len(w.Log())
	setFile(t, file, "Classes: {slow: [{Weight: 1}]}")
	setFile(t, w.Conf, base+fmt.Sprintf("blockio_config_file = %q\npids_limit = 99\n", file))
	logged(w, at, "the present one stays", file, "10 to 1000")
	at = len(w.Log())
	setFile(t, file, class(2<<20))
	setFile(t, w.Conf, base+fmt.Sprintf("blockio_config_file = %q\npids_limit = 98\n", file))
	logged(w, at, "configuration reloaded", "pids_limit")
	if _, err := w.RemoveContainer(w.Ctx(), &cri.RemoveContainerRequest{ContainerId: main}); err != nil {
		t.Fatal(err)
	}
	main = w.Ctr(pod, "main", "sleep 1000", nil)
	if got := rate(main); got != "2097152" && (cgroup.Unified() || got != "") {
		t.Errorf("the class's limit after a reload: %q", got)
	}
	if _, err := os.Stat("/sys/fs/resctrl/schemata"); err != nil {
		at = len(w.Log())
		rdt := filepath.Join(w.Dir, "rdt.yaml")
		setFile(t, rdt, "partitions: {x: {classes: {gold: {}}}}")
		setFile(t, w.Conf, base+fmt.Sprintf("blockio_config_file = %q\nrdt_config_file = %q\n", file, rdt))
		logged(w, at, "the present one stays", "mount -t resctrl")
		setFile(t, w.Conf, base)
	}
}
