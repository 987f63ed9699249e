package nft

import (
	"net"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// MasqueradeTable is the table by which pods reach the world under the node's
// addresses: connections from a pod's address to anything outside its own subnet
// (and no multicast) get the address of the interface that they leave by.
//
// Set pods* has the addresses, set inside* pairs of an address and the range that
// is its subnet.
func MasqueradeTable() *Table {
	t := &Table{Name: "monocrio_masquerade", Family: nftables.TableFamilyINet}
	out := Chain{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource}
	_, multicast4, _ := net.ParseCIDR("224.0.0.0/4")
	_, multicast6, _ := net.ParseCIDR("ff00::/8")
	for _, f := range []struct {
		family    byte
		suffix    string
		multicast *net.IPNet
	}{{unix.NFPROTO_IPV4, "4", multicast4}, {unix.NFPROTO_IPV6, "6", multicast6}} {
		addr := AddrType(f.family)
		t.Sets = append(t.Sets,
			Set{Name: "pods" + f.suffix, Key: []nftables.SetDatatype{addr}},
			Set{Name: "inside" + f.suffix, Key: []nftables.SetDatatype{addr, addr}, Ranges: true})
		out.Rules = append(out.Rules, Rule(
			Family(f.family),
			Src(f.family, 0), In("pods"+f.suffix),
			Dst(f.family, 0), InNet(f.multicast, true),
			Src(f.family, 0), Dst(f.family, Words(f.family)), NotIn("inside"+f.suffix),
			Masquerade()))
	}
	t.Chains = []Chain{out}
	return t
}

// MasqueradeElements returns the elements of a pod that has these addresses, each
// with the mask of its subnet.
func MasqueradeElements(addrs []net.IPNet) []Element {
	var out []Element
	for _, a := range addrs {
		_, s := FamilyOf(a.IP)
		ip := IP(a.IP)
		first := IP(a.IP.Mask(a.Mask))
		last := make([]byte, len(first))
		mask := a.Mask[len(a.Mask)-len(first):]
		for i := range first {
			last[i] = first[i] | ^mask[i]
		}
		out = append(out,
			Element{Set: "pods" + s, Key: ip},
			Element{Set: "inside" + s, Key: Key(ip, first), End: Key(ip, last)})
	}
	return out
}
