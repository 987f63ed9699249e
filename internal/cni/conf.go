package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// loaded is what the folder held when it was read last.
type loaded struct {
	all    []Config // usable ones, in lexical order of their files
	chosen *Config
	broken []error // one for each file that is not usable
	dir    error   // why the folder cannot be read
}

func (l loaded) same(o loaded) bool {
	text := func(l loaded) string { return fmt.Sprint(l.broken, l.dir) }
	return text(l) == text(o) && (l.chosen == nil) == (o.chosen == nil) &&
		slices.EqualFunc(l.all, o.all, func(a, b Config) bool { return a.File == b.File && bytes.Equal(a.List, b.List) })
}

// why tells what keeps pods from being attached.
func (l loaded) why(o Options) error {
	broken := ""
	if len(l.broken) > 0 {
		broken = ": " + strings.ReplaceAll(errors.Join(l.broken...).Error(), "\n", "; ")
	}
	switch {
	case errors.Is(l.dir, os.ErrNotExist):
		return errs.Unavailable("the pod network is not ready: folder %s (network_dir) does not exist; put a CNI configuration there", o.ConfDir)
	case l.dir != nil:
		return errs.Unavailable("the pod network is not ready: %w", l.dir)
	case o.DefaultNetwork != "" && len(l.all) > 0:
		var names []string
		for _, c := range l.all {
			names = append(names, c.Name)
		}
		return errs.Unavailable("the pod network is not ready: no file in %s has the network %q (cni_default_network), only %s%s",
			o.ConfDir, o.DefaultNetwork, strings.Join(names, ", "), broken)
	case len(l.broken) > 0:
		return errs.Unavailable("the pod network is not ready: no file in %s (network_dir) is usable%s", o.ConfDir, broken)
	}
	return errs.Unavailable("the pod network is not ready: there is no CNI configuration (*.conflist, *.conf, *.json) in %s (network_dir)", o.ConfDir)
}

// load reads the folder.
func load(o Options, e *Exec) (l loaded) {
	if _, err := os.Stat(o.ConfDir); err != nil {
		l.dir = fmt.Errorf("cannot read folder %s (network_dir): %w", o.ConfDir, err)
		return l
	}
	files, err := libcni.ConfFiles(o.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		l.dir = fmt.Errorf("cannot read folder %s (network_dir): %w", o.ConfDir, err)
		return l
	}
	slices.Sort(files)
	for _, file := range files {
		c, err := loadFile(file, o)
		if err != nil {
			l.broken = append(l.broken, fmt.Errorf("%s: %w", file, err))
			continue
		}
		l.all = append(l.all, c)
		if l.chosen == nil && (o.DefaultNetwork == "" || o.DefaultNetwork == c.Name) {
			l.chosen = &l.all[len(l.all)-1]
		}
	}
	if l.chosen != nil { // appending may have moved it
		c := *l.chosen
		l.chosen = &c
	}
	return l
}

// file is the part of a configuration file that is looked at. Pointers tell what
// is not there.
type file struct {
	Name        *string             `json:"name"`
	CNIVersion  string              `json:"cniVersion"`
	Type        string              `json:"type"`    // of a single plugin
	Plugins     *[]types.PluginConf `json:"plugins"` // of a list
	InlinedOnly json.RawMessage     `json:"loadOnlyInlinedPlugins"`
}

// loadFile reads a list, or a single plugin, which becomes a list.
func loadFile(path string, o Options) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return Config{}, errs.Invalid("%s", plugin.Explain(data, err))
	}
	if f.Name == nil || *f.Name == "" {
		return Config{}, errs.Invalid("key name is missing")
	}
	if err := utils.ValidateNetworkName(*f.Name); err != nil {
		return Config{}, errs.Invalid("key name: %q: %s", *f.Name, err.Details)
	}
	if v := f.CNIVersion; v != "" && !slices.Contains(version.All.SupportedVersions(), v) {
		return Config{}, errs.Invalid("key cniVersion: %q is none of %s", v, strings.Join(version.All.SupportedVersions(), ", "))
	}
	list, err := libList(path, data, f)
	if err != nil {
		return Config{}, err
	}
	for i, p := range list.Plugins {
		if p.Network.Type == "" {
			return Config{}, errs.Invalid("key plugins[%d].type is missing", i)
		}
	}
	whole, err := complete(list, o)
	return Config{Name: list.Name, File: path, List: whole}, err
}

// libList lets the CNI library read the file, with the plugins that a folder beside
// it adds.
func libList(path string, data []byte, f file) (*libcni.NetworkConfigList, error) {
	if f.Plugins == nil && f.Type != "" {
		single, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return nil, errs.With(errs.KindInvalid, err)
		}
		return libcni.ConfListFromConf(single)
	}
	if f.Plugins == nil && filepath.Ext(path) != ".conflist" {
		return nil, errs.Invalid("key type is missing (in a single plugin) or key plugins (in a list)")
	}
	list, err := libcni.NetworkConfFromFile(path)
	if err != nil {
		return nil, errs.With(errs.KindInvalid, err)
	}
	return list, nil
}

// complete writes the list that is recorded: with all plugins inline, the chosen
// version, host-local's folder and the embedded portmap where nobody maps ports.
func complete(list *libcni.NetworkConfigList, o Options) (json.RawMessage, error) {
	whole := map[string]any{}
	if err := json.Unmarshal(list.Bytes, &whole); err != nil {
		return nil, err
	}
	maps := false
	var plugins []any
	for _, p := range list.Plugins {
		conf := map[string]any{}
		if err := json.Unmarshal(p.Bytes, &conf); err != nil {
			return nil, err
		}
		if ipam, ok := conf["ipam"].(map[string]any); ok && strings.TrimPrefix(p.Network.IPAM.Type, ForcePrefix) == "host-local" && ipam["dataDir"] == nil {
			ipam["dataDir"] = filepath.Join(o.CacheDir, "networks")
		}
		maps = maps || p.Network.Capabilities["portMappings"]
		plugins = append(plugins, conf)
	}
	if !maps && atLeast(list, "0.3.0") {
		plugins = append(plugins, map[string]any{"type": ForcePrefix + "portmap", "capabilities": map[string]bool{"portMappings": true}})
	}
	delete(whole, "cniVersions")
	whole["plugins"] = plugins
	whole["loadOnlyInlinedPlugins"] = true
	if list.CNIVersion != "" {
		whole["cniVersion"] = list.CNIVersion
	}
	return json.Marshal(whole)
}

// parseList reads a recorded configuration.
func parseList(c Config) (*libcni.NetworkConfigList, error) {
	list, err := libcni.NetworkConfFromBytes(c.List)
	if err != nil {
		return nil, errs.Invalid("cannot read the recorded configuration of network %s: %w", c.Name, err)
	}
	return list, nil
}
