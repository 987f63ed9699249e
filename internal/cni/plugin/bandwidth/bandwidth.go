// Package bandwidth is the CNI plugin "bandwidth": it limits what a pod receives
// and sends, in bits per second, by token buckets (tc-tbf(8)).
//
// What the pod receives leaves the node by its end of the veth pair, where the
// bucket is. What it sends arrives there, and is redirected through an interface of
// type ifb that has the other bucket.
package bandwidth

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "bandwidth", About: "limits a pod's traffic", Since: "0.3.0", Add: add, Del: del, Check: check, GC: gc}

// limits are rates in bits per second and bursts in bits.
type limits struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

type conf struct {
	types.PluginConf
	limits
	Runtime struct {
		Bandwidth *limits `json:"bandwidth"`
	} `json:"runtimeConfig"`
}

// load returns the limits that hold: the file's, else the runtime's.
func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if c.limits == (limits{}) && c.Runtime.Bandwidth != nil {
		c.limits = *c.Runtime.Bandwidth
	}
	for _, l := range []struct {
		name        string
		rate, burst uint64
	}{{"ingress", c.IngressRate, c.IngressBurst}, {"egress", c.EgressRate, c.EgressBurst}} {
		switch {
		case (l.rate == 0) != (l.burst == 0):
			return nil, errs.Invalid("keys %sRate and %sBurst need each other: give both or none", l.name, l.name)
		case l.rate != 0 && l.rate < 8:
			return nil, errs.Invalid("key %sRate: %d bits per second are less than a byte", l.name, l.rate)
		case l.burst/8 >= math.MaxUint32:
			return nil, errs.Invalid("key %sBurst: %d bits are more than 4 GB", l.name, l.burst)
		}
	}
	return c, nil
}

// ifbName is the name that the upstream plugin gives, too.
func ifbName(network, id string) string {
	return fmt.Sprintf("bwp%x", sha512.Sum512([]byte(network+id)))[:15]
}

// aliasPrefix begins the alias of our ifb interfaces; network and pod follow.
const aliasPrefix = "monocrio bandwidth "

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	prev, err := plugin.Chained(r, "bandwidth")
	if err != nil || c.limits == (limits{}) {
		return prev, err
	}
	h, err := link.Host()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	port, err := hostEnd(h, r)
	if err != nil {
		return nil, err
	}
	if c.IngressRate > 0 {
		if err := h.QdiscReplace(bucket(port, c.IngressRate, c.IngressBurst)); err != nil {
			return nil, lack("limit what the pod receives", "CONFIG_NET_SCH_TBF", err)
		}
	}
	if c.EgressRate > 0 {
		ifb, err := limitEgress(h, port, c, r)
		if err != nil {
			return nil, errors.Join(err, link.Delete(h, ifbName(c.Name, r.ContainerID)))
		}
		prev.Interfaces = append(prev.Interfaces, &current.Interface{Name: ifb.Attrs().Name, Mac: ifb.Attrs().HardwareAddr.String()})
	}
	return prev, nil
}

// hostEnd finds the node's end of the pod's veth pair.
func hostEnd(h *netlink.Handle, r *plugin.Request) (netlink.Link, error) {
	n, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	inside, err := link.ByName(n.Handle, r.IfName)
	if err != nil {
		return nil, err
	}
	if inside.Type() == "veth" {
		l, err := h.LinkByIndex(inside.Attrs().ParentIndex)
		if err == nil && l.Type() == "veth" && l.Attrs().ParentIndex == inside.Attrs().Index {
			return l, nil
		}
	}
	return nil, errs.Invalid("cannot limit the bandwidth of %s: it is no veth pair with an end on the node", r.IfName)
}

// limitEgress makes the ifb and redirects to it what comes from the pod.
func limitEgress(h *netlink.Handle, port netlink.Link, c *conf, r *plugin.Request) (netlink.Link, error) {
	name := ifbName(c.Name, r.ContainerID)
	attrs := netlink.LinkAttrs{Name: name, MTU: port.Attrs().MTU, Flags: net.FlagUp, TxQLen: 1000}
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, lack("limit what the pod sends", "CONFIG_IFB", err)
	}
	ifb, err := link.ByName(h, name)
	if err != nil {
		return nil, err
	}
	if err := h.LinkSetAlias(ifb, aliasPrefix+c.Name+" "+r.ContainerID); err != nil {
		return nil, fmt.Errorf("cannot mark %s: %w", name, err)
	}
	if err := h.QdiscReplace(bucket(ifb, c.EgressRate, c.EgressBurst)); err != nil {
		return nil, lack("limit what the pod sends", "CONFIG_NET_SCH_TBF", err)
	}
	in := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: port.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := h.QdiscAdd(in); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, lack("limit what the pod sends", "CONFIG_NET_SCH_INGRESS", err)
	}
	err = h.FilterReplace(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: port.Attrs().Index, Parent: in.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		ClassId:     netlink.MakeHandle(1, 1),
		RedirIndex:  ifb.Attrs().Index,
		Actions:     []netlink.Action{&netlink.MirredAction{MirredAction: netlink.TCA_EGRESS_REDIR, Ifindex: ifb.Attrs().Index}},
	})
	if err != nil {
		return nil, lack("limit what the pod sends", "CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED", err)
	}
	return ifb, nil
}

// lack names the option that a kernel without it needs.
func lack(what, option string, err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return errs.Unimplemented("cannot %s: this kernel answers %w; it needs %s", what, err, option)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// latency is how long a packet may wait for tokens before it is dropped, in
// seconds.
const latency = 0.025

// bucket is the token bucket for a rate and a burst in bits.
func bucket(l netlink.Link, rate, burst uint64) *netlink.Tbf {
	bytes, size := float64(rate/8), float64(burst/8)
	ticks := size / bytes * netlink.TIME_UNITS_PER_SEC * netlink.TickInUsec()
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate / 8,
		Limit:      uint32(min(bytes*latency+size, math.MaxUint32)),
		Buffer:     uint32(min(ticks, math.MaxUint32)),
	}
}

func del(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	h, err := link.Host()
	if err != nil {
		return err
	}
	defer h.Close()
	return link.Delete(h, ifbName(c.Name, r.ContainerID))
}

func check(_ context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil || c.limits == (limits{}) {
		return err
	}
	h, err := link.Host()
	if err != nil {
		return err
	}
	defer h.Close()
	if c.IngressRate > 0 {
		port, err := hostEnd(h, r)
		if err != nil {
			return err
		}
		if err := checkBucket(h, port, c.IngressRate, c.IngressBurst); err != nil {
			return err
		}
	}
	if c.EgressRate > 0 {
		ifb, err := link.ByName(h, ifbName(c.Name, r.ContainerID))
		if err != nil {
			return err
		}
		return checkBucket(h, ifb, c.EgressRate, c.EgressBurst)
	}
	return nil
}

func checkBucket(h *netlink.Handle, l netlink.Link, rate, burst uint64) error {
	qdiscs, err := h.QdiscList(l)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list the queueing disciplines of %s: %w", l.Attrs().Name, err)
	}
	want := bucket(l, rate, burst)
	for _, q := range qdiscs {
		if t, ok := q.(*netlink.Tbf); ok && t.Rate == want.Rate && t.Limit == want.Limit {
			return nil
		}
	}
	return errs.Precondition("interface %s has lost its limit of %d bits per second", l.Attrs().Name, rate)
}

func gc(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	return Sweep(func(network, id string) bool {
		if network != c.Name {
			return false
		}
		for _, a := range c.ValidAttachments {
			if a.ContainerID == id {
				return false
			}
		}
		return true
	})
}

// Sweep deletes the ifb interfaces of pods that are gone.
func Sweep(gone func(network, id string) bool) error {
	h, err := link.Host()
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("cannot list network interfaces: %w", err)
	}
	var failed []error
	for _, l := range links {
		owner, ok := strings.CutPrefix(l.Attrs().Alias, aliasPrefix)
		if network, id, _ := strings.Cut(owner, " "); ok && l.Type() == "ifb" && gone(network, id) {
			failed = append(failed, link.Delete(h, l.Attrs().Name))
		}
	}
	return errors.Join(failed...)
}
