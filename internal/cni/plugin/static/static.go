// Package static is the CNI plugin "static": addresses that are written down, in
// the configuration, in CNI_ARGS (IP, GATEWAY), in args.cni.ips or in the
// capability ips; each later one wins over those before, except CNI_ARGS, which
// adds.
package static

import (
	"context"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "static", About: "gives out the addresses that are written down", Add: add, Check: check}

type conf struct {
	IPAM *struct {
		Routes    []*types.Route `json:"routes"`
		Addresses []address      `json:"addresses"`
		DNS       types.DNS      `json:"dns"`
	} `json:"ipam"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	Runtime struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
}

type address struct {
	Address string `json:"address"`
	Gateway net.IP `json:"gateway"`
}

// load returns the configuration and the addresses that hold.
func load(r *plugin.Request) (*conf, []*current.IPConfig, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, nil, err
	}
	if c.IPAM == nil {
		return nil, nil, errs.Invalid("key ipam is missing")
	}
	list := c.IPAM.Addresses
	for _, ip := range split(plugin.Arg(r.Args, "IP")) {
		list = append(list, address{Address: ip})
	}
	for _, over := range [][]string{c.Args.CNI.IPs, c.Runtime.IPs} {
		if len(over) == 0 {
			continue
		}
		list = nil
		for _, ip := range over {
			list = append(list, address{Address: ip})
		}
	}
	var out []*current.IPConfig
	for _, a := range list {
		ip, n, err := net.ParseCIDR(a.Address)
		if err != nil {
			return nil, nil, errs.Invalid("static address %q is none with a prefix length, like 192.0.2.7/24", a.Address)
		}
		if v4 := ip.To4(); v4 != nil {
			ip = v4
		}
		out = append(out, &current.IPConfig{Address: net.IPNet{IP: ip, Mask: n.Mask}, Gateway: a.Gateway})
	}
	for _, s := range split(plugin.Arg(r.Args, "GATEWAY")) {
		gw := net.ParseIP(s)
		if gw == nil {
			return nil, nil, errs.Invalid("static gateway %q is no address", s)
		}
		for _, a := range out {
			if a.Address.Contains(gw) {
				a.Gateway = gw
			}
		}
	}
	return c, out, nil
}

func split(s string) (out []string) {
	for _, f := range strings.Split(s, ",") {
		if f = strings.TrimSpace(f); f != "" {
			out = append(out, f)
		}
	}
	return out
}

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	c, ips, err := load(r)
	if err != nil {
		return nil, err
	}
	return &current.Result{CNIVersion: current.ImplementedSpecVersion, IPs: ips, Routes: c.IPAM.Routes, DNS: c.IPAM.DNS}, nil
}

func check(_ context.Context, r *plugin.Request) error {
	_, ips, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of static")
	if err != nil {
		return err
	}
	for _, want := range ips {
		found := false
		for _, have := range prev.IPs {
			found = found || have.Address.IP.Equal(want.Address.IP)
		}
		if !found {
			return errs.Precondition("the pod has no address %s", want.Address.String())
		}
	}
	return nil
}
