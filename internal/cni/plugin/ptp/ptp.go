// Package ptp is the CNI plugin "ptp": a veth pair between the pod and the node,
// and routes; no bridge.
//
// The pod's interface has the address with its subnet's mask, but everything except
// the gateway is reached by the gateway, which is the node's end of the pair. Keys
// are those of the upstream plugin; ipMasqBackend has no effect, for masquerading
// is done by package nft.
package ptp

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "ptp", About: "joins a pod to the node by a pair of its own", Add: add, Del: del, Check: check, GC: gc, Status: status}

type conf struct {
	types.PluginConf
	IPMasq        bool    `json:"ipMasq"`
	IPMasqBackend *string `json:"ipMasqBackend"`
	MTU           int     `json:"mtu"`
}

func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err == nil && c.IPAM.Type == "" {
		err = errs.Invalid("key ipam.type is missing: ptp needs addresses")
	}
	return c, err
}

func owner(c *conf, r *plugin.Request) nft.Owner {
	return nft.Owner{Network: c.Name, ID: r.ContainerID, IfName: r.IfName}
}

func add(ctx context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	host, err := link.Host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	res, err := plugin.IPAM(ctx, r, c.IPAM.Type)
	if err != nil {
		return nil, err
	}
	if err := connect(c, r, host, pod, res); err != nil {
		return nil, errors.Join(err, plugin.Release(ctx, r, "DEL", c.IPAM.Type))
	}
	res.DNS = plugin.DNS(c.DNS, res.DNS)
	return res, nil
}

// connect makes the pair with its addresses and routes, or nothing.
func connect(c *conf, r *plugin.Request, host *netlink.Handle, pod *link.NetNS, res *current.Result) error {
	v, err := link.Veth{Peer: r.IfName, MTU: c.MTU}.Add(host, pod)
	if err != nil {
		return err
	}
	err = func() error {
		peer, err := link.ByName(pod.Handle, r.IfName)
		if err != nil {
			return err
		}
		res.Interfaces = []*current.Interface{
			{Name: v.Name},
			{Name: r.IfName, Mac: peer.Attrs().HardwareAddr.String(), Sandbox: r.NetNS, Mtu: peer.Attrs().MTU}}
		for _, ip := range res.IPs {
			ip.Interface = current.Int(1)
			if ip.Gateway == nil {
				return errs.Invalid("IPAM plugin %s gave no gateway for %s: ptp needs one", c.IPAM.Type, ip.Address.String())
			}
		}
		if err := nodeSide(host, v, res); err != nil {
			return err
		}
		if err := podSide(pod, peer, res); err != nil {
			return err
		}
		if c.IPMasq {
			var nets []net.IPNet
			for _, ip := range res.IPs {
				nets = append(nets, ip.Address)
			}
			return nft.MasqueradeTable().Add(owner(c, r), nft.MasqueradeElements(nets), nil)
		}
		return nil
	}()
	if err != nil {
		err = errors.Join(err, link.Delete(host, v.Name))
	}
	return err
}

// nodeSide gives the node's end the gateway's addresses and routes to the pod's.
func nodeSide(h *netlink.Handle, v *netlink.Veth, res *current.Result) error {
	link.TrySysctl("0", "ipv6/conf", v.Name, "accept_ra")
	if err := h.LinkSetUp(v); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", v.Name, err)
	}
	l, err := link.ByName(h, v.Name)
	if err != nil {
		return err
	}
	res.Interfaces[0].Mac = l.Attrs().HardwareAddr.String()
	for _, ip := range res.IPs {
		a := &netlink.Addr{IPNet: link.HostNet(ip.Gateway)}
		if ip.Gateway.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, a); err != nil {
			return fmt.Errorf("cannot add the gateway's address %s to %s: %w", ip.Gateway, v.Name, err)
		}
		err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: link.HostNet(ip.Address.IP)})
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot add the route to %s: %w", ip.Address.IP, err)
		}
		if err := link.Forward(ip.Gateway); err != nil {
			return err
		}
	}
	return nil
}

// podSide configures the pod's end: the subnet's own route is replaced by one to
// the gateway and one by the gateway.
func podSide(pod *link.NetNS, peer netlink.Link, res *current.Result) error {
	bare := *res
	bare.Routes = nil
	if err := link.Configure(pod, peer.Attrs().Name, &bare, false); err != nil {
		return err
	}
	i := peer.Attrs().Index
	for _, ip := range res.IPs {
		subnet := &net.IPNet{IP: ip.Address.IP.Mask(ip.Address.Mask), Mask: ip.Address.Mask}
		if err := pod.RouteDel(&netlink.Route{LinkIndex: i, Dst: subnet, Scope: netlink.SCOPE_NOWHERE}); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot replace the route to %s: %w", subnet, err)
		}
		for _, rt := range []*netlink.Route{
			{LinkIndex: i, Dst: link.HostNet(ip.Gateway), Scope: netlink.SCOPE_LINK, Src: ip.Address.IP},
			{LinkIndex: i, Dst: subnet, Gw: ip.Gateway, Src: ip.Address.IP},
		} {
			if err := pod.RouteAdd(rt); err != nil && !errors.Is(err, unix.EEXIST) {
				return fmt.Errorf("cannot add the route to %s: %w", rt.Dst, err)
			}
		}
	}
	return link.AddRoutes(pod, peer, res)
}

func del(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	var masq error
	if c.IPMasq {
		_, masq = nft.MasqueradeTable().Remove(nft.Only(owner(c, r)))
	}
	if !plugin.Gone(r.NetNS) {
		if err := link.DeletePod(r.NetNS, r.IfName); err != nil {
			return errors.Join(masq, err)
		}
	}
	return errors.Join(masq, plugin.Release(ctx, r, "DEL", c.IPAM.Type))
}

func check(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of ptp")
	if err != nil {
		return err
	}
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	if err := link.Verify(pod, r.IfName, prev); err != nil {
		return err
	}
	return plugin.Release(ctx, r, "CHECK", c.IPAM.Type)
}

func gc(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	_, masq := nft.MasqueradeTable().Remove(nft.Stale(c.Name, c.ValidAttachments))
	return errors.Join(masq, plugin.Release(ctx, r, "GC", c.IPAM.Type))
}

func status(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err == nil && c.IPMasq {
		err = nft.Supported()
	}
	if err != nil {
		return err
	}
	return plugin.Release(ctx, r, "STATUS", c.IPAM.Type)
}
