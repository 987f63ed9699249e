// Package sublink is what the plugins macvlan and vlan have in common: an interface
// on top of another one (its master), made for and moved into a pod.
package sublink

import (
	"context"
	"errors"
	"fmt"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Conf has the keys that both plugins know.
type Conf struct {
	types.PluginConf
	Master          string `json:"master"`
	MTU             int    `json:"mtu"`
	LinkInContainer bool   `json:"linkInContainer"`
}

// Make describes the interface; the attributes have name, master, MTU and target.
type Make func(netlink.LinkAttrs) (netlink.Link, error)

// Add makes the interface, asks the IPAM plugin if there is one, and configures it.
// option names what a kernel without this type lacks.
func Add(ctx context.Context, r *plugin.Request, c *Conf, option string, mk Make) (_ *current.Result, err error) {
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	l, err := create(c, r, pod, option, mk)
	if err != nil {
		return nil, err
	}
	undo := []func() error{func() error { return pod.Delete(r.IfName) }}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	res := &current.Result{}
	if c.IPAM.Type != "" {
		if res, err = plugin.IPAM(ctx, r, c.IPAM.Type); err != nil {
			return nil, err
		}
		undo = append(undo, func() error { return plugin.Release(ctx, r, "DEL", c.IPAM.Type) })
	}
	res.Interfaces = []*current.Interface{{Name: r.IfName, Mac: l.Attrs().HardwareAddr.String(), Sandbox: r.NetNS, Mtu: l.Attrs().MTU}}
	for _, ip := range res.IPs {
		ip.Interface = current.Int(0)
	}
	// The network is one of real machines, so IPv6 addresses are checked first.
	if err = link.Configure(pod, r.IfName, res, true); err != nil {
		return nil, err
	}
	res.DNS = plugin.DNS(c.DNS, res.DNS)
	return res, nil
}

// create makes the interface under a name that is free on both sides and renames
// it in the pod.
func create(c *Conf, r *plugin.Request, pod *link.NetNS, option string, mk Make) (netlink.Link, error) {
	host, err := link.Host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	at := host
	if c.LinkInContainer {
		at = pod.Handle
	}
	master, err := masterOf(at, c.Master)
	if err != nil {
		return nil, err
	}
	if c.MTU < 0 || c.MTU > master.Attrs().MTU {
		return nil, errs.Invalid("key mtu: %d is not within 0 and %d, which %s has", c.MTU, master.Attrs().MTU, master.Attrs().Name)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.ParentIndex, attrs.Namespace = link.RandomName("tmp"), c.MTU, master.Attrs().Index, netlink.NsFd(pod.Fd())
	want, err := mk(attrs)
	if err != nil {
		return nil, err
	}
	if err := at.LinkAdd(want); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, errs.Unimplemented("cannot make a %s interface: this kernel answers %w; it needs %s", want.Type(), err, option)
		}
		return nil, fmt.Errorf("cannot make a %s interface on %s: %w", want.Type(), master.Attrs().Name, err)
	}
	l, err := link.ByName(pod.Handle, attrs.Name)
	if err == nil {
		err = pod.LinkSetName(l, r.IfName)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot name the interface %s: %w", r.IfName, err), pod.Delete(attrs.Name))
	}
	return link.ByName(pod.Handle, r.IfName)
}

// masterOf returns the master, by default the interface of the default route.
func masterOf(h *netlink.Handle, name string) (netlink.Link, error) {
	if name != "" {
		return link.ByName(h, name)
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			if ones, _ := maskOf(r); ones == 0 {
				return h.LinkByIndex(r.LinkIndex)
			}
		}
	}
	return nil, errs.Invalid("key master is missing and there is no default route whose interface could serve")
}

func maskOf(r netlink.Route) (int, int) {
	if r.Dst == nil {
		return 0, 0
	}
	return r.Dst.Mask.Size()
}

// Del deletes the interface and releases the address.
func Del(ctx context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[Conf](r)
	if err != nil {
		return err
	}
	if !plugin.Gone(r.NetNS) {
		if err := link.DeletePod(r.NetNS, r.IfName); err != nil {
			return err
		}
	}
	return plugin.Release(ctx, r, "DEL", c.IPAM.Type)
}

// Check compares the pod's interface, of a type, with the result.
func Check(ctx context.Context, r *plugin.Request, kind string) error {
	c, err := plugin.Decode[Conf](r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of "+kind)
	if err != nil {
		return err
	}
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return err
	}
	defer pod.Close()
	l, err := link.ByName(pod.Handle, r.IfName)
	if err != nil {
		return err
	}
	if l.Type() != kind {
		return errs.Precondition("interface %s is of type %s, not %s", r.IfName, l.Type(), kind)
	}
	if err := link.Verify(pod, r.IfName, prev); err != nil {
		return err
	}
	return plugin.Release(ctx, r, "CHECK", c.IPAM.Type)
}

// GC passes on to the IPAM plugin.
func GC(ctx context.Context, r *plugin.Request) error { return passOn(ctx, r, "GC") }

// Status passes on to the IPAM plugin.
func Status(ctx context.Context, r *plugin.Request) error { return passOn(ctx, r, "STATUS") }

func passOn(ctx context.Context, r *plugin.Request, verb string) error {
	c, err := plugin.Decode[Conf](r)
	if err != nil {
		return err
	}
	return plugin.Release(ctx, r, verb, c.IPAM.Type)
}
