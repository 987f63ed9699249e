// Package hostdevice is the CNI plugin "host-device": a network interface of the
// node moves into the pod, and back at DEL.
//
// It is named by one of the keys device (name), hwaddr, kernelpath and pciBusID, or
// by the capability deviceID (a PCI or auxiliary device). The name that it had on
// the node is kept in its alias. A device that is bound to a userspace driver has
// no interface: it gets addresses only.
package hostdevice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/monocrio/monocrio/internal/cni/link"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// Plugin is the plugin.
var Plugin = plugin.Plugin{Name: "host-device", About: "moves a device of the node into the pod", Add: add, Del: del, Check: check, GC: gc, Status: status}

type conf struct {
	types.PluginConf
	Device     string `json:"device"`
	HWAddr     string `json:"hwaddr"`
	KernelPath string `json:"kernelpath"`
	PCIAddr    string `json:"pciBusID"`
	Runtime    struct {
		DeviceID string `json:"deviceID"`
	} `json:"runtimeConfig"`

	sysfs     string // folder of the PCI or auxiliary device
	userspace bool   // bound to a driver for DPDK
}

const (
	pciBus = "/sys/bus/pci/devices"
	auxBus = "/sys/bus/auxiliary/devices"
)

func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if id := c.Runtime.DeviceID; id != "" {
		for _, bus := range []string{pciBus, auxBus} {
			if _, err := os.Stat(filepath.Join(bus, filepath.Base(id))); err == nil && c.sysfs == "" {
				c.sysfs = filepath.Join(bus, filepath.Base(id))
			}
		}
		if c.sysfs == "" {
			return nil, errs.NotFound("PCI or auxiliary device (capability deviceID)", id)
		}
	} else if c.PCIAddr != "" {
		c.sysfs = filepath.Join(pciBus, filepath.Base(c.PCIAddr))
	}
	if c.Device == "" && c.HWAddr == "" && c.KernelPath == "" && c.sysfs == "" {
		return nil, errs.Invalid(`one of the keys device, hwaddr, kernelpath and pciBusID must be there`)
	}
	if c.sysfs != "" {
		driver, err := os.Readlink(filepath.Join(c.sysfs, "driver"))
		c.userspace = err == nil && slices.Contains([]string{"vfio-pci", "uio_pci_generic", "igb_uio"}, filepath.Base(driver))
	}
	return c, nil
}

// find returns the node's interface.
func find(h *netlink.Handle, c *conf) (netlink.Link, error) {
	switch {
	case c.sysfs != "":
		return inSysfs(h, filepath.Join(c.sysfs, "net"))
	case c.Device != "":
		return link.ByName(h, c.Device)
	case c.HWAddr != "":
		mac, err := net.ParseMAC(c.HWAddr)
		if err != nil {
			return nil, errs.Invalid("key hwaddr: %q is no hardware address", c.HWAddr)
		}
		links, err := h.LinkList()
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("cannot list network interfaces: %w", err)
		}
		for _, l := range links {
			if slices.Equal(l.Attrs().HardwareAddr, mac) {
				return l, nil
			}
		}
		return nil, errs.NotFound("network interface with hardware address", c.HWAddr)
	}
	dir := filepath.Clean(c.KernelPath)
	if !strings.HasPrefix(dir, "/sys/devices/") {
		return nil, errs.Invalid("key kernelpath: %q is not below /sys/devices", c.KernelPath)
	}
	return inSysfs(h, filepath.Join(dir, "net"))
}

// inSysfs finds the interface that a device's folder net has.
func inSysfs(h *netlink.Handle, dir string) (netlink.Link, error) {
	names, err := os.ReadDir(dir)
	if err != nil || len(names) == 0 {
		return nil, errs.NotFound("network interface in", dir)
	}
	return link.ByName(h, names[0].Name())
}

func add(ctx context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	in := &current.Interface{Name: r.IfName, Sandbox: r.NetNS}
	if !c.userspace {
		l, err := moveIn(c, r, pod)
		if err != nil {
			return nil, err
		}
		in.Mac, in.Mtu = l.Attrs().HardwareAddr.String(), l.Attrs().MTU
	}
	res := &current.Result{}
	if c.IPAM.Type != "" {
		if res, err = addresses(ctx, c, r, pod, in); err != nil {
			return nil, errors.Join(err, moveOut(c, r))
		}
	} else {
		res.Interfaces = []*current.Interface{in}
	}
	res.DNS = plugin.DNS(c.DNS, res.DNS)
	return res, nil
}

// addresses asks the IPAM plugin and configures the interface.
func addresses(ctx context.Context, c *conf, r *plugin.Request, pod *link.NetNS, in *current.Interface) (*current.Result, error) {
	res, err := plugin.IPAM(ctx, r, c.IPAM.Type)
	if err != nil {
		return nil, err
	}
	res.Interfaces = []*current.Interface{in}
	for _, ip := range res.IPs {
		ip.Interface = current.Int(0)
	}
	if c.userspace {
		return res, nil
	}
	if err := link.Configure(pod, r.IfName, res, true); err != nil {
		return nil, errors.Join(err, plugin.Release(ctx, r, "DEL", c.IPAM.Type))
	}
	return res, nil
}

// moveIn takes the interface down, notes its name, moves it and renames it.
func moveIn(c *conf, r *plugin.Request, pod *link.NetNS) (netlink.Link, error) {
	host, err := link.Host()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	l, err := find(host, c)
	if err != nil {
		return nil, err
	}
	name := l.Attrs().Name
	if _, err := pod.LinkByName(r.IfName); err == nil {
		return nil, errs.Errorf(errs.KindAlreadyExists, "cannot move %s into the pod: it has an interface %s already", name, r.IfName)
	}
	tmp := link.RandomName("tmp")
	wasUp := l.Attrs().Flags&net.FlagUp != 0
	undo := func(err error) error {
		again := []error{fmt.Errorf("cannot move %s into the pod: %w", name, err)}
		again = append(again, host.LinkSetName(l, name), host.LinkSetAlias(l, ""))
		if wasUp {
			again = append(again, host.LinkSetUp(l))
		}
		return errors.Join(again...)
	}
	for _, step := range []func() error{
		func() error { return host.LinkSetDown(l) },
		func() error { return host.LinkSetAlias(l, name) },
		func() error { return host.LinkSetName(l, tmp) }, // a name that the pod has not
		func() error { return host.LinkSetNsFd(l, pod.Fd()) },
	} {
		if err := step(); err != nil {
			return nil, undo(err)
		}
	}
	if l, err = link.ByName(pod.Handle, tmp); err != nil {
		return nil, err
	}
	if err := pod.LinkSetName(l, r.IfName); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot name the interface %s: %w", r.IfName, err), giveBack(pod, l, name))
	}
	if err := pod.LinkSetUp(l); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot bring up %s: %w", r.IfName, err), giveBack(pod, l, name))
	}
	return link.ByName(pod.Handle, r.IfName)
}

// giveBack moves an interface of the pod to the node and gives it its name there.
func giveBack(pod *link.NetNS, l netlink.Link, name string) error {
	home, err := os.Open(plugin.ThreadNetNS)
	if err != nil {
		return err
	}
	defer home.Close()
	host, err := link.Host()
	if err != nil {
		return err
	}
	defer host.Close()
	tmp := link.RandomName("tmp")
	for _, step := range []func() error{
		func() error { return pod.LinkSetDown(l) },
		func() error { return pod.LinkSetName(l, tmp) },
		func() error { return pod.LinkSetNsFd(l, int(home.Fd())) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("cannot give interface %s back to the node: %w", name, err)
		}
	}
	back, err := link.ByName(host, tmp)
	if err == nil {
		err = errors.Join(host.LinkSetName(back, name), host.LinkSetAlias(back, ""))
	}
	if err != nil {
		return fmt.Errorf("cannot name interface %s as before: %w", name, err)
	}
	return nil
}

// moveOut gives the interface back, if the pod still has it.
func moveOut(c *conf, r *plugin.Request) error {
	if c.userspace || plugin.Gone(r.NetNS) {
		return nil
	}
	pod, err := link.Open(r.NetNS)
	if err != nil {
		if errs.Is(err, errs.KindNotFound) {
			return nil
		}
		return err
	}
	defer pod.Close()
	l, err := link.ByName(pod.Handle, r.IfName)
	if errs.Is(err, errs.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Attrs().Alias == "" {
		return nil // none that this plugin has moved
	}
	return giveBack(pod, l, l.Attrs().Alias)
}

func del(ctx context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	if full, err := load(r); err == nil { // the device itself may be gone
		c = full
	}
	if err := moveOut(c, r); err != nil {
		return err
	}
	return plugin.Release(ctx, r, "DEL", c.IPAM.Type)
}

func check(ctx context.Context, r *plugin.Request) error {
	c, err := load(r)
	if err != nil {
		return err
	}
	prev, err := plugin.Chained(r, "CHECK of host-device")
	if err != nil {
		return err
	}
	if !c.userspace {
		pod, err := link.Open(r.NetNS)
		if err != nil {
			return err
		}
		defer pod.Close()
		if err := link.Verify(pod, r.IfName, prev); err != nil {
			return err
		}
	}
	return plugin.Release(ctx, r, "CHECK", c.IPAM.Type)
}

func gc(ctx context.Context, r *plugin.Request) error { return passOn(ctx, r, "GC") }

func status(ctx context.Context, r *plugin.Request) error { return passOn(ctx, r, "STATUS") }

func passOn(ctx context.Context, r *plugin.Request, verb string) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	return plugin.Release(ctx, r, verb, c.IPAM.Type)
}
