package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/monocrio/monocrio/internal/errs"
)

// Detach takes a pod off the network. It works without the namespace, without the
// file that the configuration came from, and any number of times. prev is the
// result that Attach returned, nil if it is not known. Plugins that fail do not
// keep the others from being called; all failures are in the error.
func (n *Network) Detach(ctx context.Context, c Config, r Request, prev json.RawMessage) error {
	list, err := parseList(c)
	if err != nil {
		return err
	}
	rt, err := runtimeConf(r)
	if err != nil {
		return err
	}
	rt.NetNS = netns(rt.NetNS)
	if prev == nil {
		if res, err := n.lib.GetNetworkListCachedResult(list, rt); err == nil && res != nil {
			prev, _ = json.Marshal(res)
		}
	}
	var failed []error
	for i := len(list.Plugins) - 1; i >= 0; i-- {
		if err := n.verb(ctx, "DEL", list, i, rt, prev); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == 0 {
		if err := remove(n.cacheFile(list.Name, r.ID)); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("cannot detach pod %s from network %s: %w", r.ID, c.Name, errors.Join(failed...))
	}
	return nil
}

// Check asks the plugins whether what Attach returned is still so. Configurations
// older than 0.4.0, and those with disableCheck, cannot be checked and pass.
func (n *Network) Check(ctx context.Context, c Config, r Request, prev Result) error {
	list, err := parseList(c)
	if err != nil {
		return err
	}
	rt, err := runtimeConf(r)
	if err != nil {
		return err
	}
	if !atLeast(list, "0.4.0") || list.DisableCheck {
		return nil
	}
	for i := range list.Plugins {
		if err := n.verb(ctx, "CHECK", list, i, rt, prev.Raw); err != nil {
			return errs.With(errs.KindPrecondition, fmt.Errorf("pod %s is not attached to network %s as it should be: %w", r.ID, c.Name, err))
		}
	}
	return nil
}

func atLeast(list *libcni.NetworkConfigList, v string) bool {
	ok, err := version.GreaterThanOrEqualTo(list.CNIVersion, v)
	return err == nil && ok
}

// verb runs a verb without a result of one plugin of a list, with the configuration
// that the specification derives for it (section 3).
func (n *Network) verb(ctx context.Context, verb string, list *libcni.NetworkConfigList, i int, rt *libcni.RuntimeConf, prev json.RawMessage) error {
	p := list.Plugins[i]
	path, err := n.exec.FindInPath(p.Network.Type, n.opts.PluginDirs)
	if err != nil {
		return err
	}
	inject := map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}
	if len(prev) > 0 && atLeast(list, "0.4.0") {
		inject["prevResult"] = prev
	}
	caps := map[string]any{}
	for name, has := range p.Network.Capabilities {
		if v, ok := rt.CapabilityArgs[name]; has && ok {
			caps[name] = v
		}
	}
	if len(caps) > 0 {
		inject["runtimeConfig"] = caps
	}
	conf, err := libcni.InjectConf(p, inject)
	if err != nil {
		return fmt.Errorf("cannot write the configuration of plugin %s: %w", p.Network.Type, err)
	}
	args := &invoke.Args{Command: verb, ContainerID: rt.ContainerID, NetNS: rt.NetNS, PluginArgs: rt.Args, IfName: rt.IfName, Path: n.path()}
	if err := invoke.ExecPluginWithoutResult(ctx, path, conf.Bytes, args, n.exec); err != nil {
		return fmt.Errorf("plugin %s failed (%s): %w", p.Network.Type, verb, err)
	}
	return nil
}
