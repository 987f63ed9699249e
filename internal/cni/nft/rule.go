package nft

import (
	"encoding/binary"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The words of which rules are made. A word loads into, or compares, registers of
// four bytes each, counted from 0; the kernel numbers them from NFT_REG32_00.

func reg(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

// Rule joins words.
func Rule(words ...[]expr.Any) []expr.Any {
	var r []expr.Any
	for _, w := range words {
		r = append(r, w...)
	}
	return r
}

// Family matches packets of an address family: unix.NFPROTO_IPV4 or _IPV6.
func Family(f byte) []expr.Any {
	return append(Meta(expr.MetaKeyNFPROTO, 0), compare(0, expr.CmpOpEq, []byte{f})...)
}

// Meta loads a property of the packet.
func Meta(key expr.MetaKey, r int) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg(r)}}
}

// IfName matches the name of the interface, or with not every other name; key is
// expr.MetaKeyIIFNAME or expr.MetaKeyOIFNAME.
func IfName(key expr.MetaKey, not bool, name string) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return append(Meta(key, 0), compare(0, op, Name(name))...)
}

func compare(r int, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: op, Register: reg(r), Data: data}}
}

// Src loads the source address.
func Src(f byte, r int) []expr.Any { return address(f, r, 12, 8) }

// Dst loads the destination address.
func Dst(f byte, r int) []expr.Any { return address(f, r, 16, 24) }

func address(f byte, r int, at4, at6 uint32) []expr.Any {
	p := &expr.Payload{DestRegister: reg(r), Base: expr.PayloadBaseNetworkHeader, Offset: at4, Len: 4}
	if f == unix.NFPROTO_IPV6 {
		p.Offset, p.Len = at6, 16
	}
	return []expr.Any{p}
}

// Words tells how many registers an address of a family takes.
func Words(f byte) int {
	if f == unix.NFPROTO_IPV6 {
		return 4
	}
	return 1
}

// DstPort loads the destination port of TCP, UDP and SCTP.
func DstPort(r int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg(r), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

// SrcMAC loads the source hardware address.
func SrcMAC(r int) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg(r), Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6}}
}

// InNet matches an address that was loaded into register 0 against a network.
func InNet(n *net.IPNet, not bool) []expr.Any {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	mask := []byte(n.Mask)
	return append([]expr.Any{&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}},
		compare(0, op, IP(n.IP))...)
}

// In matches if what was loaded from register 0 on is in the set; NotIn if not.
func In(set string) []expr.Any { return []expr.Any{&expr.Lookup{SourceRegister: reg(0), SetName: set}} }

// NotIn is the opposite of In.
func NotIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg(0), SetName: set, Invert: true}}
}

// Find replaces what is in the registers from 0 on by its value in a map; a key
// that is not there does not match.
func Find(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg(0), DestRegister: reg(0), IsDestRegSet: true, SetName: set}}
}

// DNAT changes the destination to the address in register 0 and the port behind it.
func DNAT(f byte) []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: reg(0), RegProtoMin: reg(Words(f)), Specified: true}}
}

// Masquerade changes the source to the address of the interface that the packet
// leaves by.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// Local matches packets whose destination is an address of the node.
func Local() []expr.Any {
	return append([]expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true}},
		compare(0, expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))...)
}

// CtStatus matches connections that have one of the bits of enum ip_conntrack_status.
func CtStatus(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATUS, bits) }

// CtState matches connections in one of the states (expr.CtStateBit...).
func CtState(bits uint32) []expr.Any { return ctBits(expr.CtKeySTATE, bits) }

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return append([]expr.Any{
		&expr.Ct{Key: key, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
	}, compare(0, expr.CmpOpNeq, make([]byte, 4))...)
}

// Do ends the rule with a verdict; chain names the target of a jump.
func Do(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

// IP is an address as the kernel wants it in a key.
func IP(ip net.IP) []byte {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip.To16()
}

// Name is an interface name as the kernel wants it in a key.
func Name(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b[:unix.IFNAMSIZ-1], s)
	return b
}

// Port is a port as a field of a concatenation.
func Port(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

// Proto is a protocol number as a field of a concatenation.
func Proto(p byte) []byte { return []byte{p, 0, 0, 0} }

// MAC is a hardware address as a field of a concatenation.
func MAC(m net.HardwareAddr) []byte { return append(append([]byte{}, m[:6]...), 0, 0) }

// Key joins fields to the key of a concatenation.
func Key(fields ...[]byte) []byte {
	var k []byte
	for _, f := range fields {
		k = append(k, f...)
	}
	return k
}

// FamilyOf returns the family of an address and the suffix ("4", "6") that sets of
// that family have in their names.
func FamilyOf(ip net.IP) (byte, string) {
	if ip.To4() != nil {
		return unix.NFPROTO_IPV4, "4"
	}
	return unix.NFPROTO_IPV6, "6"
}

// AddrType is the type of an address of a family, for Set.
func AddrType(f byte) nftables.SetDatatype {
	if f == unix.NFPROTO_IPV6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}
