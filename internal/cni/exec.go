package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/step"
)

// Exec finds and runs plugins: it is the in-process host of embedded ones and
// executes all others. It implements invoke.Exec.
//
// A plugin is looked for in the given folders first, so operators' plugins win. A
// file found there that is a link to this executable is run in this process, any
// other is executed; a name found nowhere is looked up among the embedded plugins.
// A name with the prefix "monocrio-" means the embedded one in any case.
type Exec struct {
	version.PluginDecoder
	embedded []*plugin.Plugin
	self     os.FileInfo // nil if it cannot be known
	log      *slog.Logger
}

// builtin is the pretended folder of embedded plugins, in paths that FindInPath
// returns.
const builtin = "/monocrio:embedded/"

// ForcePrefix before a plugin's name asks for the embedded one.
const ForcePrefix = "monocrio-"

// NewExec makes a host for these plugins. What executed plugins print to standard
// error goes to log.
func NewExec(embedded []*plugin.Plugin, log *slog.Logger) *Exec {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		self = nil
	}
	return &Exec{embedded: embedded, self: self, log: log}
}

func (e *Exec) lookup(name string) *plugin.Plugin {
	for _, p := range e.embedded {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// FindInPath returns where the plugin of that type is.
func (e *Exec) FindInPath(name string, dirs []string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", errs.Invalid("%q cannot be the type of a CNI plugin: it must be one file name", name)
	}
	if own, ok := strings.CutPrefix(name, ForcePrefix); ok && e.lookup(own) != nil {
		return builtin + own, nil
	}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, name)
		fi, err := os.Stat(path)
		if err != nil || fi.IsDir() || fi.Mode()&0o111 == 0 {
			continue
		}
		if e.self != nil && os.SameFile(fi, e.self) && e.lookup(name) != nil {
			return builtin + name, nil
		}
		return path, nil
	}
	if e.lookup(name) != nil {
		return builtin + name, nil
	}
	where := "no plugin folder is configured"
	if len(dirs) > 0 {
		where = "not an executable file in " + strings.Join(dirs, ", ")
	}
	return "", errs.Errorf(errs.KindUnavailable, "there is no CNI plugin %q: it is not an embedded one and %s", name, where)
}

// ExecPlugin runs the plugin at a path that FindInPath returned, with the protocol's
// parameters in environ, and returns what it prints.
func (e *Exec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name, ok := strings.CutPrefix(path, builtin)
	step.Waits(ctx, "CNI plugin "+filepath.Base(name)+": "+verbOf(environ))
	defer step.Waits(ctx, "")
	if !ok {
		return e.execute(ctx, path, stdin, environ)
	}
	p := e.lookup(name)
	if p == nil {
		return nil, errs.NotFound("embedded CNI plugin", name)
	}
	verb := verbOf(environ)
	r := &plugin.Request{Config: stdin, Delegate: e.Delegate}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "CNI_CONTAINERID":
			r.ContainerID = v
		case "CNI_NETNS":
			r.NetNS = v
		case "CNI_IFNAME":
			r.IfName = v
		case "CNI_ARGS":
			r.Args = v
		case "CNI_PATH":
			r.Path = v
		}
	}
	var out bytes.Buffer
	if verb == "VERSION" {
		err := p.Versions().Encode(&out)
		return out.Bytes(), err
	}
	res, err := OnThread(func() (types.Result, error) { return p.Run(ctx, verb, r) })
	if err == nil && res != nil {
		err = res.PrintTo(&out)
	}
	return out.Bytes(), err
}

// verbOf finds the verb in a plugin's environment.
func verbOf(environ []string) string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "CNI_COMMAND="); ok {
			return v
		}
	}
	return ""
}

// Delegate runs a verb of another plugin for an embedded one, in the same way.
func (e *Exec) Delegate(ctx context.Context, verb, name string, r *plugin.Request) (*current.Result, error) {
	path, err := e.FindInPath(name, filepath.SplitList(r.Path))
	if err != nil {
		return nil, err
	}
	if own, ok := strings.CutPrefix(path, builtin); ok { // on this thread already
		res, err := e.lookup(own).Run(ctx, verb, r)
		if err != nil || res == nil {
			return nil, err
		}
		return current.NewResultFromResult(res)
	}
	args := &invoke.Args{Command: verb, ContainerID: r.ContainerID, NetNS: r.NetNS, PluginArgsStr: r.Args, IfName: r.IfName, Path: r.Path}
	if verb != "ADD" {
		return nil, invoke.ExecPluginWithoutResult(ctx, path, r.Config, args, e)
	}
	res, err := invoke.ExecPluginWithResult(ctx, path, r.Config, args, e)
	if err != nil {
		return nil, err
	}
	return current.NewResultFromResult(res)
}

// OnThread runs f on a thread of its own. The thread is given back only if it is in
// the network namespace that it came from; a panic becomes an error.
func OnThread(f func() (types.Result, error)) (types.Result, error) {
	type answer struct {
		res types.Result
		err error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread()
		var a answer
		home, known := threadNetNS()
		defer func() {
			if p := recover(); p != nil {
				a = answer{nil, types.NewError(types.ErrInternal, fmt.Sprintf("the plugin panicked: %v", p), string(debug.Stack()))}
			}
			if now, ok := threadNetNS(); ok && known && now == home {
				runtime.UnlockOSThread()
			}
			done <- a
		}()
		a.res, a.err = f()
	}()
	a := <-done
	return a.res, a.err
}

// threadNetNS identifies the network namespace of the calling thread.
func threadNetNS() (id [2]uint64, ok bool) {
	var st unix.Stat_t
	err := unix.Stat(plugin.ThreadNetNS, &st)
	return [2]uint64{st.Dev, st.Ino}, err == nil
}

// rawResult reads what is needed of a result of any version.
func rawResult(res types.Result) (Result, error) {
	raw, err := json.Marshal(res)
	if err != nil {
		return Result{}, fmt.Errorf("cannot encode the CNI result: %w", err)
	}
	c, err := current.NewResultFromResult(res)
	if err != nil {
		return Result{}, fmt.Errorf("cannot read the CNI result: %w", err)
	}
	out := Result{Raw: raw}
	for _, ip := range c.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(c.Interfaces) && c.Interfaces[*i].Sandbox == "" {
			continue // of the node
		}
		out.IPs = append(out.IPs, ip.Address.IP.String())
	}
	for _, i := range c.Interfaces {
		out.Interfaces = append(out.Interfaces, Interface{Name: i.Name, MAC: i.Mac, NetNS: i.Sandbox, MTU: i.Mtu})
	}
	return out, nil
}
