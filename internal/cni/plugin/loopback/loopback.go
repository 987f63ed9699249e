// Package loopback is the CNI plugin "loopback": it brings up lo in a pod.
package loopback

import (
	"context"
	"fmt"
	"net"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "loopback", About: "brings lo up", Add: add, Del: del, Check: check}

// The interface is always this one, whatever name the runtime gives.
const name = "lo"

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	prev, err := plugin.PrevResult(r)
	if err != nil {
		return nil, err
	}
	n, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	l, err := link.ByName(n.Handle, name)
	if err == nil {
		if err = n.LinkSetUp(l); err != nil {
			err = fmt.Errorf("cannot bring up %s: %w", name, err)
		}
	}
	if err != nil || prev != nil {
		return prev, err
	}
	return result(n, l, r)
}

// result tells what the kernel gave lo when it came up.
func result(n *link.NetNS, l netlink.Link, r *plugin.Request) (*current.Result, error) {
	res := &current.Result{CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{{Name: name, Mac: "00:00:00:00:00:00", Sandbox: r.NetNS}}}
	addrs, err := n.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list the addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		res.IPs = append(res.IPs, &current.IPConfig{Interface: current.Int(0), Address: *a.IPNet})
	}
	return res, nil
}

// del leaves lo as it is: it goes with the namespace, and a later plugin of the
// list, or a pod that still runs, may need it.
func del(context.Context, *plugin.Request) error { return nil }

func check(_ context.Context, r *plugin.Request) error {
	n, err := link.Open(r.NetNS)
	if err != nil {
		return err
	}
	defer n.Close()
	l, err := link.ByName(n.Handle, name)
	if err != nil {
		return err
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return errs.Precondition("interface %s is down", name)
	}
	return nil
}
