// Package hostlocal is the CNI plugin "host-local": addresses from ranges of this
// node, leases as files.
//
// Configuration keys, data folder and file format are those of the upstream plugin,
// whose allocator does the choosing, so that a node may change from one to the
// other with pods running. A lock file per network makes concurrent callers, also
// other processes, safe.
package hostlocal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "host-local", About: "gives out addresses from ranges of this node", Add: add, Del: del, Check: check, GC: gc, Status: status}

// DefaultDir is where leases are without the key dataDir.
const DefaultDir = "/var/lib/cni/networks"

func load(r *plugin.Request) (*allocator.IPAMConfig, error) {
	conf, _, err := allocator.LoadIPAMConfig(r.Config, r.Args)
	if err != nil {
		return nil, errs.Invalid("cannot read the host-local configuration: %s", plugin.Explain(r.Config, err))
	}
	return conf, nil
}

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	conf, err := load(r)
	if err != nil {
		return nil, err
	}
	res := &current.Result{CNIVersion: current.ImplementedSpecVersion, Routes: conf.Routes}
	if conf.ResolvConf != "" {
		if res.DNS, err = resolvConf(conf.ResolvConf); err != nil {
			return nil, err
		}
	}
	s, err := open(conf.DataDir, conf.Name)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	res.IPs, err = lease(s, conf, r)
	if err == nil {
		return res, nil
	}
	if len(res.IPs) > 0 { // else what the pod has is from an earlier call
		err = errors.Join(err, s.ReleaseByID(r.ContainerID, r.IfName))
	}
	return nil, err
}

// lease takes an address of each range set; those that were asked for must all be
// in one of them. With an error it returns what it has taken so far.
func lease(s *store, conf *allocator.IPAMConfig, r *plugin.Request) ([]*current.IPConfig, error) {
	asked := append([]net.IP(nil), conf.IPArgs...)
	var ips []*current.IPConfig
	for i := range conf.Ranges {
		var want net.IP
		for j, ip := range asked {
			if conf.Ranges[i].Contains(ip) {
				want, asked = ip, append(asked[:j:j], asked[j+1:]...)
				break
			}
		}
		ip, err := allocator.NewIPAllocator(&conf.Ranges[i], s, i).Get(r.ContainerID, r.IfName, want)
		if err != nil {
			return ips, errs.Errorf(errs.KindExhausted, "cannot lease an address of network %s in %s: %w", conf.Name, s.dir, err)
		}
		ips = append(ips, ip)
	}
	if len(asked) > 0 {
		return ips, errs.Invalid("cannot lease %v: no range of network %s has it", asked, conf.Name)
	}
	return ips, nil
}

func del(_ context.Context, r *plugin.Request) error {
	conf, err := load(r)
	if err != nil {
		return err
	}
	s, err := open(conf.DataDir, conf.Name)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.release(func(o owner) bool { return o.is(r.ContainerID, r.IfName) })
}

func check(_ context.Context, r *plugin.Request) error {
	conf, err := load(r)
	if err != nil {
		return err
	}
	s, err := open(conf.DataDir, conf.Name)
	if err != nil {
		return err
	}
	defer s.Close()
	if len(s.GetByID(r.ContainerID, r.IfName)) == 0 {
		return errs.NotFound("lease of container", r.ContainerID)
	}
	return nil
}

func gc(_ context.Context, r *plugin.Request) error {
	conf, err := load(r)
	if err != nil {
		return err
	}
	c, err := plugin.Decode[types.PluginConf](r)
	if err != nil {
		return err
	}
	return Sweep(conf.DataDir, conf.Name, func(id, ifName string) bool {
		for _, a := range c.ValidAttachments {
			if a.ContainerID == id && (ifName == "" || a.IfName == ifName) {
				return true
			}
		}
		return false
	})
}

// Sweep releases the leases of a network that have no valid owner. dir is the key
// dataDir, or "".
func Sweep(dir, network string, valid func(id, ifName string) bool) error {
	if _, err := os.Stat(folder(dir, network)); os.IsNotExist(err) {
		return nil
	}
	s, err := open(dir, network)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.release(func(o owner) bool { return !valid(o.id, o.ifName) })
}

// status finds out whether leases can be written.
func status(_ context.Context, r *plugin.Request) error {
	conf, err := load(r)
	if err != nil {
		return err
	}
	s, err := open(conf.DataDir, conf.Name)
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return s.Close()
}

func folder(dir, network string) string {
	if dir == "" {
		dir = DefaultDir
	}
	return filepath.Join(dir, network)
}

// resolvConf reads name servers as resolv.conf(5) lists them.
func resolvConf(path string) (types.DNS, error) {
	var dns types.DNS
	data, err := os.ReadFile(path)
	if err != nil {
		return dns, fmt.Errorf("cannot read the name servers (key resolvConf): %w", err)
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, f[1])
		case "domain":
			dns.Domain = f[1]
		case "search":
			dns.Search = append(dns.Search, f[1:]...)
		case "options":
			dns.Options = append(dns.Options, f[1:]...)
		}
	}
	return dns, nil
}
