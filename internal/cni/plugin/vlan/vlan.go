// Package vlan is the CNI plugin "vlan": a pod gets an interface in an 802.1Q VLAN
// of a network interface of the node.
package vlan

import (
	"context"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/cni/plugin/sublink"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "vlan", About: "gives the pod a VLAN of a device of the node", Add: add, Del: sublink.Del, Check: check, GC: sublink.GC, Status: sublink.Status}

type conf struct {
	sublink.Conf
	VlanID int `json:"vlanId"`
}

func add(ctx context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if c.Master == "" {
		return nil, errs.Invalid("key master is missing: name the interface of the node that the VLAN is on")
	}
	if c.VlanID < 0 || c.VlanID > 4094 {
		return nil, errs.Invalid("key vlanId: %d is no VLAN; give 0 to 4094", c.VlanID)
	}
	return sublink.Add(ctx, r, &c.Conf, "CONFIG_VLAN_8021Q", func(a netlink.LinkAttrs) (netlink.Link, error) {
		return &netlink.Vlan{LinkAttrs: a, VlanId: c.VlanID}, nil
	})
}

func check(ctx context.Context, r *plugin.Request) error { return sublink.Check(ctx, r, "vlan") }
