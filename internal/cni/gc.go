package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin/bandwidth"
	"github.com/monocrio/monocrio/internal/cni/plugin/bridge"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostlocal"
)

func (n *Network) path() string { return strings.Join(n.opts.PluginDirs, string(os.PathListSeparator)) }

// GC takes away what belongs to no pod of those whose ids are valid; pods that are
// just being attached must be among them. Attachments that are cached but have no
// pod are detached, plugins of our networks are given the verb GC (1.1.0), and then
// our own packet filter elements and host-local's leases in these networks are
// looked through, whatever the configuration's version.
//
// Our networks are the one that new pods get and those in which a cached attachment
// is a pod of ours. Other configurations of the folder, other attachments of the
// cache, and other owners of elements are left alone: podman, for one, uses the same
// folders and may use the same plugins, and its containers are in nobody's list.
func (n *Network) GC(ctx context.Context, valid []string) error {
	n.mu.Lock()
	configs, chosen := slices.Clone(n.loaded.all), n.loaded.chosen
	n.mu.Unlock()
	var failed []error
	known := map[string]bool{}
	if chosen != nil {
		known[chosen.Name] = true
	}
	cached, err := n.lib.GetCachedAttachments("")
	failed = append(failed, err)
	for _, a := range cached {
		if !ours(a) {
			continue
		}
		known[a.Network] = true
		if !slices.Contains(valid, a.ContainerID) {
			failed = append(failed, n.dropCached(ctx, a))
		}
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, id := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: IfName})
	}
	leases := map[[2]string]bool{} // folder, network
	for _, c := range configs {
		if !known[c.Name] {
			continue
		}
		list, err := parseList(c)
		if err == nil && atLeast(list, "1.1.0") {
			err = n.lib.GCNetworkList(ctx, list, args)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("cannot run GC of network %s: %w", c.Name, err))
		}
		if list != nil && !list.DisableGC {
			addLeases(leases, list)
		}
	}
	for l := range leases {
		failed = append(failed, hostlocal.Sweep(l[0], l[1], func(id, _ string) bool { return slices.Contains(valid, id) }))
	}
	return errors.Join(append(failed, onThread(func() error { return sweep(known, valid) }))...)
}

// sweep looks through what the embedded plugins keep in the kernel.
func sweep(known map[string]bool, valid []string) error {
	gone := func(o nft.Owner) bool { return stale(o, known, valid) }
	var failed []error
	for _, t := range Tables() {
		_, err := t.Remove(gone)
		failed = append(failed, err)
	}
	return errors.Join(append(failed,
		nft.RevokeForwarded(gone),
		bandwidth.Sweep(func(network, id string) bool { return known[network] && !slices.Contains(valid, id) }))...)
}

// ours tells whether a cached attachment is that of a pod: runtimeConf gives every
// pod its own id as an argument.
func ours(a *libcni.NetworkAttachment) bool {
	return a.IfName == IfName && slices.Contains(a.CniArgs, [2]string{infraArg, a.ContainerID})
}

// dropCached detaches a pod of which only the library's cache knows.
func (n *Network) dropCached(ctx context.Context, a *libcni.NetworkAttachment) error {
	c := Config{Name: a.Network, List: a.Config}
	var prev json.RawMessage
	list, err := parseList(c)
	if err == nil {
		rt := &libcni.RuntimeConf{ContainerID: a.ContainerID, NetNS: netns(a.NetNS), IfName: a.IfName, Args: a.CniArgs, CapabilityArgs: a.CapabilityArgs}
		if res, e := n.lib.GetNetworkListCachedResult(list, rt); e == nil && res != nil {
			prev, _ = json.Marshal(res)
		}
		for i := len(list.Plugins) - 1; i >= 0; i-- {
			err = errors.Join(err, n.verb(ctx, "DEL", list, i, rt, prev))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot detach pod %s, which is gone, from network %s: %w", a.ContainerID, a.Network, err)
	}
	return remove(n.cacheFile(a.Network, a.ContainerID))
}

// addLeases notes where host-local keeps the leases of a list.
func addLeases(to map[[2]string]bool, list *libcni.NetworkConfigList) {
	for _, p := range list.Plugins {
		var conf struct {
			IPAM struct {
				Type    string `json:"type"`
				DataDir string `json:"dataDir"`
			} `json:"ipam"`
		}
		if json.Unmarshal(p.Bytes, &conf) == nil && strings.TrimPrefix(conf.IPAM.Type, ForcePrefix) == "host-local" {
			to[[2]string{filepath.Clean(conf.IPAM.DataDir), list.Name}] = true
		}
	}
}

// stale tells whether an owner is a pod of ours that is no more.
func stale(o nft.Owner, known map[string]bool, valid []string) bool {
	for network := range known {
		if !(nft.Owner{Network: network, ID: o.ID, IfName: IfName}).Is(o) {
			continue
		}
		return !slices.ContainsFunc(valid, func(id string) bool { return nft.Owner{Network: network, ID: id, IfName: IfName}.Is(o) })
	}
	return false
}

// Teardown removes what outlives pods: bridges of ours that have no pod, and tables
// of ours that are empty. It is for a node that stops being one, and for tests.
func (n *Network) Teardown(context.Context) error {
	var failed []error
	for _, t := range Tables() {
		failed = append(failed, onThread(func() error {
			_, err := t.Remove(func(nft.Owner) bool { return false })
			return err
		}))
	}
	return errors.Join(append(failed, onThread(bridge.Clean))...)
}

func onThread(f func() error) error {
	_, err := OnThread(func() (types.Result, error) { return nil, f() })
	return err
}
