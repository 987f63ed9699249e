package portmap

import (
	"encoding/binary"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/nft"
)

// Status bit of a connection whose destination was changed:
// enum ip_conntrack_status, IPS_DST_NAT.
const dstNAT = 1 << 5

// Table is the table of host ports. For each family:
//
//	any*   protocol and port          -> the pod's address and port
//	one*   address, protocol and port -> the same, for hostIP
//	pods*  addresses of pods that have host ports
//	back*  interface and pod: connections that come from there go back there
//	self*  pod and pod: connections of a pod to itself. Where bridged packets pass
//	       the packet filter (br_netfilter) they have no interface that they came by
//	all*   pods whose connections are all to be masqueraded
func Table() *nft.Table {
	t := &nft.Table{Name: "monocrio_portmap", Family: nftables.TableFamilyINet}
	ports := nft.Chain{Name: "ports"}
	post := nft.Chain{Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource}
	for _, f := range []struct {
		family byte
		suffix string
	}{{unix.NFPROTO_IPV4, "4"}, {unix.NFPROTO_IPV6, "6"}} {
		addr := nft.AddrType(f.family)
		port := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
		target := []nftables.SetDatatype{addr, nftables.TypeInetService}
		t.Sets = append(t.Sets,
			nft.Set{Name: "any" + f.suffix, Key: port, Data: target},
			nft.Set{Name: "one" + f.suffix, Key: append([]nftables.SetDatatype{addr}, port...), Data: target},
			nft.Set{Name: "pods" + f.suffix, Key: []nftables.SetDatatype{addr}},
			nft.Set{Name: "back" + f.suffix, Key: []nftables.SetDatatype{nftables.TypeIFName, addr}},
			nft.Set{Name: "self" + f.suffix, Key: []nftables.SetDatatype{addr, addr}},
			nft.Set{Name: "all" + f.suffix, Key: []nftables.SetDatatype{addr}})
		n := nft.Words(f.family)
		ports.Rules = append(ports.Rules,
			nft.Rule(nft.Family(f.family), nft.Dst(f.family, 0), nft.Meta(expr.MetaKeyL4PROTO, n), nft.DstPort(n+1), nft.Find("one"+f.suffix), nft.DNAT(f.family)),
			nft.Rule(nft.Family(f.family), nft.Meta(expr.MetaKeyL4PROTO, 0), nft.DstPort(1), nft.Find("any"+f.suffix), nft.DNAT(f.family)))
		post.Rules = append(post.Rules,
			nft.Rule(nft.Family(f.family), nft.CtStatus(dstNAT), nft.Meta(expr.MetaKeyIIFNAME, 0), nft.Dst(f.family, 4), nft.In("back"+f.suffix), nft.Masquerade()),
			nft.Rule(nft.Family(f.family), nft.CtStatus(dstNAT), nft.Src(f.family, 0), nft.Dst(f.family, n), nft.In("self"+f.suffix), nft.Masquerade()),
			nft.Rule(nft.Family(f.family), nft.CtStatus(dstNAT), nft.Dst(f.family, 0), nft.In("all"+f.suffix), nft.Masquerade()))
	}
	loopback4 := &net.IPNet{IP: net.IPv4(127, 0, 0, 0), Mask: net.CIDRMask(8, 32)}
	loopback6 := &net.IPNet{IP: net.IPv6loopback, Mask: net.CIDRMask(128, 128)}
	post.Rules = append(post.Rules, nft.Rule(nft.Family(unix.NFPROTO_IPV4),
		nft.IfName(expr.MetaKeyOIFNAME, true, "lo"),
		nft.Src(unix.NFPROTO_IPV4, 0), nft.InNet(loopback4, false),
		nft.Dst(unix.NFPROTO_IPV4, 0), nft.In("pods4"), nft.Masquerade()))
	jump := nft.Rule(nft.Local(), nft.Do(expr.VerdictJump, "ports"))
	foreign := func(address []expr.Any) []expr.Any {
		return nft.Rule(nft.Family(unix.NFPROTO_IPV4), nft.IfName(expr.MetaKeyIIFNAME, true, "lo"),
			address, nft.InNet(loopback4, false), nft.Do(expr.VerdictDrop, ""))
	}
	t.Chains = []nft.Chain{
		ports,
		{Name: "prerouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
			Rules: [][]expr.Any{jump}},
		{Name: "output", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
			Rules: [][]expr.Any{
				nft.Rule(nft.Family(unix.NFPROTO_IPV6), nft.Dst(unix.NFPROTO_IPV6, 0), nft.InNet(loopback6, false), nft.Do(expr.VerdictReturn, "")),
				jump}},
		post,
		// Before connections are tracked: answers to 127.0.0.1 bear the bridge's
		// address until then, so that only forgeries are met here.
		{Name: "guard", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
			Rules: [][]expr.Any{foreign(nft.Dst(unix.NFPROTO_IPV4, 0)), foreign(nft.Src(unix.NFPROTO_IPV4, 0))}},
	}
	return t
}

// portOf reads the host port at the end of a key.
func portOf(key []byte) uint16 {
	if len(key) < 4 {
		return 0
	}
	return binary.BigEndian.Uint16(key[len(key)-4:])
}

// forgetUDP deletes tracked connections to the host ports of UDP, which otherwise
// keep going where they went before: at ADD (pods nil) all of them, at DEL those
// that lead to the pod. It is a courtesy, so failures are not reported.
func forgetUDP(ports []mapping, pods []net.IP) {
	wanted := stale{pods: pods, ports: map[uint16]bool{}}
	for _, m := range ports {
		if m.proto == unix.IPPROTO_UDP {
			wanted.ports[uint16(m.HostPort)] = true
		}
	}
	if len(wanted.ports) == 0 {
		return
	}
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, f, wanted)
	}
}

// stale matches tracked connections.
type stale struct {
	ports map[uint16]bool
	pods  []net.IP
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP || !s.ports[flow.Forward.DstPort] {
		return false
	}
	for _, ip := range s.pods {
		if flow.Reverse.SrcIP.Equal(ip) {
			return true
		}
	}
	return s.pods == nil
}
