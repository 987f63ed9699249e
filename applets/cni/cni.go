// Package cni is the process host of the embedded network plugins: it runs one as
// the CNI specification describes a plugin, with parameters in the environment, the
// configuration on standard input and the result on standard output.
package cni

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni"
	"github.com/monocrio/monocrio/internal/cni/plugin"
)

// Main runs a plugin and returns the exit status. Other plugins that it delegates to
// are looked for in CNI_PATH, then among the embedded ones.
func Main(p *plugin.Plugin, _ []string) int {
	runtime.LockOSThread() // plugins enter network namespaces
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, os.Interrupt)
	defer stop()
	err := skel.PluginMainFuncsWithError(funcs(ctx, p, cni.NewExec(cni.Embedded(), nil)), p.Versions(),
		fmt.Sprintf("CNI plugin %s of monocrio; it is run by a container runtime", p.Name))
	if err == nil {
		return 0
	}
	if e := err.Print(); e != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
	}
	return 1
}

// funcs puts a plugin into the form of the CNI library.
func funcs(ctx context.Context, p *plugin.Plugin, e *cni.Exec) skel.CNIFuncs {
	request := func(a *skel.CmdArgs) *plugin.Request {
		return &plugin.Request{ContainerID: a.ContainerID, NetNS: a.Netns, IfName: a.IfName, Args: a.Args, Path: a.Path,
			Config: a.StdinData, Delegate: e.Delegate}
	}
	verb := func(f func(context.Context, *plugin.Request) error) func(*skel.CmdArgs) error {
		return func(a *skel.CmdArgs) error {
			if f == nil {
				return nil
			}
			return f(ctx, request(a))
		}
	}
	return skel.CNIFuncs{
		Add: func(a *skel.CmdArgs) error {
			res, err := p.Add(ctx, request(a))
			if err != nil {
				return err
			}
			v, err := (&version.ConfigDecoder{}).Decode(a.StdinData)
			if err != nil {
				return err
			}
			return types.PrintResult(res, v)
		},
		Del: verb(p.Del), Check: verb(p.Check), GC: verb(p.GC), Status: verb(p.Status),
	}
}
