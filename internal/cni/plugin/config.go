package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/monocrio/monocrio/internal/errs"
)

// Decode reads the request's configuration into a T, usually a struct that embeds
// types.PluginConf. The error names the line and the key that cannot be meant.
func Decode[T any](r *Request) (*T, error) {
	conf := new(T)
	if err := json.Unmarshal(r.Config, conf); err != nil {
		return nil, errs.With(errs.KindInvalid,
			types.NewError(types.ErrDecodingFailure, "cannot read the network configuration: "+Explain(r.Config, err), ""))
	}
	return conf, nil
}

// Explain turns an error of encoding/json about data into words that tell line and
// key.
func Explain(data []byte, err error) string {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("line %d: %v", line(data, syntax.Offset), err)
	case errors.As(err, &mistyped):
		key := mistyped.Field
		if key == "" {
			key = "(top)"
		}
		return fmt.Sprintf("line %d: key %s: want %s, found a JSON %s", line(data, mistyped.Offset), key, mistyped.Type, mistyped.Value)
	}
	return err.Error()
}

func line(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset, 0), int64(len(data)))], []byte("\n"))
}

// PrevResult returns the result of the plugins before this one in the list, in the
// current version; nil if there is none.
func PrevResult(r *Request) (*current.Result, error) {
	conf, err := Decode[struct {
		CNIVersion string          `json:"cniVersion"`
		Prev       json.RawMessage `json:"prevResult"`
	}](r)
	if err != nil || len(conf.Prev) == 0 || string(conf.Prev) == "null" {
		return nil, err
	}
	prev, err := create.Create(conf.CNIVersion, conf.Prev)
	if err != nil {
		return nil, errs.Invalid("cannot read prevResult: %w", err)
	}
	return current.NewResultFromResult(prev)
}

// Chained is PrevResult for plugins that only make sense after another one.
func Chained(r *Request, name string) (*current.Result, error) {
	prev, err := PrevResult(r)
	if err == nil && prev == nil {
		err = errs.With(errs.KindInvalid, types.NewError(types.ErrInvalidNetworkConfig,
			name+" needs prevResult: list it after the plugin that makes the interface", ""))
	}
	return prev, err
}

// IPAM runs ADD of the configuration's IPAM plugin. The addresses that it returns
// are at least one.
func IPAM(ctx context.Context, r *Request, name string) (*current.Result, error) {
	res, err := r.Delegate(ctx, "ADD", name, r)
	if err != nil {
		return nil, fmt.Errorf("cannot get an address from IPAM plugin %s: %w", name, err)
	}
	if res == nil || len(res.IPs) == 0 {
		return nil, errs.Invalid("IPAM plugin %s returned no address", name)
	}
	return res, nil
}

// Release runs another verb of the configuration's IPAM plugin; without an IPAM
// plugin it does nothing.
func Release(ctx context.Context, r *Request, verb, name string) error {
	if name == "" {
		return nil
	}
	if _, err := r.Delegate(ctx, verb, name, r); err != nil {
		return fmt.Errorf("cannot run %s of IPAM plugin %s: %w", verb, name, err)
	}
	return nil
}

// DNS returns the configuration's name servers if it has any, else those of IPAM.
func DNS(conf, ipam types.DNS) types.DNS {
	if conf.IsEmpty() {
		return ipam
	}
	return conf
}

// MAC returns the hardware address that a request asks for: the capability wins
// over args, args over CNI_ARGS; "" if none does.
func MAC(r *Request) (string, error) {
	conf, err := Decode[struct {
		Args struct {
			CNI struct {
				MAC string `json:"mac"`
			} `json:"cni"`
		} `json:"args"`
		Runtime struct {
			MAC string `json:"mac"`
		} `json:"runtimeConfig"`
	}](r)
	if err != nil {
		return "", err
	}
	if conf.Runtime.MAC != "" {
		return conf.Runtime.MAC, nil
	}
	if conf.Args.CNI.MAC != "" {
		return conf.Args.CNI.MAC, nil
	}
	return Arg(r.Args, "MAC"), nil
}
