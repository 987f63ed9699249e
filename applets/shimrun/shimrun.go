// Package shimrun is the command line between monitors and shims: to a monitor it is
// an OCI runtime, which makes containers through a shim of version 2 (oci/shim).
//
// Monitors need "create" alone; "state", "start", "kill" and "delete" are for people.
// "proxy" is the process that stands for a container, and runs as long as that.
// "publish" is what shims call to tell events.
//
//	shimrun --root DIR --shim PATH [--shim-config PATH] [--name NAME] VERB [OPTION...] CONTAINER
//	shimrun --address SOCKET publish --topic TOPIC --namespace NAME < EVENT
package shimrun

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/monitor/bare"
	"github.com/monocrio/monocrio/internal/oci"
	"github.com/monocrio/monocrio/internal/oci/shim"
)

// reportFD is where a proxy tells that its container is there.
const reportFD = 3

// app is one call of the command line.
type app struct {
	o       shim.Options
	address string
	create  oci.CreateOptions
	topic   string
	ns      string
	all     bool
	force   bool
	code    int
}

// Main runs the command line; args[0] is the applet's name.
func Main(args []string) int {
	a := &app{}
	a.o.Self = self(args[0])
	if err := a.run(args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "shimrun:", err)
		a.code = max(a.code, 1)
	}
	return a.code
}

// self is a name by which this executable is this applet again.
func self(name string) string {
	if strings.Contains(name, "/") {
		if abs, err := filepath.Abs(name); err == nil {
			return abs
		}
	}
	path, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(path), "shimrun")
}

// set makes the options before the verb, or those of one.
func (a *app) set(name string) *flag.FlagSet {
	f := flag.NewFlagSet("shimrun "+name, flag.ContinueOnError)
	switch name {
	case "":
		f.StringVar(&a.o.Root, "root", "/run/shimrun", "folder of the containers' records")
		f.StringVar(&a.o.Name, "name", "shim", "what the runtime is called")
		f.StringVar(&a.o.Path, "shim", "", "the shim's executable, containerd-shim-*")
		f.StringVar(&a.o.Config, "shim-config", "", "file that the shim is told to read")
		f.BoolVar(&a.o.PullImage, "pull-image", false, "have the shim pull the image inside its machine")
		f.BoolVar(&a.o.Systemd, "systemd-cgroup", false, "let systemd make the cgroups; cgroupsPath is slice:prefix:name")
		f.StringVar(&a.address, "address", "", "socket for events")
	case "create", "proxy":
		f.StringVar(&a.create.Bundle, "bundle", ".", "folder with config.json")
		f.StringVar(&a.create.ConsoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
		f.StringVar(&a.create.PidFile, "pid-file", "", "file for the process id")
		f.BoolVar(&a.create.NoPivot, "no-pivot", false, "without effect: the shim decides")
		f.BoolVar(&a.create.NoNewKeyring, "no-new-keyring", false, "without effect: the shim decides")
	case "kill":
		f.BoolVar(&a.all, "all", false, "to all processes of the container")
	case "delete":
		f.BoolVar(&a.force, "force", false, "kill it first if it runs")
	case "publish":
		f.StringVar(&a.topic, "topic", "", "what sort of event it is")
		f.StringVar(&a.ns, "namespace", "", "the container's namespace")
	}
	return f
}

func (a *app) run(args []string) error {
	global := a.set("")
	if err := global.Parse(args); err != nil {
		return err
	}
	verb := global.Arg(0)
	rest := global.Args()[min(1, global.NArg()):]
	f := a.set(verb)
	if err := f.Parse(rest); err != nil {
		return err
	}
	if verb == "publish" {
		return a.publish()
	}
	id := f.Arg(0)
	if most := map[string]int{"kill": 2}; f.NArg() < 1 || f.NArg() > max(1, most[verb]) {
		return errs.Invalid("%s: one container id is needed, %d arguments were given", verb, f.NArg())
	}
	rt, err := shim.New(a.o)
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch verb {
	case "create":
		a.create.Stdin, a.create.Stdout, a.create.Stderr = os.Stdin, os.Stdout, os.Stderr
		return rt.Create(ctx, id, a.create)
	case "proxy":
		unix.CloseOnExec(reportFD)
		a.code = rt.Proxy(id, a.create, os.NewFile(reportFD, "report"), slim)
		return nil
	case "start":
		return rt.Start(ctx, id)
	case "state":
		return state(ctx, rt, id)
	case "kill":
		sig, err := signal(f.Arg(1))
		if err != nil {
			return err
		}
		return rt.Kill(ctx, id, sig, a.all)
	case "delete":
		return rt.Delete(ctx, id, a.force)
	}
	return errs.Invalid("there is no verb %q; there are create, start, state, kill, delete and publish", verb)
}

// slim gives back the memory that it took to get here, of which the proxy needs little.
func slim() {
	debug.FreeOSMemory()
	bare.DropFile(make([]byte, 32<<10))
}

func (a *app) publish() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if a.address == "" || a.topic == "" {
		return errs.Invalid("publish: --address and --topic are needed")
	}
	return shim.Publish(ctx, a.address, a.topic, a.ns, io.Reader(os.Stdin))
}

// state prints what the runtime specification says a state is.
func state(ctx context.Context, rt *shim.Runtime, id string) error {
	s, err := rt.State(ctx, id)
	if err != nil {
		return err
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"ociVersion": "1.2.0", "id": s.ID, "status": s.Status, "pid": s.Pid,
		"bundle": s.Bundle, "annotations": s.Annotations, "created": s.Created})
}

// signal understands "9", "KILL" and "SIGKILL"; empty is TERM.
func signal(s string) (syscall.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, errs.Invalid("there is no signal %q", s)
}
