package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/errs"
)

// Configure gives an interface of a pod the addresses and routes of a result and
// brings it up. With dad, IPv6 addresses are checked for duplicates first (the call
// waits for that, seconds); without, they are usable at once.
func Configure(n *NetNS, ifName string, res *current.Result, dad bool) error {
	l, err := ByName(n.Handle, ifName)
	if err != nil {
		return err
	}
	if err := n.Enter(func() error { return sysctls(ifName, res, dad) }); err != nil {
		return err
	}
	if err := addresses(n.Handle, l, res, dad); err != nil {
		return err
	}
	if err := n.LinkSetUp(l); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", ifName, err)
	}
	if dad && has6(res) {
		if err := settle(n.Handle, l); err != nil {
			return err
		}
	}
	return AddRoutes(n, l, res)
}

func has6(res *current.Result) bool {
	for _, a := range res.IPs {
		if a.Address.IP.To4() == nil {
			return true
		}
	}
	return false
}

// sysctls prepares the interface; it runs in the pod's namespace.
func sysctls(ifName string, res *current.Result, dad bool) error {
	TrySysctl("1", "ipv4/conf", ifName, "arp_notify")
	if !has6(res) {
		if !dad {
			TrySysctl("0", "ipv6/conf", ifName, "accept_dad")
		}
		return nil
	}
	for _, name := range []string{"lo", ifName} {
		if err := Sysctl("0", "ipv6/conf", name, "disable_ipv6"); err != nil {
			return fmt.Errorf("cannot use an IPv6 address: %w", err)
		}
	}
	TrySysctl("1", "ipv6/conf", ifName, "keep_addr_on_down")
	TrySysctl("1", "ipv6/conf", ifName, "ndisc_notify")
	if dad {
		TrySysctl("1", "ipv6/conf", ifName, "enhanced_dad")
		TrySysctl("1", "ipv6/conf", ifName, "accept_dad")
	} else {
		TrySysctl("0", "ipv6/conf", ifName, "accept_dad")
	}
	return nil
}

func addresses(h *netlink.Handle, l netlink.Link, res *current.Result, dad bool) error {
	name := l.Attrs().Name
	for _, a := range res.IPs {
		if i := a.Interface; i == nil || *i < 0 || *i >= len(res.Interfaces) || res.Interfaces[*i].Name != name {
			return errs.Invalid("address %s belongs to another interface than %s", a.Address.String(), name)
		}
		addr := &netlink.Addr{IPNet: &a.Address}
		if !dad && a.Address.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("cannot add address %s to %s: %w", a.Address.String(), name, err)
		}
	}
	return nil
}

// settle waits until no IPv6 address of the link is tentative.
func settle(h *netlink.Handle, l netlink.Link) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		addrs, err := h.AddrList(l, netlink.FAMILY_V6)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
		waiting := err != nil
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				return errs.Errorf(errs.KindAlreadyExists, "cannot use address %s on %s: another machine has it", a.IPNet, l.Attrs().Name)
			}
			waiting = waiting || a.Flags&unix.IFA_F_TENTATIVE != 0
		}
		if !waiting {
			return nil
		}
		if time.Now().After(end) {
			return errs.Errorf(errs.KindDeadline, "the IPv6 addresses of %s are still tentative after 10s", l.Attrs().Name)
		}
	}
}

// AddRoutes adds the result's routes to an interface of a pod. One without a gateway
// goes by the first gateway of its family.
func AddRoutes(n *NetNS, l netlink.Link, res *current.Result) error {
	for _, r := range res.Routes {
		route := &netlink.Route{Dst: &r.Dst, LinkIndex: l.Attrs().Index, Gw: r.GW, Priority: r.Priority, MTU: r.MTU, AdvMSS: r.AdvMSS}
		if route.Gw == nil {
			route.Gw = gateway(res, r.Dst.IP.To4() != nil)
		}
		if r.Table != nil {
			route.Table = *r.Table
		}
		if r.Scope != nil {
			route.Scope = netlink.Scope(*r.Scope)
		}
		if err := n.RouteAddEcmp(route); err != nil {
			return fmt.Errorf("cannot add route %s by %s to %s: %w", r.Dst.String(), route.Gw, l.Attrs().Name, err)
		}
	}
	return nil
}

func gateway(res *current.Result, v4 bool) net.IP {
	for _, a := range res.IPs {
		if a.Gateway != nil && (a.Gateway.To4() != nil) == v4 {
			return a.Gateway
		}
	}
	return nil
}

// Default is the route to everywhere for the family of an address.
func Default(ip net.IP) net.IPNet {
	if ip.To4() != nil {
		return net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// HasDefault tells whether routes has a way to everywhere for the family of ip.
func HasDefault(routes []*types.Route, ip net.IP) bool {
	d := Default(ip)
	for _, r := range routes {
		if r.Dst.String() == d.String() {
			return true
		}
	}
	return false
}

// First returns the first address of a network behind the network's own: the
// gateway when nobody names another.
func First(n net.IPNet) net.IP {
	ip := bytes.Clone(n.IP.Mask(n.Mask))
	for i := len(ip) - 1; i >= 0; i-- {
		if ip[i]++; ip[i] != 0 {
			break
		}
	}
	return ip
}

// Forward lets the kernel route for the family of an address.
func Forward(ip net.IP) error {
	if ip.To4() != nil {
		return Sysctl("1", "ipv4/ip_forward")
	}
	return Sysctl("1", "ipv6/conf/all/forwarding")
}

// HostNet returns an address with a mask of all ones.
func HostNet(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}
}

// Verify compares an interface of a pod with what a result says about it: its name,
// hardware address, addresses and routes.
func Verify(n *NetNS, ifName string, res *current.Result) error {
	l, err := ByName(n.Handle, ifName)
	if err != nil {
		return err
	}
	for _, i := range res.Interfaces {
		if i.Name == ifName && i.Sandbox != "" && i.Mac != "" && i.Mac != l.Attrs().HardwareAddr.String() {
			return errs.Precondition("interface %s has the hardware address %s, not %s", ifName, l.Attrs().HardwareAddr, i.Mac)
		}
	}
	addrs, err := settled(n.AddrList(l, netlink.FAMILY_ALL))
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", ifName, err)
	}
	for _, want := range res.IPs {
		if want.Interface != nil && *want.Interface < len(res.Interfaces) && res.Interfaces[*want.Interface].Name != ifName {
			continue
		}
		if !hasAddress(addrs, want.Address) {
			return errs.Precondition("interface %s has lost its address %s", ifName, want.Address.String())
		}
	}
	return verifyRoutes(n, ifName, res)
}

func settled[T any](v []T, err error) ([]T, error) {
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil // somebody changed another entry meanwhile
	}
	return v, err
}

func hasAddress(addrs []netlink.Addr, want net.IPNet) bool {
	for _, a := range addrs {
		if a.IPNet.String() == want.String() {
			return true
		}
	}
	return false
}

func verifyRoutes(n *NetNS, ifName string, res *current.Result) error {
	if len(res.Routes) == 0 {
		return nil
	}
	have, err := settled(n.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE))
	if err != nil {
		return fmt.Errorf("cannot list the routes of the pod: %w", err)
	}
	for _, want := range res.Routes {
		found := false
		for _, r := range have {
			if r.Dst != nil && r.Dst.String() == want.Dst.String() && (want.GW == nil || want.GW.Equal(r.Gw)) {
				found = true
				break
			}
		}
		if !found {
			return errs.Precondition("the pod has lost its route to %s by %s", want.Dst.String(), want.GW)
		}
	}
	return nil
}
