// Package firewall is the CNI plugin "firewall": it lets a pod's packets through
// the node, and keeps pods of other bridges away from it if the key ingressPolicy
// says so.
//
// "open" (the default): forwarded packets from and to the pod are accepted. A
// table of ours cannot do that alone: what it accepts, another table may still
// drop. So where iptables-nft keeps a FORWARD chain that drops by policy (docker
// and ufw do this), the pod's addresses are accepted at its beginning, by rules
// that iptables shows as its own.
//
// "same-bridge": in addition pods can only be reached by pods of their own bridge,
// not by those of other bridges with such a policy. "isolated": not even by those
// (packets within a bridge are seen only where br_netfilter is on; the key
// portIsolation of the plugin bridge does it without). Both are elements of a table
// of our own.
//
// The keys backend, iptablesAdminChainName and firewalldZone are accepted and have
// no effect.
package firewall

import (
	"context"
	"errors"
	"net"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "firewall", About: "lets pods through the packet filter, or keeps networks apart", Since: "0.4.0", Add: add, Del: del, Check: check, GC: gc, Status: status}

type conf struct {
	types.PluginConf
	Backend                string `json:"backend"`
	IptablesAdminChainName string `json:"iptablesAdminChainName"`
	FirewalldZone          string `json:"firewalldZone"`
	IngressPolicy          string `json:"ingressPolicy"`
}

func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	switch c.IngressPolicy {
	case "", "open", "same-bridge", "isolated":
	default:
		return nil, errs.Invalid("key ingressPolicy: %q is none of open, same-bridge, isolated", c.IngressPolicy)
	}
	switch c.Backend {
	case "", "iptables", "nftables", "firewalld":
	default:
		return nil, errs.Invalid("key backend: %q is none of iptables, nftables, firewalld (all of which are done by nftables here)", c.Backend)
	}
	return c, nil
}

func owner(c *conf, r *plugin.Request) nft.Owner {
	return nft.Owner{Network: c.Name, ID: r.ContainerID, IfName: r.IfName}
}

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	prev, err := plugin.Chained(r, "firewall")
	if err != nil {
		return nil, err
	}
	var ips []net.IP
	for _, ip := range prev.IPs {
		ips = append(ips, ip.Address.IP)
	}
	if err := nft.AcceptForwarded(owner(c, r), ips); err != nil {
		return nil, err
	}
	elems, err := c.elements(prev)
	if err != nil || len(elems) == 0 {
		return prev, err
	}
	return prev, Table().Add(owner(c, r), elems, nil)
}

// elements lists what isolation needs for the pod.
func (c *conf) elements(prev *current.Result) ([]nft.Element, error) {
	set := "members"
	switch c.IngressPolicy {
	case "same-bridge":
	case "isolated":
		set = "isolated"
	default:
		return nil, nil
	}
	if len(prev.Interfaces) == 0 || prev.Interfaces[0].Name == "" || prev.Interfaces[0].Sandbox != "" {
		return nil, errs.Invalid("ingressPolicy %s needs a bridge: list firewall after the plugin bridge", c.IngressPolicy)
	}
	bridge := nft.Name(prev.Interfaces[0].Name)
	elems := []nft.Element{{Set: "bridges", Key: bridge}}
	for _, ip := range prev.IPs {
		_, s := nft.FamilyOf(ip.Address.IP)
		elems = append(elems, nft.Element{Set: set + s, Key: nft.Key(bridge, nft.IP(ip.Address.IP))})
	}
	return elems, nil
}

// Table is the table of isolation. Sets members* and isolated* have bridges with
// pods on them, set bridges all bridges that are in one of these.
func Table() *nft.Table {
	t := &nft.Table{Name: "monocrio_firewall", Family: nftables.TableFamilyINet,
		Sets: []nft.Set{{Name: "bridges", Key: []nftables.SetDatatype{nftables.TypeIFName}, Shared: true}}}
	fwd := nft.Chain{Name: "forward", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		Rules: [][]expr.Any{nft.Rule(nft.CtState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), nft.Do(expr.VerdictReturn, ""))}}
	for _, f := range []struct {
		family byte
		suffix string
	}{{unix.NFPROTO_IPV4, "4"}, {unix.NFPROTO_IPV6, "6"}} {
		key := []nftables.SetDatatype{nftables.TypeIFName, nft.AddrType(f.family)}
		t.Sets = append(t.Sets, nft.Set{Name: "members" + f.suffix, Key: key}, nft.Set{Name: "isolated" + f.suffix, Key: key})
		from := nft.Rule(nft.Family(f.family), nft.Meta(expr.MetaKeyIIFNAME, 0), nft.In("bridges"))
		to := nft.Rule(nft.Meta(expr.MetaKeyOIFNAME, 0), nft.Dst(f.family, 4))
		same := nft.Rule(nft.Meta(expr.MetaKeyIIFNAME, 0), nft.Dst(f.family, 4))
		fwd.Rules = append(fwd.Rules,
			nft.Rule(from, to, nft.In("members"+f.suffix), same, nft.NotIn("members"+f.suffix), nft.Do(expr.VerdictDrop, "")),
			nft.Rule(from, to, nft.In("isolated"+f.suffix), nft.Do(expr.VerdictDrop, "")))
	}
	t.Chains = []nft.Chain{fwd}
	return t
}

func del(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	return Remove(nft.Only(owner(c, r)))
}

// Remove takes away what is there for owners that are gone.
func Remove(gone func(nft.Owner) bool) error {
	_, err := Table().Remove(gone)
	return errors.Join(err, nft.RevokeForwarded(gone))
}

func check(_ context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of firewall")
	if err != nil {
		return err
	}
	elems, err := c.elements(prev)
	if err != nil || len(elems) == 0 {
		return err
	}
	n, err := Table().Missing(owner(c, r), elems)
	if err == nil && n > 0 {
		err = errs.Precondition("the pod is no longer isolated: %d elements are missing in table %s", n, Table().Name)
	}
	return err
}

func gc(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	return Remove(nft.Stale(c.Name, c.ValidAttachments))
}

func status(_ context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err == nil && c.IngressPolicy != "" && c.IngressPolicy != "open" {
		err = nft.Supported()
	}
	return err
}
