package structure

import (
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

// floors, ground first. A package imports only packages of lower floors, its own
// folder's ancestors and what sideways allows.
var floors = []struct {
	name  string
	rooms []string
}{
	{"ground", []string{"internal/errs", "internal/ident", "internal/fsx", "internal/version/..."}},
	{"tools", []string{"internal/config", "internal/annotation", "internal/flight", "internal/record", "internal/step", "internal/manual", "internal/signature", "internal/telemetry/..."}},
	{"kernel", []string{"internal/linux/..."}},
	{"engines", []string{"internal/spec", "internal/cdi", "internal/hooks", "internal/idrange", "internal/secrets", "internal/selinux", "internal/perf", "internal/qos", "internal/checkpoint/archive", "internal/image/...", "internal/artifact", "internal/storage", "internal/oci/...", "internal/monitor/...", "internal/cni/..."}},
	{"model", []string{"internal/pod", "internal/pod/state", "internal/pod/files", "internal/pod/ending", "internal/pod/process"}},
	{"services", []string{"internal/cri", "internal/stream", "internal/stats", "internal/nri", "internal/checkpoint", "internal/check", "internal/podfile", "internal/inspect/...", "internal/puller", "internal/preload", "internal/notifier"}},
	{"daemon", []string{"internal/daemon", "internal/daemon/..."}},
	{"roof", []string{"applets/...", ".", "scripts/..."}},
}

// sideways are the imports within a floor, with the reason.
var sideways = []struct{ from, to, reason string }{
	{".", "applets/...", "main calls the table and links the start levels"},
	{"applets", "applets/...", "the table names every applet"},
	{"applets/early", "applets/conmon", "the vestibule runs the monitor"},
	{"applets/early/runc", "applets/runc", "the vestibule runs the OCI runtime"},
	{"applets/early/runc", "applets/early/initstage", "libcontainer's child may bear the runtime's name: it is recognised first"},
	{"applets/early", "applets/early/ctor", "which asks what the C start level decided"},
	{"applets/early/shimrun", "applets/shimrun", "the vestibule runs the command line over shims"},
	{"applets/early/shimrun", "applets/early/runc", "which is to run first"},
	{"applets/conmon", "applets/early/ctor", "the C start level has read the start pipe and forked"},
	{"internal/daemon", "internal/daemon/...", "what tells the next start and the service manager; whose layers and files containers get; what specifications depend on; what pods in machines have otherwise"},
	{"internal/image", "internal/storage", "the image library writes into the layer store"},
	{"internal/image", "internal/image/...", "what may be pulled and run; how layers come into the store; images in files"},
	{"internal/image", "internal/artifact", "what is pulled and is no image goes there, and is listed with images"},
	{"internal/perf", "internal/oci", "a runtime that does more at the start and end of containers"},
	{"internal/spec", "internal/oci", "a spec is built for a runtime"},
	{"internal/cni", "internal/cni/...", "the service embeds the plugins and sweeps their tables"},
	{"internal/cni/plugin/...", "internal/cni/nft", "plugins write nftables through one package"},
	{"internal/cni/plugin/...", "internal/cni/link", "plugins make links through one package"},
	{"internal/cni/plugin/macvlan", "internal/cni/plugin/sublink", "macvlan, ipvlan and vlan are one plugin with three kinds of link"},
	{"internal/cni/plugin/vlan", "internal/cni/plugin/sublink", "as macvlan"},
	{"internal/monitor/...", "internal/monitor/contract", "both sides of the contract share its constants"},
	{"internal/monitor/...", "internal/monitor/bare", "the monitor process does without the standard library's texts and files"},
	{"internal/monitor/loop", "internal/monitor/...", "the loop moves what its parts write"},
	{"internal/monitor/logs", "internal/monitor/journal", "one of the places where output is kept"},
	{"internal/pod/files", "internal/pod/state", "files are made from what is recorded"},
	{"internal/pod", "internal/pod/ending", "how a container is stopped"},
	{"internal/cri", "internal/checkpoint", "the face names the service that it passes requests to"},
	{"internal/pod/process", "internal/pod/...", "the process that is to end is one of those on record"},
	{"internal/pod", "internal/pod/process", "a step of lives"},
	{"internal/pod", "internal/pod/files", "a step of a pod's life"},
	{"internal/pod", "internal/pod/state", "lives are changes of what is recorded"},
	{"internal/inspect", "internal/preload", "what is imported is shown"},
	{"internal/cri", "internal/stream", "the face answers with the streaming server's addresses"},
	{"internal/cri", "internal/stats", "the face translates what was collected"},
	{"internal/config", "internal/annotation", "what may stand in allowed_annotations"},
	{"internal/linux/seccomp/listener", "internal/linux/seccomp/libseccomp", "calls have names in one table"},
	{"internal/linux/...", "internal/linux/proc", "process identity is the kernel floor's ground"},
}

func floorOf(name string) int {
	for i, f := range floors {
		if inAny(name, f.rooms) {
			return i
		}
	}
	return -1
}

func TestFloors(t *testing.T) {
	used := make([]bool, len(sideways))
	allowed := func(from, to string) bool {
		if strings.HasPrefix(from, to+"/") {
			return true
		}
		ok := false
		for i, s := range sideways {
			if in(from, s.from) && in(to, s.to) {
				used[i], ok = true, true
			}
		}
		return ok
	}
	for _, r := range rooms(t) {
		if r.isTest() {
			continue
		}
		from := floorOf(r.Name)
		if from < 0 {
			t.Errorf("%s stands on no floor: name it in the table", r.Name)
			continue
		}
		for _, i := range r.Imports {
			if !ours(i) {
				continue
			}
			switch to := floorOf(i); {
			case isTest(i):
				t.Errorf("%s imports %s, which is for tests", r.Name, i)
			case to > from:
				t.Errorf("%s (%s) imports %s (%s): an arrow up", r.Name, floors[from].name, i, floors[to].name)
			case to == from && !allowed(r.Name, i):
				t.Errorf("%s imports %s on the same floor (%s)", r.Name, i, floors[to].name)
			case floors[from].name == "kernel" && floors[to].name == "tools":
				t.Errorf("%s imports %s: the kernel floor knows the ground only", r.Name, i)
			}
		}
	}
	for i, s := range sideways {
		if !used[i] && floorOfExists(t, s.from) && floorOfExists(t, s.to) {
			t.Logf("not needed now: %s -> %s (%s)", s.from, s.to, s.reason)
		}
	}
}

func floorOfExists(t *testing.T, pattern string) bool {
	for _, r := range rooms(t) {
		if in(r.Name, pattern) {
			return true
		}
	}
	return false
}

// fences: a heavy module and the folders that may import it.
var fences = []struct {
	module string
	rooms  []string
}{
	{"google.golang.org/grpc", []string{"internal/cri", "internal/telemetry/trace", "applets/ocic", "applets/boot", "internal/oci/shim"}},
	// The protocol of shims: messages and transport.
	{"github.com/containerd/containerd", []string{"internal/oci/shim"}},
	{"github.com/containerd/ttrpc", []string{"internal/oci/shim"}},
	{"go.podman.io/image", []string{"internal/image", "internal/image/..."}},
	// The table runs the storage library's helpers, by the argv[0] they gave themselves.
	{"go.podman.io/storage", []string{"internal/storage", "internal/image", "internal/image/...", "applets"}},
	{"github.com/docker/distribution", []string{"internal/image"}},
	{"github.com/containers/ocicrypt", []string{"internal/image"}},
	{"github.com/opencontainers/runc", []string{"internal/oci/libct", "applets/early/initstage", "."}},
	{"github.com/opencontainers/cgroups", []string{"internal/linux/cgroup", "internal/oci/libct"}},
	{"github.com/containernetworking", []string{"internal/cni/...", "applets/cni"}},
	{"github.com/vishvananda/netlink", []string{"internal/cni/..."}},
	{"github.com/google/nftables", []string{"internal/cni/..."}},
	{"github.com/mdlayher/netlink", []string{"internal/cni/nft"}},
	{"github.com/pelletier/go-toml", []string{"internal/config"}},
	{"github.com/spf13", []string{"internal/manual", "applets/crio", "applets/ocic", "applets/runc", "applets/status", "internal/inspect/client"}},
	// libcontainer logs by it: one file there and one here turn it into log/slog.
	{"github.com/sirupsen/logrus", []string{"internal/telemetry/log", "internal/oci/libct"}},
	{"github.com/prometheus", []string{"internal/telemetry/metric", "internal/stats"}},
	{"go.opentelemetry.io", []string{"internal/telemetry/trace"}},
	{"github.com/containerd/nri", []string{"internal/nri"}},
	{"tags.cncf.io/container-device-interface", []string{"internal/cdi"}},
	{"github.com/moby/profiles", []string{"internal/spec", "internal/linux/seccomp"}},
	{"google.golang.org/protobuf", []string{"internal/oci/shim", "internal/pod/state", "internal/cri", "internal/checkpoint", "internal/podfile", "applets/ocic"}},
	// The CRI's messages are the product's language, above the kernel floor.
	{"k8s.io/cri-api", []string{"internal/pod", "internal/pod/...", "internal/spec", "internal/image", "internal/stats", "internal/stream", "internal/cri", "internal/nri", "internal/checkpoint", "internal/inspect", "internal/daemon", "internal/daemon/...", "internal/podfile", "applets/ocic", "applets/boot"}},
	{"k8s.io/cri-streaming", []string{"internal/stream"}},
	{"k8s.io/streaming", []string{"internal/stream", "applets/ocic"}},
	{"k8s.io/klog", []string{"internal/stream"}},
	{"golang.org/x/net", []string{"internal/stream"}},
	{"k8s.io/client-go", nil}, // tests only
	{"github.com/opencontainers/selinux", []string{"internal/oci/libct", "internal/linux/lsm"}},
}

func TestFences(t *testing.T) {
	for _, r := range rooms(t) {
		if r.isTest() {
			continue
		}
		for _, i := range r.Imports {
			for _, f := range fences {
				if in(i, f.module+"/...") && !inAny(r.Name, f.rooms) {
					t.Errorf("%s imports %s; only %v may", r.Name, i, f.rooms)
				}
			}
		}
	}
}

// TestStatus: the kinds of failure become gRPC codes in one file.
func TestStatus(t *testing.T) {
	parsed(t, func(r room, name string, fset *token.FileSet, file *ast.File) {
		// Shims answer with codes, which become kinds there.
		if r.isTest() || r.Name == "applets/ocic" || r.Name == "internal/cri" && name == "codes.go" || r.Name == "internal/oci/shim" && name == "task.go" {
			return
		}
		for _, i := range file.Imports {
			switch path, _ := strconv.Unquote(i.Path.Value); path {
			case "google.golang.org/grpc/codes", "google.golang.org/grpc/status":
				t.Errorf("%s: gRPC codes are chosen in internal/cri/codes.go", place(fset, i, r))
			}
		}
	})
}

// lean rooms run in small processes: the standard library without its heavy parts,
// x/sys, the ground and each other.
var (
	lean = []string{
		"internal/monitor", "internal/monitor/contract", "internal/monitor/loop", "internal/monitor/bare",
		"internal/monitor/logs", "internal/monitor/journal", "internal/monitor/notify", "internal/linux/proc", "internal/linux/namespace",
		"applets/conmon", "applets/pinns", "applets/pause", "applets/early", "applets/early/ctor",
	}
	leanMay = []string{"golang.org/x/sys/unix", "internal/errs", "internal/ident", "internal/fsx", "internal/version/..."}
	tooFat  = []string{"net/http", "encoding/xml", "regexp", "text/template", "html/template"}
)

func TestLeanRooms(t *testing.T) {
	for _, r := range rooms(t) {
		if !inAny(r.Name, lean) {
			continue
		}
		for _, i := range r.Imports {
			standard := !ours(i) && !strings.Contains(strings.Split(i, "/")[0], ".")
			if inAny(i, tooFat) || !standard && !inAny(i, lean) && !inAny(i, leanMay) {
				t.Errorf("%s imports %s: a lean room may not", r.Name, i)
			}
		}
	}
}
