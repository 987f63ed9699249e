package bridge

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/errs"
)

// Mark is the alias of the interfaces that the plugin makes on the node for a
// network rather than for a pod, so that Clean knows them.
const Mark = "monocrio pod network"

// ensure finds the bridge or makes it.
func ensure(h *netlink.Handle, c *conf) (*netlink.Bridge, error) {
	br, err := find(h, c.Bridge)
	if errs.Is(err, errs.KindNotFound) {
		br, err = create(h, c)
	}
	if err != nil {
		return nil, err
	}
	if c.filtering() && (br.VlanFiltering == nil || !*br.VlanFiltering) {
		if err := h.BridgeSetVlanFiltering(br, true); err != nil {
			return nil, fmt.Errorf("cannot make bridge %s know VLANs: %w", c.Bridge, err)
		}
	}
	if c.PromiscMode && br.Promisc == 0 {
		if err := h.SetPromiscOn(br); err != nil {
			return nil, fmt.Errorf("cannot make bridge %s promiscuous: %w", c.Bridge, err)
		}
	}
	if br.Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(br); err != nil {
			return nil, fmt.Errorf("cannot bring up bridge %s: %w", c.Bridge, err)
		}
	}
	return br, nil
}

func find(h *netlink.Handle, name string) (*netlink.Bridge, error) {
	l, err := link.ByName(h, name)
	if err != nil {
		return nil, err
	}
	br, ok := l.(*netlink.Bridge)
	if !ok {
		return nil, errs.Errorf(errs.KindAlreadyExists, "cannot use %s: it is a %s, not a bridge; choose another name (key bridge)", name, l.Type())
	}
	return br, nil
}

// create makes the bridge. It is given a hardware address, because one without
// takes the least of its ports', which changes as pods come and go. Another pod may
// be faster; then its bridge is used.
func create(h *netlink.Handle, c *conf) (*netlink.Bridge, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = c.Bridge, c.MTU, randomMAC()
	br := &netlink.Bridge{LinkAttrs: attrs}
	if c.filtering() {
		br.VlanFiltering = new(bool)
		*br.VlanFiltering = true
	}
	if err := h.LinkAdd(br); errors.Is(err, unix.EEXIST) {
		return find(h, c.Bridge)
	} else if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errs.Unimplemented("cannot make bridge %s: this kernel answers %w; it needs CONFIG_BRIDGE, and for VLANs CONFIG_BRIDGE_VLAN_FILTERING", c.Bridge, err)
	} else if err != nil {
		return nil, fmt.Errorf("cannot make bridge %s: %w", c.Bridge, err)
	}
	link.TrySysctl("0", "ipv6/conf", c.Bridge, "accept_ra") // a pod is no router of ours
	if err := h.LinkSetAlias(br, Mark); err != nil {
		return nil, fmt.Errorf("cannot mark bridge %s: %w", c.Bridge, err)
	}
	return find(h, c.Bridge)
}

// setPort gives the pod's port its properties.
func setPort(h *netlink.Handle, port netlink.Link, c *conf) error {
	if c.HairpinMode {
		if err := h.LinkSetHairpin(port, true); err != nil {
			return fmt.Errorf("cannot set hairpin mode: %w", err)
		}
	}
	if c.PortIsolation {
		if err := h.LinkSetIsolated(port, true); err != nil {
			return fmt.Errorf("cannot isolate the port: %w", err)
		}
	}
	return setVlans(h, port, uint16(c.Vlan), c.vlans, c.PreserveDefaultVlan)
}

// setVlans makes a port a member of VLANs. A trunk without a VLAN of its own has
// VLAN 1 for untagged packets.
func setVlans(h *netlink.Handle, port netlink.Link, own uint16, trunk []uint16, keepDefault bool) error {
	if own == 0 && len(trunk) == 0 {
		return nil
	}
	if !keepDefault {
		if err := h.BridgeVlanDel(port, 1, false, false, false, true); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot leave the default VLAN: %w", err)
		}
	}
	for _, v := range trunk {
		if err := h.BridgeVlanAdd(port, v, false, false, false, true); err != nil {
			return vlanError(v, err)
		}
	}
	if own == 0 {
		own = 1
	}
	if err := h.BridgeVlanAdd(port, own, true, true, false, true); err != nil {
		return vlanError(own, err)
	}
	return nil
}

func vlanError(v uint16, err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return errs.Unimplemented("cannot use VLAN %d on a bridge: this kernel answers %w; it needs CONFIG_BRIDGE_VLAN_FILTERING", v, err)
	}
	return fmt.Errorf("cannot join VLAN %d: %w", v, err)
}

// ensureVlanGateway finds or makes the node's interface in a VLAN of the bridge: a
// pair of which one end has the gateway's address and the other is a port.
func ensureVlanGateway(h *netlink.Handle, br *netlink.Bridge, c *conf) (netlink.Link, error) {
	name := fmt.Sprintf("%s.%d", br.Name, c.Vlan)
	if l, err := link.ByName(h, name); !errs.Is(err, errs.KindNotFound) {
		return l, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Alias = name, c.MTU, Mark
	port := link.RandomName("vgw")
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: port, PeerTxQLen: -1}); errors.Is(err, unix.EEXIST) {
		return link.ByName(h, name)
	} else if err != nil {
		return nil, fmt.Errorf("cannot make interface %s: %w", name, err)
	}
	p, err := link.ByName(h, port)
	if err != nil {
		return nil, err
	}
	l, err := link.ByName(h, name)
	if err != nil {
		return nil, err
	}
	link.TrySysctl("0", "ipv6/conf", name, "accept_ra")
	for _, step := range []func() error{
		func() error { return h.LinkSetAlias(l, Mark) },
		func() error { return h.LinkSetAlias(p, Mark) },
		func() error { return h.LinkSetMaster(p, br) },
		func() error { return setVlans(h, p, uint16(c.Vlan), nil, c.PreserveDefaultVlan) },
		func() error { return h.LinkSetUp(p) },
		func() error { return h.LinkSetUp(l) },
	} {
		if err := step(); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot make interface %s: %w", name, err), h.LinkDel(l))
		}
	}
	return l, nil
}

// ensureAddress adds a gateway's address. Another IPv4 address, or one of a network
// that overlaps, is an error or, with force, is replaced.
func ensureAddress(h *netlink.Handle, l netlink.Link, gw *net.IPNet, force bool) error {
	addr := &netlink.Addr{IPNet: gw}
	if gw.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	err := h.AddrAdd(l, addr)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	name := l.Attrs().Name
	if err != nil {
		return fmt.Errorf("cannot add the gateway's address %s to %s: %w", gw, name, err)
	}
	old, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list the addresses of %s: %w", name, err)
	}
	for _, o := range old {
		if o.IPNet.String() == gw.String() || (o.IP.To4() == nil) != (gw.IP.To4() == nil) || o.IP.IsLinkLocalUnicast() {
			continue
		}
		if gw.IP.To4() == nil && !o.Contains(gw.IP) && !gw.Contains(o.IP) {
			continue
		}
		if !force {
			return errors.Join(errs.Errorf(errs.KindAlreadyExists, "cannot add the gateway's address %s to %s: it has %s; set forceAddress to replace it, or use another bridge", gw, name, o.IPNet), h.AddrDel(l, addr))
		}
		if err := h.AddrDel(l, &netlink.Addr{IPNet: o.IPNet}); err != nil {
			return fmt.Errorf("cannot remove address %s from %s: %w", o.IPNet, name, err)
		}
	}
	return nil
}

// Clean deletes the bridges that the plugin has made and that have no pod.
func Clean() error {
	h, err := link.Host()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list network interfaces: %w", err)
	}
	busy := map[int]bool{}
	for _, l := range links {
		if m := l.Attrs().MasterIndex; m != 0 && l.Attrs().Alias != Mark {
			busy[m] = true
		}
	}
	var failed []error
	for _, l := range links {
		if l.Attrs().Alias != Mark || l.Type() != "bridge" || busy[l.Attrs().Index] {
			continue
		}
		for _, port := range links { // the gateways in its VLANs
			if port.Attrs().MasterIndex == l.Attrs().Index {
				failed = append(failed, link.Delete(h, port.Attrs().Name))
			}
		}
		failed = append(failed, link.Delete(h, l.Attrs().Name))
	}
	return errors.Join(failed...)
}

// SpoofTable is the table by which packets of a pod with a hardware address that is
// not its own are dropped where they enter the bridge.
func SpoofTable() *nft.Table {
	t := &nft.Table{Name: "monocrio_macspoof", Family: nftables.TableFamilyBridge, Sets: []nft.Set{
		{Name: "ports", Key: []nftables.SetDatatype{nftables.TypeIFName}},
		{Name: "macs", Key: []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr}},
	}}
	t.Chains = []nft.Chain{{Name: "prerouting", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw, Rules: [][]expr.Any{nft.Rule(
			nft.Meta(expr.MetaKeyIIFNAME, 0), nft.In("ports"),
			nft.Meta(expr.MetaKeyIIFNAME, 0), nft.SrcMAC(4), nft.NotIn("macs"),
			nft.Do(expr.VerdictDrop, ""))}}}
	return t
}

func spoofElements(port string, mac net.HardwareAddr) []nft.Element {
	return []nft.Element{
		{Set: "ports", Key: nft.Name(port)},
		{Set: "macs", Key: nft.Key(nft.Name(port), nft.MAC(mac))},
	}
}

// randomMAC returns a locally administered unicast address.
func randomMAC() net.HardwareAddr {
	m := make(net.HardwareAddr, 6)
	rand.Read(m) // never fails
	m[0] = m[0]&^1 | 2
	return m
}
