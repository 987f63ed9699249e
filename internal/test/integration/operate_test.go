package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/monocrio/monocrio/internal/test/world"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crio check says what is wrong and mends it one by one; beside the daemon and without.
func TestCheck(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Pull()
	pod := w.Pod("healthy", nil)
	w.Ctr(pod, "main", "exec sleep 1000", nil)
	out, errs, code := w.Run("crio", "-c", w.Conf, "check")
	if code != 0 || strings.Contains(out, "FAIL") || !strings.Contains(out, "no damage") || !strings.Contains(out, "0 wrong") {
		t.Fatalf("a healthy node: exit status %d\n%s%s", code, out, errs)
	}
	for _, area := range []string{"config", "clock", "kernel", "cgroups", "runtimes", "network", "images", "storage", "disk"} {
		if !strings.Contains(out, " "+area) {
			t.Errorf("nothing about %s in\n%s", area, out)
		}
	}
	if _, err := w.RemovePodSandbox(w.Ctx(), &cri.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Fatal(err)
	}
	w.Stop()

	// A file of the image's layer is gone, a record cannot be read, the network is gone.
	files, _ := filepath.Glob(filepath.Join(w.Dir, "root/overlay/*/diff/bin/busybox"))
	if len(files) == 0 {
		t.Fatal("no file of the image is found")
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	quarantine := filepath.Join(w.Dir, "state/quarantine/pods-abc")
	if err := os.MkdirAll(quarantine, 0o700); err != nil {
		t.Fatal(err)
	}
	conflist := filepath.Join(w.NetDir, "10-test.conflist")
	if err := os.Rename(conflist, conflist+".away"); err != nil {
		t.Fatal(err)
	}
	out, errs, code = w.Run("crio", "-c", w.Conf, "check", "--json")
	var all []struct{ Area, Level, Text, Kind, ID string }
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 1 {
		t.Fatalf("exit status %d, %v\n%s", code, err, out)
	}
	wrong := map[string]string{}
	for _, f := range all {
		if f.Level == "fail" || f.Area == "leftovers" {
			wrong[f.Area+" "+f.Kind] = f.Text
		}
	}
	for _, want := range []string{"storage layer", "storage image", "network ", "leftovers record"} {
		if wrong[want] == "" {
			t.Errorf("nothing is told of %q: %v", want, wrong)
		}
	}
	if !strings.Contains(errs, "damaged: layers 1") || !strings.Contains(errs, "images 1") {
		t.Errorf("the last word: %s", errs)
	}

	if err := os.Rename(conflist+".away", conflist); err != nil {
		t.Fatal(err)
	}
	out, _, code = w.Run("crio", "-c", w.Conf, "check", "--repair")
	if code != 0 || strings.Count(out, "done ") != 3 {
		t.Errorf("a repair: exit status %d\n%s", code, out)
	}
	if _, err := os.Stat(quarantine); err == nil {
		t.Error("the record that could not be read is there still")
	}
	out, _, code = w.Run("crio", "-c", w.Conf, "check", "-q")
	if code != 0 || !strings.Contains(out, "no damage") {
		t.Errorf("after the repair: exit status %d\n%s", code, out)
	}
	w.Start()
	w.Pull()
	if out, _ := w.Output(w.Pod("again", nil), "main", "echo mended", nil); out != "mended\n" {
		t.Errorf("after repair and pull: %q", out)
	}
}

// crio wipe removes what is ours, and only if it must.
func TestWipe(t *testing.T) {
	w := world.New(t, world.Options{})
	image := w.Pull()
	pod := w.Pod("wiped", nil)
	ctr := w.Ctr(pod, "main", "exec sleep 1000", nil)
	pid := factsOf(w, ctr).Pid
	if _, errs, code := w.Run("crio", "-c", w.Conf, "wipe", "--force"); code == 0 || !strings.Contains(errs, "daemon runs") {
		t.Errorf("beside the daemon: exit status %d, %s", code, errs)
	}
	w.Stop()
	if out, errs, code := w.Run("crio", "-c", w.Conf, "wipe"); code != 0 || !strings.Contains(out, "nothing is wiped") {
		t.Errorf("without force: exit status %d, %s%s", code, out, errs)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("without force the container is gone: %v", err)
	}
	if out, errs, code := w.Run("crio", "-c", w.Conf, "wipe", "-f"); code != 0 || !strings.Contains(out, "removed 1 pods and 1 images") {
		t.Errorf("with force: exit status %d, %s%s", code, out, errs)
	}
	w.Start()
	if st, err := w.Images.ImageStatus(w.Ctx(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}}); err != nil || st.GetImage() != nil {
		t.Errorf("the image is there still: %v, %v", st, err)
	}
	if list, err := w.ListPodSandbox(w.Ctx(), &cri.ListPodSandboxRequest{}); err != nil || len(list.GetItems()) > 0 {
		t.Errorf("pods are there still: %v, %v", list, err)
	}
}

// The files by which other programs, and the next start, know how a run ended.
//
// Options: crio.version_file, crio.version_file_persist, crio.clean_shutdown_file, crio.internal_repair
func TestMarks(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	at := func(name string) string { return filepath.Join(w.Dir, name) }
	w.SetConf(strings.Replace(w.ConfText(), "[crio]\n", "[crio]\nversion_file = \""+at("v/version")+"\"\nversion_file_persist = \""+at("p/version")+"\"\nclean_shutdown_file = \""+at("c/clean")+"\"\n", 1))
	there := func(name string) bool { _, err := os.Stat(at(name)); return err == nil }
	w.Start()
	for _, f := range []string{"v/version", "p/version"} {
		text, err := os.ReadFile(at(f))
		var v string
		if err != nil || json.Unmarshal(text, &v) != nil || strings.Count(v, ".") < 2 {
			t.Errorf("%s: %q, %v", f, text, err)
		}
	}
	if there("c/clean") || !there("c/clean.supported") {
		t.Error("while it runs: the mark of a clean end is there, or the one that says that there are such marks is not")
	}
	w.Stop()
	if !there("c/clean") {
		t.Error("a clean end leaves no mark")
	}
	w.Start()
	w.Kill()
	w.Start() // the same boot: nothing is suspect
	if there("c/clean") || strings.Contains(w.Log(), "unclean") {
		t.Errorf("after kill -9: %s", w.Log())
	}
	w.Kill()
	if err := os.Remove(at("v/version")); err != nil { // as a reboot does
		t.Fatal(err)
	}
	w.Start()
	logged(w, 0, "the image store was checked after an unclean shutdown", "damaged=0")
}

// A service manager hears that the daemon is ready, well, reloading and ending.
func TestServiceManager(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	path := filepath.Join(w.Dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	said := make(chan string, 1000)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	hear := func(want string) {
		t.Helper()
		for end := time.After(time.Minute); ; {
			select {
			case s := <-said:
				if strings.Contains(s, want) {
					return
				}
			case <-end:
				t.Fatalf("the service manager does not hear %q", want)
			}
		}
	}
	w.Start("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	hear("READY=1")
	for range 3 {
		hear("WATCHDOG=1")
	}
	w.Signal(syscall.SIGHUP)
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1")
	w.Signal(syscall.SIGUSR2)
	logged(w, 0, "collected garbage")
	w.Stop()
	hear("STOPPING=1")
	w.Start("NOTIFY_SOCKET="+filepath.Join(w.Dir, "nobody"), "WATCHDOG_USEC=x", "WATCHDOG_PID=1")
	logged(w, 0, "cannot tell the service manager")
}

// The daemon joins the mount namespace that KUBENSMNT names, and goes on if it cannot.
func TestKubensmnt(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	ns := filepath.Join(w.Dir, "mnt.ns")
	// A mount namespace is pinned on a mount that does not propagate.
	script := `mount --bind "$1" "$1" && mount --make-private "$1" && touch "$1/mnt.ns" && unshare --mount="$1/mnt.ns" true && echo made`
	if out, err := exec.Command("sh", "-c", script, "sh", w.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.AtEnd(func() {
		unix.Unmount(ns, unix.MNT_DETACH)
		unix.Unmount(w.Dir, unix.MNT_DETACH)
	})
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	w.Start("KUBENSMNT=" + ns)
	daemonNS := fmt.Sprintf("/proc/%d/ns/mnt", w.Pid())
	if inode(daemonNS) != inode(ns) || inode(ns) == inode("/proc/self/ns/mnt") {
		t.Errorf("the daemon is in mount namespace %d, told was %d, ours is %d", inode(daemonNS), inode(ns), inode("/proc/self/ns/mnt"))
	}
	w.Stop()
	w.Start("KUBENSMNT=/proc/self/ns/net")
	if inode(fmt.Sprintf("/proc/%d/ns/mnt", w.Pid())) != inode("/proc/self/ns/mnt") || !strings.Contains(w.Log(), "KUBENSMNT: /proc/self/ns/net is no mount namespace") {
		t.Errorf("a namespace of another kind:\n%s", w.Log())
	}
}

// Options: --profile, --profile-port, --profile-cpu, --profile-mem, --log, --log-format
func TestProcessFlags(t *testing.T) {
	w := world.New(t, world.Options{Late: true})
	at := func(name string) string { return filepath.Join(w.Dir, name) }
	w.Args = []string{"--profile", "--profile-port=0", "--profile-cpu=" + at("cpu"), "--profile-mem=" + at("mem"), "--log=" + at("log.json"), "--log-format=json"}
	w.Start()
	text, err := os.ReadFile(at("log.json"))
	if err != nil {
		t.Fatal(err)
	}
	address := ""
	for line := range strings.Lines(string(text)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if m["msg"] == "serving profiles" {
			address, _ = m["address"].(string)
		}
	}
	answer, err := http.Get("http://" + address + "/debug/pprof/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || !strings.Contains(string(out), "--profile-port=0") {
		t.Errorf("%v: %s", err, out)
	}
	if w.Log() != "" {
		t.Errorf("with --log standard error says %s", w.Log())
	}
	w.Stop()
	w.Args = nil
	for _, f := range []string{"cpu", "mem"} {
		data, err := os.ReadFile(at(f))
		if err != nil || len(data) < 100 || data[0] != 0x1f || data[1] != 0x8b {
			t.Errorf("--profile-%s: %d bytes, %v", f, len(data), err)
		}
	}
}
