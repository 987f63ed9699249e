// Package portmap is the CNI plugin "portmap": ports of the node lead to ports of a
// pod (capability portMappings).
//
// TCP, UDP and SCTP; on all of the node's addresses or, with hostIP, on one; from
// outside, from other pods, from the pod itself (hairpin) and from the node, also
// by 127.0.0.1. For the latter the bridge's route_localnet is set and, so that
// nobody on the wire can reach the node's loopback by it, packets from outside that
// bear an address of 127.0.0.0/8 are dropped. ::1 cannot be led to a pod: the
// kernel never routes it out of the loopback interface; such a connection is
// refused as if the port were closed.
//
// Connections from a pod's own bridge to it get the bridge's source address
// (otherwise its answer would bypass the node), as do those from 127.0.0.1; all
// others keep theirs. With "snat": false none is changed, and these two do not work.
//
// Keys of the upstream plugin that name things of iptables (markMasqBit,
// externalSetMarkChain, backend) have no effect; masqAll has; conditionsV4 and
// conditionsV6, which are program text of a tool, are refused.
package portmap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "portmap", About: "leads ports of the node to the pod", Add: add, Del: del, Check: check, GC: gc, Status: status}

type conf struct {
	types.PluginConf
	SNAT         *bool    `json:"snat"`
	MasqAll      bool     `json:"masqAll"`
	ConditionsV4 []string `json:"conditionsV4"`
	ConditionsV6 []string `json:"conditionsV6"`
	Runtime      struct {
		Ports []mapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// mapping is an entry of the capability.
type mapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`

	proto  byte
	hostIP net.IP // nil for all
	family byte   // that hostIP restricts to; 0 for both
}

func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if len(c.ConditionsV4)+len(c.ConditionsV6) > 0 {
		return nil, errs.Unimplemented("keys conditionsV4 and conditionsV6 of portmap are not supported: remove them; hostIP of a port restricts where it listens")
	}
	for i := range c.Runtime.Ports {
		if err := c.Runtime.Ports[i].parse(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (m *mapping) parse() error {
	if m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
		return errs.Invalid("cannot map host port %d to port %d: ports are 1 to 65535", m.HostPort, m.ContainerPort)
	}
	switch strings.ToLower(m.Protocol) {
	case "", "tcp":
		m.proto = unix.IPPROTO_TCP
	case "udp":
		m.proto = unix.IPPROTO_UDP
	case "sctp":
		m.proto = unix.IPPROTO_SCTP
	default:
		return errs.Invalid("cannot map host port %d: protocol %q is none of tcp, udp, sctp", m.HostPort, m.Protocol)
	}
	if m.HostIP == "" {
		return nil
	}
	ip := net.ParseIP(m.HostIP)
	if ip == nil {
		return errs.Invalid("cannot map host port %d: hostIP %q is no address", m.HostPort, m.HostIP)
	}
	m.family, _ = nft.FamilyOf(ip)
	if !ip.IsUnspecified() {
		m.hostIP = ip
	}
	return nil
}

// String is the mapping's node side, for messages.
func (m *mapping) String() string {
	return fmt.Sprintf("%s/%s", net.JoinHostPort(m.HostIP, fmt.Sprint(m.HostPort)), strings.ToLower(m.Protocol))
}

func owner(c *conf, r *plugin.Request) nft.Owner {
	return nft.Owner{Network: c.Name, ID: r.ContainerID, IfName: r.IfName}
}

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	prev, err := plugin.Chained(r, "portmap")
	if err != nil || len(c.Runtime.Ports) == 0 {
		return prev, err
	}
	pods := podAddresses(prev, r.IfName)
	if len(pods) == 0 {
		return nil, errs.Invalid("cannot map host ports: interface %s has no address in prevResult", r.IfName)
	}
	elems, err := c.elements(pods)
	if err != nil {
		return nil, err
	}
	if err := Table().Add(owner(c, r), elems, taken(pods)); err != nil {
		return nil, err
	}
	forgetUDP(c.Runtime.Ports, nil)
	return prev, nil
}

// taken refuses a host port that another pod has, unless that pod's address is now
// this one's: then it is gone and only its DEL was lost.
func taken(pods []net.IP) nft.Conflict {
	return func(e nft.Element, old nft.Owner, value []byte) error {
		for _, ip := range pods {
			if v := nft.IP(ip); len(value) > len(v) && string(value[:len(v)]) == string(v) {
				return nil
			}
		}
		if e.Value == nil {
			return nil
		}
		return errs.Errorf(errs.KindAlreadyExists, "host port %d is in use by pod %s", portOf(e.Key), old.ID)
	}
}

// podAddresses returns the first address of each family that the pod's interface
// has.
func podAddresses(res *current.Result, ifName string) []net.IP {
	var out []net.IP
	seen := map[byte]bool{}
	for _, ip := range res.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(res.Interfaces) {
			if in := res.Interfaces[*i]; in.Name != ifName || in.Sandbox == "" {
				continue
			}
		}
		if f, _ := nft.FamilyOf(ip.Address.IP); !seen[f] {
			seen[f] = true
			out = append(out, ip.Address.IP)
		}
	}
	return out
}

// elements lists what the table needs for the pod, and prepares the interfaces by
// which its addresses are reached.
func (c *conf) elements(pods []net.IP) ([]nft.Element, error) {
	var elems []nft.Element
	for _, ip := range pods {
		f, s := nft.FamilyOf(ip)
		mapped := false
		for i := range c.Runtime.Ports {
			m := &c.Runtime.Ports[i]
			if m.family != 0 && m.family != f {
				continue
			}
			mapped = true
			e := nft.Element{Set: "any" + s, Key: nft.Key(nft.Proto(m.proto), nft.Port(uint16(m.HostPort))),
				Value: nft.Key(nft.IP(ip), nft.Port(uint16(m.ContainerPort)))}
			if m.hostIP != nil {
				e.Set, e.Key = "one"+s, nft.Key(nft.IP(m.hostIP), e.Key)
			}
			elems = append(elems, e)
		}
		if !mapped || (c.SNAT != nil && !*c.SNAT) {
			continue
		}
		via, err := route(ip)
		if err != nil {
			return nil, err
		}
		elems = append(elems,
			nft.Element{Set: "pods" + s, Key: nft.IP(ip)},
			nft.Element{Set: "self" + s, Key: nft.Key(nft.IP(ip), nft.IP(ip))})
		if via != "" {
			elems = append(elems, nft.Element{Set: "back" + s, Key: nft.Key(nft.Name(via), nft.IP(ip))})
		}
		if c.MasqAll {
			elems = append(elems, nft.Element{Set: "all" + s, Key: nft.IP(ip)})
		}
	}
	return elems, nil
}

// route returns the interface of the node by which a pod is reached, with
// route_localnet set for IPv4; "" if there is no way (then nothing that comes from
// the node can reach the pod anyway).
func route(ip net.IP) (string, error) {
	h, err := link.Host()
	if err != nil {
		return "", err
	}
	defer h.Close()
	routes, err := h.RouteGet(ip)
	if err != nil || len(routes) == 0 || routes[0].Gw != nil {
		return "", nil
	}
	l, err := h.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("cannot look up the interface that leads to %s: %w", ip, err)
	}
	name := l.Attrs().Name
	if ip.To4() != nil && name != "lo" {
		err = link.Sysctl("1", "ipv4/conf", name, "route_localnet")
	}
	return name, err
}

func del(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r) // wrong ports were never mapped
	if err != nil {
		return err
	}
	removed, err := Table().Remove(nft.Only(owner(c, r)))
	if err != nil || len(removed) == 0 {
		return err
	}
	if prev, err := plugin.PrevResult(r); err == nil && prev != nil {
		for i := range c.Runtime.Ports {
			_ = c.Runtime.Ports[i].parse()
		}
		forgetUDP(c.Runtime.Ports, podAddresses(prev, r.IfName))
	}
	return nil
}

func check(_ context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of portmap")
	if err != nil || len(c.Runtime.Ports) == 0 {
		return err
	}
	elems, err := c.elements(podAddresses(prev, r.IfName))
	if err != nil {
		return err
	}
	n, err := Table().Missing(owner(c, r), elems)
	if err == nil && n > 0 {
		err = errs.Precondition("%d of %d elements of the pod's host ports are missing in table %s", n, len(elems), Table().Name)
	}
	return err
}

func gc(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	_, err = Table().Remove(nft.Stale(c.Name, c.ValidAttachments))
	return err
}

func status(_ context.Context, r *plugin.Request) error {
	_, err := load(r)
	return errors.Join(err, nft.Supported())
}
