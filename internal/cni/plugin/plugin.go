// Package plugin is the seam of the network plugins: a plugin is a value, not a
// program.
//
// A Plugin is a struct of functions over a Request. Its hosts (the daemon, which
// calls it on a locked thread, and applets/cni, which is a process as the CNI
// specification describes it) fill the Request; the plugin itself never looks at
// the environment, at standard input or at standard output, and never ends the
// process. Whatever it needs from other plugins (IPAM) it gets by Request.Delegate.
//
// The package may import the CNI library and package errs. It knows no plugin and
// no host.
//
// Specification: https://www.cni.dev/docs/spec/ (1.1.0).
package plugin

import (
	"context"
	"os"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is a CNI plugin as a value. Verbs that are nil do nothing and succeed;
// Add must be there.
type Plugin struct {
	// Name is the type by which configurations name the plugin.
	Name string
	// About says in a few words what it does.
	About string
	// Since is the oldest configuration version that it understands, "" for all.
	Since string

	Add    func(context.Context, *Request) (*current.Result, error)
	Del    func(context.Context, *Request) error
	Check  func(context.Context, *Request) error
	GC     func(context.Context, *Request) error
	Status func(context.Context, *Request) error
}

// Request is what a host hands to a plugin: the protocol's parameters.
type Request struct {
	ContainerID string // CNI_CONTAINERID
	NetNS       string // CNI_NETNS: a path; "" at DEL when the namespace is gone
	IfName      string // CNI_IFNAME
	Args        string // CNI_ARGS: KEY=VALUE;KEY=VALUE
	Path        string // CNI_PATH: where executables are looked for
	Config      []byte // the configuration (JSON), as a process gets it on standard input

	// Delegate runs another plugin with the same parameters.
	Delegate Delegate
}

// Delegate runs a verb of another plugin, named by its type, with the parameters
// of r. The result is nil except for ADD. The host decides where it finds it.
type Delegate func(ctx context.Context, verb, name string, r *Request) (*current.Result, error)

// Versions tells which configuration versions the plugin understands.
func (p *Plugin) Versions() version.PluginInfo {
	if p.Since == "" {
		return version.All
	}
	return version.VersionsStartingFrom(p.Since)
}

// Run runs a verb: ADD, DEL, CHECK, GC or STATUS. The result of ADD has the
// configuration's version; other verbs have none. A request that breaks the
// protocol is refused with the code that the specification gives for it.
func (p *Plugin) Run(ctx context.Context, verb string, r *Request) (types.Result, error) {
	confVersion, err := p.admit(verb, r)
	if err != nil {
		return nil, err
	}
	if verb == "ADD" {
		res, err := p.Add(ctx, r)
		if err != nil {
			return nil, err
		}
		return res.GetAsVersion(confVersion)
	}
	f := map[string]func(context.Context, *Request) error{
		"DEL": p.Del, "CHECK": p.Check, "GC": p.GC, "STATUS": p.Status}[verb]
	if f == nil {
		return nil, nil
	}
	return nil, f(ctx, r)
}

// admit checks a request against the specification and returns the
// configuration's version.
func (p *Plugin) admit(verb string, r *Request) (string, error) {
	var since string
	attachment := false
	switch verb {
	case "ADD", "DEL":
		attachment = true
	case "CHECK":
		attachment, since = true, "0.4.0"
	case "GC", "STATUS":
		since = "1.1.0"
	default:
		return "", refuse(types.ErrInvalidEnvironmentVariables, "there is no CNI_COMMAND "+verb)
	}
	conf, err := Decode[types.PluginConf](r)
	if err != nil {
		return "", err
	}
	if conf.Name == "" {
		return "", refuse(types.ErrInvalidNetworkConfig, "the configuration has no network name")
	}
	if err := utils.ValidateNetworkName(conf.Name); err != nil {
		return "", err
	}
	v := conf.CNIVersion
	if v == "" {
		v = "0.1.0"
	}
	if err := (&version.Reconciler{}).Check(v, p.Versions()); err != nil {
		return "", types.NewError(types.ErrIncompatibleCNIVersion, "incompatible CNI versions", err.Details())
	}
	if since != "" {
		if ok, err := version.GreaterThanOrEqualTo(v, since); err != nil || !ok {
			return "", refuse(types.ErrIncompatibleCNIVersion, "config version does not allow "+verb)
		}
	}
	if !attachment {
		return v, nil
	}
	if err := utils.ValidateContainerID(r.ContainerID); err != nil {
		return "", err
	}
	if err := utils.ValidateInterfaceName(r.IfName); err != nil {
		return "", err
	}
	if r.NetNS == "" && verb != "DEL" {
		return "", refuse(types.ErrInvalidEnvironmentVariables, verb+" needs a network namespace")
	}
	if sameNamespace(r.NetNS) {
		return "", refuse(types.ErrInvalidNetNS, "the pod's network namespace "+r.NetNS+" is the node's own")
	}
	return v, nil
}

// refuse makes an error that tells the specification's code and our kind.
func refuse(code uint, msg string) error {
	return errs.With(errs.KindInvalid, types.NewError(code, msg, ""))
}

// sameNamespace tells whether path is the network namespace of this thread: a
// plugin that configured "the pod" there would configure the node.
func sameNamespace(path string) bool {
	var a, b unix.Stat_t
	if path == "" || unix.Stat(path, &a) != nil || unix.Stat(ThreadNetNS, &b) != nil {
		return false
	}
	return a.Dev == b.Dev && a.Ino == b.Ino
}

// ThreadNetNS is the network namespace of the calling thread.
const ThreadNetNS = "/proc/thread-self/ns/net"

// Gone tells whether a pod's namespace is gone: no path, no such file, or a file
// that is no namespace (a pin whose mount did not survive a reboot).
func Gone(path string) bool {
	if path == "" {
		return true
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return os.IsNotExist(err)
	}
	return fs.Type != unix.NSFS_MAGIC && fs.Type != unix.PROC_SUPER_MAGIC
}
