package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
	"github.com/monocrio/monocrio/internal/fsx"
)

// TemplateFile is the name, in network_dir, of the configuration that is made from
// the template.
const TemplateFile = "10-pod-cidr.conflist"

// SetPodCIDR makes the node's network configuration from the template, for address
// ranges as the kubelet tells them ("10.1.0.0/24,fd00:1::/64"). Without a template,
// or without ranges, it does nothing. The file outlives the daemon, so that a
// restart needs no kubelet.
//
// The template is a CNI configuration list in which a whole string stands for a
// value: "{{PodCIDR}}" for the first range, "{{PodCIDRRanges}}" for host-local's
// ranges of all of them, "{{Routes}}" for a default route of each family.
func (n *Network) SetPodCIDR(cidrs string) error {
	if n.opts.Template == "" || strings.Trim(cidrs, ", ") == "" {
		return nil
	}
	values, err := templateValues(cidrs)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(n.opts.Template)
	if err != nil {
		return errs.Precondition("cannot use the pod CIDR: cni_conf_template: %w", err)
	}
	var conf any
	if err := json.Unmarshal(data, &conf); err != nil {
		return errs.Precondition("cannot use the pod CIDR: cni_conf_template %s: %s", n.opts.Template, plugin.Explain(data, err))
	}
	out, err := json.MarshalIndent(fill(conf, values), "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(n.opts.ConfDir, TemplateFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, append(out, '\n')) {
		return nil
	}
	if err := os.MkdirAll(n.opts.ConfDir, 0o755); err != nil {
		return fmt.Errorf("cannot make the folder of the network configuration: %w", err)
	}
	if err := fsx.WriteFile(path, append(out, '\n'), 0o644, fsx.Process); err != nil {
		return fmt.Errorf("cannot write the network configuration: %w", err)
	}
	n.log.Info("made the network configuration from the pod CIDR", "file", path, "cidr", cidrs)
	return nil
}

// templateValues are what the placeholders stand for.
func templateValues(cidrs string) (map[string]any, error) {
	var first string
	var ranges, routes []any
	seen := map[string]bool{}
	for _, text := range strings.Split(cidrs, ",") {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, errs.Invalid("pod CIDR %q: write ADDRESS/LENGTH, several separated by commas", text)
		}
		if first == "" {
			first = p.Masked().String()
		}
		ranges = append(ranges, []any{map[string]any{"subnet": p.Masked().String()}})
		dst := "0.0.0.0/0"
		if p.Addr().Is6() {
			dst = "::/0"
		}
		if !seen[dst] {
			seen[dst] = true
			routes = append(routes, map[string]any{"dst": dst})
		}
	}
	return map[string]any{"{{PodCIDR}}": first, "{{PodCIDRRanges}}": ranges, "{{Routes}}": routes}, nil
}

// fill replaces the placeholders in a JSON value.
func fill(v any, values map[string]any) any {
	switch v := v.(type) {
	case string:
		if value, ok := values[v]; ok {
			return value
		}
	case []any:
		for i := range v {
			v[i] = fill(v[i], values)
		}
	case map[string]any:
		for k := range v {
			v[k] = fill(v[k], values)
		}
	}
	return v
}
