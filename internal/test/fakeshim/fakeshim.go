// Package fakeshim is a shim of version 2 for tests: containerd-shim-fake-v2, without
// a virtual machine. One process per pod serves the Task service and runs containers
// by an OCI runtime's command line, in a cgroup beside the one that the bundle names,
// as a machine would have one of its own inside.
//
// It does what the protocol's documents say that shims do, and no more: it finds the
// pod by annotations, needs the log pipe in the bundle, opens the streams by their
// names, wants a bundle with a root file system, and forgets a task only when told.
// Its configuration file, which comes in the options of Create, is JSON with the path
// of the runtime; without it the runtime is runc.
//
// A test binary becomes the shim when it is called by that name: see Main.
package fakeshim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	task "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/monocrio/monocrio/internal/linux/proc"
	"github.com/monocrio/monocrio/internal/oci/command"
)

// Name is the executable's.
const Name = "containerd-shim-fake-v2"

// Config is the configuration file.
type Config struct{ Runtime string }

// Main runs the shim if args[0] is its name; false if it is not.
func Main(args []string) (code int, is bool) {
	if filepath.Base(args[0]) != Name {
		return 0, false
	}
	if err := run(args); err != nil {
		fmt.Fprintln(os.Stderr, Name+":", err)
		return 1, true
	}
	return 0, true
}

// Install makes an executable of that name in a folder, out of the calling test.
func Install(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, Name)
	return path, os.Symlink(self, path)
}

func run(args []string) error {
	f := flag.NewFlagSet(Name, flag.ContinueOnError)
	ns := f.String("namespace", "", "")
	id := f.String("id", "", "")
	address := f.String("address", "", "")
	publish := f.String("publish-binary", "", "")
	bundle := f.String("bundle", "", "")
	socket := f.String("socket", "", "")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.Arg(0) == "serve" {
		return serve(*socket)
	}
	if *ns == "" || *id == "" || *address == "" || *publish == "" {
		return fmt.Errorf("arguments are missing in %q", args)
	}
	group, err := groupOf(*id)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(*ns + "/" + group))
	path := filepath.Join("/tmp", "fakeshim-"+hex.EncodeToString(sum[:8]))
	switch f.Arg(0) {
	case "start":
		return start(path)
	case "delete":
		if cwd, _ := os.Getwd(); *bundle != cwd {
			return fmt.Errorf("delete runs in %s, the bundle is %q", cwd, *bundle)
		}
		return remove(path, *id, group)
	}
	return fmt.Errorf("there is no command %q", f.Arg(0))
}

// groupOf reads from the bundle, in which we are, which pod a container belongs to.
func groupOf(id string) (string, error) {
	data, err := os.ReadFile("config.json")
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", err
	}
	if pod := spec.Annotations["io.kubernetes.cri.sandbox-id"]; spec.Annotations["io.kubernetes.cri.container-type"] == "container" && pod != "" {
		return pod, nil
	}
	return id, nil
}

// start prints the address of the pod's shim, which it starts if there is none.
func start(path string) error {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		fmt.Println("unix://" + path)
		return nil
	}
	if _, err := os.Stat("rootfs"); err != nil {
		return fmt.Errorf("the bundle has no root file system: %w", err)
	}
	log, err := os.OpenFile("log", os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("nobody reads the log: %w", err)
	}
	_ = os.Remove(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	file, err := l.File()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-socket", path, "serve")
	cmd.Args[0] = Name
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(path+".pid", strconv.AppendInt(nil, int64(cmd.Process.Pid), 10), 0o600); err != nil {
		return err
	}
	fmt.Println("unix://" + path)
	return nil
}

// serve is the pod's shim.
func serve(path string) error {
	if err := proc.BecomeSubreaper(); err != nil {
		return err
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	v := &service{path: path, ctrs: map[string]*container{}, over: make(chan struct{})}
	task.RegisterTaskService(s, v)
	fmt.Fprintln(os.Stderr, "the fake shim serves")
	go func() { _ = s.Serve(context.Background(), l) }()
	<-v.over
	_ = s.Shutdown(context.Background()) // after the answer
	return clear(path)
}

// clear removes the files of a pod's shim.
func clear(path string) error {
	os.Remove(path)
	os.Remove(path + ".pid")
	return os.RemoveAll(path + ".d")
}

// remove takes away what a container has left, and the shim of a pod.
func remove(path, id, group string) error {
	dir := filepath.Join(path+".d", "bundles", id)
	if data, err := os.ReadFile(filepath.Join(dir, "runtime")); err == nil {
		rt, err := command.New(command.Options{Path: string(data), Name: "inner", Root: filepath.Join(path+".d", "state")})
		if err != nil {
			return err
		}
		if err := rt.Delete(context.Background(), id, true); err != nil {
			return err
		}
		os.RemoveAll(dir)
	}
	if id == group {
		data, _ := os.ReadFile(path + ".pid")
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(cmdline), Name) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if err := clear(path); err != nil {
			return err
		}
	}
	data, err := proto.Marshal(&task.DeleteResponse{ExitStatus: 137})
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}
