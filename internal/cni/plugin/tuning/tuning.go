// Package tuning is the CNI plugin "tuning": it changes properties of an interface
// that another plugin has made, and sysctls of the pod's network.
//
// What the interface had before is kept in a file (key dataDir) and restored at
// DEL, for interfaces that outlive the pod. If /etc/cni/tuning/allowlist.conf
// exists, only sysctls that match one of its regular expressions may be set.
package tuning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
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
var Plugin = plugin.Plugin{Name: "tuning", About: "sets sysctls and link attributes", Add: add, Del: del, Check: check}

const (
	defaultDir = "/run/cni/tuning"
	allowlist  = "/etc/cni/tuning/allowlist.conf"
)

// settings are properties of an interface; nil and zero mean: leave it.
type settings struct {
	MAC      string `json:"mac,omitempty"`
	Promisc  *bool  `json:"promisc,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	Allmulti *bool  `json:"allmulti,omitempty"`
	TxQLen   *int   `json:"txQLen,omitempty"`
}

type conf struct {
	types.PluginConf
	settings
	DataDir string            `json:"dataDir"`
	Sysctl  map[string]string `json:"sysctl"`
	Args    struct {
		CNI struct {
			settings
			Sysctl map[string]string `json:"sysctl"`
		} `json:"cni"`
	} `json:"args"`
	Runtime struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
}

// load merges what the file, CNI_ARGS, the capability mac and args.cni say; later
// ones win.
func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if c.DataDir == "" {
		c.DataDir = defaultDir
	}
	a := &c.Args.CNI
	for _, mac := range []string{plugin.Arg(r.Args, "MAC"), c.Runtime.MAC, a.MAC} {
		if mac != "" {
			c.MAC = mac
		}
	}
	if a.Promisc != nil {
		c.Promisc = a.Promisc
	}
	if a.MTU != 0 {
		c.MTU = a.MTU
	}
	if a.Allmulti != nil {
		c.Allmulti = a.Allmulti
	}
	if a.TxQLen != nil {
		c.TxQLen = a.TxQLen
	}
	if c.Promisc != nil && !*c.Promisc {
		c.Promisc = nil // false has always meant: leave it
	}
	for k, v := range a.Sysctl {
		if c.Sysctl == nil {
			c.Sysctl = map[string]string{}
		}
		c.Sysctl[k] = v
	}
	_, err = link.ParseMAC(c.MAC)
	return c, err
}

func add(_ context.Context, r *plugin.Request) (*current.Result, error) {
	c, err := load(r)
	if err != nil {
		return nil, err
	}
	prev, err := plugin.Chained(r, "tuning")
	if err != nil {
		return nil, err
	}
	if err := allowed(c.Sysctl, allowlist); err != nil {
		return nil, err
	}
	pod, err := link.Open(r.NetNS)
	if err != nil {
		return nil, err
	}
	defer pod.Close()
	if err := setSysctls(pod, c, r.IfName); err != nil {
		return nil, err
	}
	if c.settings == (settings{}) {
		return prev, nil
	}
	l, err := link.ByName(pod.Handle, r.IfName)
	if err != nil {
		return nil, err
	}
	if err := save(backup(c.DataDir, r), present(l, c.settings)); err != nil {
		return nil, err
	}
	if err := apply(pod.Handle, l, c.settings); err != nil {
		return nil, err
	}
	for _, i := range prev.Interfaces {
		if i.Name == r.IfName && i.Sandbox != "" && c.MAC != "" {
			i.Mac = c.MAC
		}
		if i.Name == r.IfName && i.Sandbox != "" && c.MTU != 0 && i.Mtu != 0 {
			i.Mtu = c.MTU
		}
	}
	return prev, nil
}

// allowed compares sysctls with the list of what may be set, if there is one.
func allowed(sysctls map[string]string, list string) error {
	data, err := os.ReadFile(list)
	if os.IsNotExist(err) || len(sysctls) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the list of allowed sysctls: %w", err)
	}
	for key := range sysctls {
		ok := false
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line == "" {
				continue
			}
			re, err := regexp.Compile(line)
			if err != nil {
				return errs.Invalid("%s: %q is no regular expression: %w", list, line, err)
			}
			ok = ok || re.MatchString(key)
		}
		if !ok {
			return errs.Invalid("sysctl %s is not allowed by %s", key, list)
		}
	}
	return nil
}

// sysctlPath turns a key into the path below /proc/sys/net. IFNAME stands for the
// pod's interface; dots and slashes both separate.
func sysctlPath(key, ifName string) (string, error) {
	p := path.Clean("/" + strings.Replace(strings.ReplaceAll(key, ".", "/"), "IFNAME", ifName, 1))
	rest, ok := strings.CutPrefix(p, "/net/")
	if !ok {
		return "", errs.Invalid("key sysctl: %q is no sysctl of the network (net....)", key)
	}
	return rest, nil
}

func setSysctls(pod *link.NetNS, c *conf, ifName string) error {
	if len(c.Sysctl) == 0 {
		return nil
	}
	return pod.Enter(func() error {
		for key, value := range c.Sysctl {
			p, err := sysctlPath(key, ifName)
			if err == nil {
				err = link.Sysctl(value, p)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// present returns what an interface has of what is to be changed.
func present(l netlink.Link, want settings) (s settings) {
	a := l.Attrs()
	if want.MAC != "" {
		s.MAC = a.HardwareAddr.String()
	}
	if want.Promisc != nil {
		on := a.Promisc != 0
		s.Promisc = &on
	}
	if want.MTU != 0 {
		s.MTU = a.MTU
	}
	if want.Allmulti != nil {
		on := a.RawFlags&unix.IFF_ALLMULTI != 0
		s.Allmulti = &on
	}
	if want.TxQLen != nil {
		n := a.TxQLen
		s.TxQLen = &n
	}
	return s
}

// apply changes an interface.
func apply(h *netlink.Handle, l netlink.Link, s settings) error {
	name := l.Attrs().Name
	var failed []error
	do := func(what string, err error) {
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot set %s of %s: %w", what, name, err))
		}
	}
	if s.MAC != "" {
		mac, err := net.ParseMAC(s.MAC)
		if err == nil {
			err = h.LinkSetHardwareAddr(l, mac)
		}
		do("mac", err)
	}
	if s.Promisc != nil {
		f := h.SetPromiscOff
		if *s.Promisc {
			f = h.SetPromiscOn
		}
		do("promisc", f(l))
	}
	if s.MTU != 0 {
		do("mtu", h.LinkSetMTU(l, s.MTU))
	}
	if s.Allmulti != nil {
		f := h.LinkSetAllmulticastOff
		if *s.Allmulti {
			f = h.LinkSetAllmulticastOn
		}
		do("allmulti", f(l))
	}
	if s.TxQLen != nil {
		do("txQLen", h.LinkSetTxQLen(l, *s.TxQLen))
	}
	return errors.Join(failed...)
}

// backup is the file that has what an interface had before. Id and name were
// checked by the host of the plugin: neither has a slash.
func backup(dir string, r *plugin.Request) string {
	return filepath.Join(dir, r.ContainerID+"_"+r.IfName+".json")
}

func save(file string, s settings) error {
	data, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o700)
	}
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep what the interface had: %w", err)
	}
	return nil
}

// del restores the interface, if it is still there, and forgets what it had.
func del(_ context.Context, r *plugin.Request) error {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return err
	}
	if c.DataDir == "" {
		c.DataDir = defaultDir
	}
	file := backup(c.DataDir, r)
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	var s settings
	if err == nil && json.Unmarshal(data, &s) == nil && !plugin.Gone(r.NetNS) {
		if err := restore(r, s); err != nil {
			return err
		}
	}
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot forget what the interface had: %w", err)
	}
	return nil
}

func restore(r *plugin.Request, s settings) error {
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
	return apply(pod.Handle, l, s)
}

func check(_ context.Context, r *plugin.Request) error {
	c, err := load(r)
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
	have, _ := json.Marshal(present(l, c.settings))
	want, _ := json.Marshal(c.settings)
	if string(have) != string(want) {
		return errs.Precondition("interface %s has %s, not %s", r.IfName, have, want)
	}
	return pod.Enter(func() error {
		for key, value := range c.Sysctl {
			p, err := sysctlPath(key, r.IfName)
			if err != nil {
				return err
			}
			data, err := os.ReadFile("/proc/sys/net/" + p)
			if err != nil {
				return fmt.Errorf("cannot read sysctl %s: %w", key, err)
			}
			if got := strings.TrimSpace(string(data)); got != value {
				return errs.Precondition("sysctl %s is %s, not %s", key, got, value)
			}
		}
		return nil
	})
}
