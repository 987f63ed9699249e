// Package bridge is the CNI plugin "bridge": a pod gets one end of a veth pair, the
// other end is a port of a bridge on the node.
//
// Configuration keys and their meaning are those of the upstream plugin. The bridge
// is made when it is first needed and stays. Masquerading (ipMasq) and protection
// against forged hardware addresses (macspoofchk) are elements of tables of package
// nft; the key ipMasqBackend is therefore accepted and has no effect.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "bridge", About: "joins pods by a bridge of the node", Add: add, Del: del, Check: check, GC: gc, Status: status}

// attachment is what one call works on.
type attachment struct {
	conf *conf
	req  *plugin.Request
	host *netlink.Handle
	pod  *link.NetNS
	br   *netlink.Bridge
	port netlink.Link
	res  *current.Result
	undo []func() error
}

func (a *attachment) owner() nft.Owner {
	return nft.Owner{Network: a.conf.Name, ID: a.req.ContainerID, IfName: a.req.IfName}
}

func add(ctx context.Context, r *plugin.Request) (_ *current.Result, err error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	a := &attachment{conf: c, req: r}
	if a.host, err = link.Host(); err != nil {
		return nil, err
	}
	defer a.host.Close()
	if a.pod, err = link.Open(r.NetNS); err != nil {
		return nil, err
	}
	defer a.pod.Close()
	for _, step := range []func(context.Context) error{a.bridge, a.veth, a.spoofCheck, a.addresses, a.masquerade, a.describe} {
		if err = step(ctx); err != nil {
			for i := len(a.undo) - 1; i >= 0; i-- {
				err = errors.Join(err, a.undo[i]())
			}
			return nil, err
		}
	}
	return a.res, nil
}

func (a *attachment) bridge(context.Context) (err error) {
	a.br, err = ensure(a.host, a.conf)
	return err
}

// veth makes the pair and the port.
func (a *attachment) veth(context.Context) error {
	mac, err := link.ParseMAC(a.conf.mac)
	if err != nil {
		return err
	}
	v, err := link.Veth{Peer: a.req.IfName, PeerMAC: mac, MTU: a.conf.MTU, Master: a.br.Index}.Add(a.host, a.pod)
	if err != nil {
		return err
	}
	a.port = v
	a.undo = append(a.undo, func() error { return link.Delete(a.host, v.Name) })
	link.TrySysctl("0", "ipv6/conf", v.Name, "accept_ra") // a pod is no router of ours
	if err := setPort(a.host, v, a.conf); err != nil {
		return err
	}
	if err := a.host.LinkSetUp(v); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", v.Name, err)
	}
	peer, err := link.ByName(a.pod.Handle, a.req.IfName)
	if err != nil {
		return err
	}
	a.res = &current.Result{CNIVersion: current.ImplementedSpecVersion, Interfaces: []*current.Interface{
		{Name: a.br.Name},
		{Name: v.Name},
		{Name: a.req.IfName, Mac: peer.Attrs().HardwareAddr.String(), Sandbox: a.req.NetNS, Mtu: peer.Attrs().MTU},
	}}
	if a.conf.IPAM.Type == "" && !a.conf.DisableContainerInterface {
		return a.pod.LinkSetUp(peer)
	}
	return nil
}

func (a *attachment) spoofCheck(context.Context) error {
	if !a.conf.MacSpoofChk {
		return nil
	}
	mac, err := net.ParseMAC(a.res.Interfaces[2].Mac)
	if err != nil {
		return err
	}
	a.undo = append(a.undo, func() error {
		_, err := SpoofTable().Remove(nft.Only(a.owner()))
		return err
	})
	return SpoofTable().Add(a.owner(), spoofElements(a.port.Attrs().Name, mac), nil)
}

// addresses asks the IPAM plugin and applies what it says, in the pod and, as its
// gateway, on the bridge.
func (a *attachment) addresses(ctx context.Context) error {
	if a.conf.IPAM.Type == "" {
		return nil
	}
	ipam, err := plugin.IPAM(ctx, a.req, a.conf.IPAM.Type)
	if err != nil {
		return err
	}
	a.undo = append(a.undo, func() error { return plugin.Release(ctx, a.req, "DEL", a.conf.IPAM.Type) })
	a.res.IPs, a.res.Routes, a.res.DNS = ipam.IPs, ipam.Routes, ipam.DNS
	for _, ip := range a.res.IPs {
		ip.Interface = current.Int(2)
		if ip.Gateway == nil && a.conf.IsGW {
			ip.Gateway = link.First(ip.Address)
		}
		if a.conf.IsDefaultGW && !link.HasDefault(a.res.Routes, ip.Address.IP) {
			a.res.Routes = append(a.res.Routes, &types.Route{Dst: link.Default(ip.Address.IP), GW: ip.Gateway})
		}
	}
	if a.conf.IsGW {
		if err := a.gateway(); err != nil {
			return err
		}
	}
	return link.Configure(a.pod, a.req.IfName, a.res, a.conf.EnableDad)
}

// gateway puts the gateways' addresses on the bridge, or on its interface in the
// VLAN, and lets the node route.
func (a *attachment) gateway() error {
	var on netlink.Link = a.br
	if a.conf.Vlan != 0 {
		l, err := ensureVlanGateway(a.host, a.br, a.conf)
		if err != nil {
			return err
		}
		on = l
		a.res.Interfaces = append(a.res.Interfaces, &current.Interface{Name: l.Attrs().Name, Mac: l.Attrs().HardwareAddr.String()})
	}
	for _, ip := range a.res.IPs {
		gw := &net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask}
		if err := ensureAddress(a.host, on, gw, a.conf.ForceAddress); err != nil {
			return err
		}
		if err := link.Forward(ip.Gateway); err != nil {
			return fmt.Errorf("cannot route for pods: %w", err)
		}
	}
	return nil
}

func (a *attachment) masquerade(context.Context) error {
	if !a.conf.IPMasq || a.conf.IPAM.Type == "" {
		return nil
	}
	a.undo = append(a.undo, func() error {
		_, err := nft.MasqueradeTable().Remove(nft.Only(a.owner()))
		return err
	})
	return nft.MasqueradeTable().Add(a.owner(), nft.MasqueradeElements(nets(a.res)), nil)
}

func nets(res *current.Result) (out []net.IPNet) {
	for _, ip := range res.IPs {
		out = append(out, ip.Address)
	}
	return out
}

// describe completes the result with what the kernel chose, once the port works.
func (a *attachment) describe(context.Context) error {
	name := a.port.Attrs().Name
	l, err := link.ByName(a.host, name)
	if err == nil && !a.conf.DisableContainerInterface {
		l, err = link.WaitUp(a.host, name)
	}
	if err != nil {
		return err
	}
	a.res.Interfaces[1].Mac = l.Attrs().HardwareAddr.String()
	a.res.Interfaces[0].Mac = a.br.HardwareAddr.String()
	a.res.DNS = plugin.DNS(a.conf.DNS, a.res.DNS)
	return nil
}

// del takes everything back; what is gone is no error. The address is released
// last, when nobody uses it any more.
func del(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	o := nft.Owner{Network: c.Name, ID: r.ContainerID, IfName: r.IfName}
	var masq, spoof, pod error
	if c.IPMasq {
		_, masq = nft.MasqueradeTable().Remove(nft.Only(o))
	}
	if c.MacSpoofChk {
		_, spoof = SpoofTable().Remove(nft.Only(o))
	}
	if !plugin.Gone(r.NetNS) {
		pod = link.DeletePod(r.NetNS, r.IfName)
	}
	if pod != nil {
		return errors.Join(masq, spoof, pod)
	}
	return errors.Join(masq, spoof, plugin.Release(ctx, r, "DEL", c.IPAM.Type))
}

func check(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of bridge")
	if err != nil {
		return err
	}
	host, err := link.Host()
	if err != nil {
		return err
	}
	defer host.Close()
	if err := checkPort(host, c, prev); err != nil {
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
	if c.IPMasq {
		o := nft.Owner{Network: c.Name, ID: r.ContainerID, IfName: r.IfName}
		n, err := nft.MasqueradeTable().Missing(o, nft.MasqueradeElements(nets(prev)))
		if err != nil {
			return err
		}
		if n > 0 {
			return errs.Precondition("the pod is no longer masqueraded: %d elements are missing in table %s", n, nft.MasqueradeTable().Name)
		}
	}
	return plugin.Release(ctx, r, "CHECK", c.IPAM.Type)
}

// checkPort finds the bridge and the pod's port on it.
func checkPort(host *netlink.Handle, c *conf, prev *current.Result) error {
	br, err := find(host, c.Bridge)
	if err != nil {
		return err
	}
	for _, i := range prev.Interfaces {
		if i.Sandbox != "" || i.Name == c.Bridge || len(i.Name) < 4 || i.Name[:4] != "veth" {
			continue
		}
		l, err := link.ByName(host, i.Name)
		if err != nil {
			return err
		}
		if l.Attrs().MasterIndex != br.Index {
			return errs.Precondition("interface %s is no port of bridge %s", i.Name, c.Bridge)
		}
	}
	return nil
}

func gc(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	_, masq := nft.MasqueradeTable().Remove(nft.Stale(c.Name, c.ValidAttachments))
	_, spoof := SpoofTable().Remove(nft.Stale(c.Name, c.ValidAttachments))
	return errors.Join(masq, spoof, plugin.Release(ctx, r, "GC", c.IPAM.Type))
}

func status(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	if c.IPMasq || c.MacSpoofChk {
		if err := nft.Supported(); err != nil {
			return err
		}
	}
	return plugin.Release(ctx, r, "STATUS", c.IPAM.Type)
}
