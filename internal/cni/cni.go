// Package cni attaches pods to the network: it loads CNI configuration lists,
// watches their folder, and runs their plugins, of which the usual ones are
// embedded (packages below plugin) and run in this process.
//
// A pod is attached by a configuration that its owner records and hands back for
// every later verb, so that it can be detached when the file is long gone. Detach
// does what it can, reports what it could not, and may be repeated; absence is
// success.
//
// Two things are added to every configuration when it is loaded. A list in which no
// plugin has the capability portMappings gets the embedded portmap at its end: host
// ports work with every network. And host-local keeps its leases below
// Options.CacheDir unless the file says where. Both are in the bytes that Select
// returns, so nothing depends on this program's release later.
//
// The package may import the CNI library, its plugins and package errs. It knows no
// pod of package pod and no CRI.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/linux/watch"
)

// IfName is the pod's interface.
const IfName = "eth0"

// infraArg is the key of CNI_ARGS by which pods are known (see GC).
const infraArg = "K8S_POD_INFRA_CONTAINER_ID"

// DefaultCacheDir is where the CNI library keeps results without another folder.
const DefaultCacheDir = "/var/lib/cni"

// Options say where configuration and plugins are.
type Options struct {
	ConfDir        string           // network_dir
	DefaultNetwork string           // cni_default_network; "" for the first file
	PluginDirs     []string         // plugin_dirs, searched in this order
	CacheDir       string           // results, and host-local's leases unless the file says otherwise; "" for DefaultCacheDir
	Template       string           // cni_conf_template: see SetPodCIDR
	StatusGrace    time.Duration    // cni_status_grace_period
	Plugins        []*plugin.Plugin // the embedded ones: Embedded()
	Log            *slog.Logger     // nil for none
}

// Port is a port of the node that leads to the pod.
type Port struct {
	HostIP        string // "" for all addresses
	HostPort      int    // 0: the entry means nothing
	ContainerPort int
	Protocol      string // tcp, udp or sctp, in any case
}

// Request tells about the pod.
type Request struct {
	ID                            string // CNI_CONTAINERID
	NetNS                         string // path; at Detach "" when it is gone
	PodName, PodNamespace, PodUID string
	Ports                         []Port
	IngressBPS, EgressBPS         uint64 // bits per second; 0 for no limit
	Annotations                   map[string]string
	CgroupPath                    string
}

// Config is a configuration list with everything that Attach and Detach need.
type Config struct {
	Name string          `json:"name"`
	File string          `json:"file"` // where it came from; for people
	List json.RawMessage `json:"list"` // a conflist
}

// Interface is an interface of an attachment. NetNS is "" for one of the node.
type Interface struct {
	Name  string `json:"name"`
	MAC   string `json:"mac,omitempty"`
	NetNS string `json:"netns,omitempty"`
	MTU   int    `json:"mtu,omitempty"`
}

// Result is what Attach has made.
type Result struct {
	IPs        []string // of the pod, without mask, primary first
	Interfaces []Interface
	Raw        json.RawMessage // the CNI result, for Check and Detach
}

// Network is the service. Its methods may be called concurrently.
type Network struct {
	opts Options
	log  *slog.Logger
	exec *Exec
	lib  *libcni.CNIConfig

	mu      sync.Mutex
	loaded  loaded
	changed chan struct{}

	// asking is held while the plugins are asked for their status, so that they are
	// asked once; the other fields have mu.
	asking sync.Mutex
	status struct { // the last answer
		at   time.Time
		err  error
		good time.Time // when the network of this name was last ready
		of   string
	}

	stop    context.CancelFunc
	stopped chan struct{}
}

// statusAge is how long an answer of the plugins' verb STATUS is good for.
const statusAge = 5 * time.Second

// New loads the configurations and starts to watch their folder. A folder that is
// absent, or files that are broken, are no error here: Status tells.
func New(o Options) (*Network, error) {
	if o.ConfDir == "" {
		return nil, errs.Invalid("cannot start the pod network: no network_dir is given")
	}
	if o.CacheDir == "" {
		o.CacheDir = DefaultCacheDir
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := NewExec(o.Plugins, o.Log)
	n := &Network{opts: o, log: o.Log, exec: e, changed: make(chan struct{}), stopped: make(chan struct{}),
		lib: libcni.NewCNIConfigWithCacheDir(o.PluginDirs, o.CacheDir, e)}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	w := watch.New("the CNI configuration folder", watch.Dir(o.ConfDir), o.Log)
	n.reload()
	go func() {
		defer close(n.stopped)
		w.Run(ctx, n.reload)
	}()
	return n, nil
}

// Close ends the watch. Attachments stay.
func (n *Network) Close() error {
	n.stop()
	<-n.stopped
	return nil
}

// reload reads the folder again.
func (n *Network) reload() {
	l := load(n.opts, n.exec)
	n.mu.Lock()
	defer n.mu.Unlock()
	if l.same(n.loaded) {
		return
	}
	n.loaded = l
	n.status.at = time.Time{}
	close(n.changed)
	n.changed = make(chan struct{})
	for _, err := range l.broken {
		n.log.Warn("CNI configuration is not usable", "err", err)
	}
	if l.chosen != nil {
		n.log.Info("pod network chosen", "network", l.chosen.Name, "file", l.chosen.File)
	}
}

// Changed returns a channel that is closed at the next change of configuration.
func (n *Network) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// Select returns the configuration that new pods get. Its caller records it before
// Attach and hands the same bytes to Detach.
func (n *Network) Select() (Config, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.loaded.chosen == nil {
		return Config{}, n.loaded.why(n.opts)
	}
	return *n.loaded.chosen, nil
}

// attachError: what a network lacks (a plugin, an interface) is no pod that is not found.
func attachError(id, network string, err error) error {
	err = fmt.Errorf("cannot attach pod %s to network %s: %w", id, network, err)
	if errs.Is(err, errs.KindNotFound) {
		err = errs.With(errs.KindUnavailable, err)
	}
	return err
}

// Status returns nil when pods can be attached, else an error of
// errs.KindUnavailable that says where it looked and what is wrong there.
func (n *Network) Status(ctx context.Context) error {
	n.asking.Lock()
	defer n.asking.Unlock()
	n.mu.Lock()
	at, answer, changed := n.status.at, n.status.err, n.changed
	n.mu.Unlock()
	c, err := n.Select()
	if err != nil {
		return err
	}
	if time.Since(at) < statusAge {
		return answer
	}
	err = n.ask(ctx, c)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case err == nil:
		n.status.good, n.status.of = time.Now(), c.Name
	case n.status.of == c.Name && time.Since(n.status.good) < n.opts.StatusGrace:
		n.log.Warn("the pod network says that it is not ready; it counts as ready for the grace period (cni_status_grace_period)", "err", err)
		err = nil
	}
	if ctx.Err() == nil && n.changed == changed {
		n.status.at, n.status.err = time.Now(), err
	}
	return err
}

// ask finds the plugins of a configuration and runs their verb STATUS.
func (n *Network) ask(ctx context.Context, c Config) error {
	list, err := parseList(c)
	if err == nil {
		err = n.find(list)
	}
	if err == nil {
		err = n.lib.GetStatusNetworkList(ctx, list)
	}
	if err != nil {
		return errs.Unavailable("network %s (%s) is not ready: %w", c.Name, c.File, err)
	}
	return nil
}

// find looks for all plugins of a list.
func (n *Network) find(list *libcni.NetworkConfigList) error {
	var missing []error
	for _, p := range list.Plugins {
		for _, name := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if name == "" {
				continue
			}
			if _, err := n.exec.FindInPath(name, n.opts.PluginDirs); err != nil {
				missing = append(missing, err)
			}
		}
	}
	return errors.Join(missing...)
}

// Attach gives a pod its interfaces: lo and those of the configuration. If it fails
// it takes back what it did; what could not be taken back is in the error.
func (n *Network) Attach(ctx context.Context, c Config, r Request) (Result, error) {
	list, err := parseList(c)
	if err != nil {
		return Result{}, err
	}
	rt, err := runtimeConf(r)
	if err != nil {
		return Result{}, err
	}
	if err := n.find(list); err != nil {
		return Result{}, attachError(r.ID, c.Name, err)
	}
	if err := n.loopback(ctx, r); err != nil {
		return Result{}, fmt.Errorf("cannot bring up lo of pod %s: %w", r.ID, err)
	}
	res, err := n.lib.AddNetworkList(ctx, list, rt)
	var out Result
	if err == nil {
		out, err = rawResult(res)
	}
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		// The caller's time may be over, but not the duty to clean up.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return Result{}, errors.Join(
			attachError(r.ID, c.Name, err),
			n.Detach(undo, c, r, out.Raw))
	}
	return out, nil
}

// loopback brings up lo by the embedded plugin, always: it is no choice of the
// network.
func (n *Network) loopback(ctx context.Context, r Request) error {
	p := n.exec.lookup("loopback")
	if p == nil {
		return errs.NotFound("embedded CNI plugin", "loopback")
	}
	_, err := OnThread(func() (types.Result, error) {
		return p.Run(ctx, "ADD", &plugin.Request{ContainerID: r.ID, NetNS: r.NetNS, IfName: "lo", Delegate: n.exec.Delegate,
			Config: []byte(`{"cniVersion":"1.1.0","name":"loopback","type":"loopback"}`)})
	})
	return err
}

// runtimeConf puts a request into the words of the protocol.
func runtimeConf(r Request) (*libcni.RuntimeConf, error) {
	args := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", r.PodNamespace},
		{"K8S_POD_NAME", r.PodName},
		{infraArg, r.ID},
		{"K8S_POD_UID", r.PodUID},
	}
	for _, kv := range args {
		if strings.ContainsAny(kv[1], ";=\x00") {
			return nil, errs.Invalid("cannot tell plugins about pod %s: %s is %q, and CNI_ARGS allows no ';' and '='", r.ID, kv[0], kv[1])
		}
	}
	caps := map[string]any{}
	ports, err := portMappings(r.Ports)
	if err != nil {
		return nil, err
	}
	if len(ports) > 0 {
		caps["portMappings"] = ports
	}
	if r.IngressBPS > 0 || r.EgressBPS > 0 {
		b := map[string]uint64{}
		if r.IngressBPS > 0 {
			b["ingressRate"], b["ingressBurst"] = r.IngressBPS, burst(r.IngressBPS)
		}
		if r.EgressBPS > 0 {
			b["egressRate"], b["egressBurst"] = r.EgressBPS, burst(r.EgressBPS)
		}
		caps["bandwidth"] = b
	}
	if len(r.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = r.Annotations
	}
	if r.CgroupPath != "" {
		caps["cgroupPath"] = r.CgroupPath
	}
	return &libcni.RuntimeConf{ContainerID: r.ID, NetNS: r.NetNS, IfName: IfName, Args: args, CapabilityArgs: caps}, nil
}

// burst allows a tenth of a second at full rate, and at least the 64 KiB of a
// packet as the kernel hands it on before it is cut up; in bits.
func burst(bps uint64) uint64 { return min(max(bps/10, 64<<10*8), 1<<34) }

func portMappings(ports []Port) ([]map[string]any, error) {
	var out []map[string]any
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		proto := strings.ToLower(p.Protocol)
		if proto == "" {
			proto = "tcp"
		}
		if p.HostIP != "" && net.ParseIP(p.HostIP) == nil {
			return nil, errs.Invalid("cannot map host port %d: host_ip %q is no address", p.HostPort, p.HostIP)
		}
		out = append(out, map[string]any{"hostPort": p.HostPort, "containerPort": p.ContainerPort, "protocol": proto, "hostIP": p.HostIP})
	}
	return out, nil
}

// netns returns the namespace's path, or "" if nothing usable is there.
func netns(path string) string {
	if plugin.Gone(path) {
		return ""
	}
	return path
}

// cacheFile is where the CNI library caches an attachment.
func (n *Network) cacheFile(network, id string) string {
	return filepath.Join(n.opts.CacheDir, "results", network+"-"+id+"-"+IfName)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
