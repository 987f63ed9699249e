// Package macvlan is the CNI plugin "macvlan": a pod gets an interface with an
// Ethernet address of its own on a network interface of the node.
package macvlan

import (
	"context"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/cni/plugin/sublink"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "macvlan", About: "gives the pod a MAC address on a device of the node", Add: add, Del: sublink.Del, Check: check, GC: sublink.GC, Status: sublink.Status}

type conf struct {
	sublink.Conf
	Mode       string `json:"mode"`
	MAC        string `json:"mac"`
	BcQueueLen uint32 `json:"bcqueuelen"`
}

// mode reads the key of that name.
func mode(s string) (netlink.MacvlanMode, error) {
	switch s {
	case "", "bridge":
		return netlink.MACVLAN_MODE_BRIDGE, nil
	case "private":
		return netlink.MACVLAN_MODE_PRIVATE, nil
	case "vepa":
		return netlink.MACVLAN_MODE_VEPA, nil
	case "passthru":
		return netlink.MACVLAN_MODE_PASSTHRU, nil
	}
	return 0, errs.Invalid("key mode: %q is none of bridge, private, vepa, passthru", s)
}

func add(ctx context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	m, err := mode(c.Mode)
	if err != nil {
		return nil, err
	}
	asked, err := plugin.MAC(r)
	if err != nil {
		return nil, err
	}
	if asked == "" {
		asked = c.MAC
	}
	mac, err := link.ParseMAC(asked)
	if err != nil {
		return nil, err
	}
	return sublink.Add(ctx, r, &c.Conf, "CONFIG_MACVLAN", func(a netlink.LinkAttrs) (netlink.Link, error) {
		a.HardwareAddr = mac
		return &netlink.Macvlan{LinkAttrs: a, Mode: m, BCQueueLen: c.BcQueueLen}, nil
	})
}

func check(ctx context.Context, r *plugin.Request) error { return sublink.Check(ctx, r, "macvlan") }
