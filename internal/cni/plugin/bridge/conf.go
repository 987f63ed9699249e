package bridge

import (
	"slices"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

// conf has the keys of the upstream plugin.
type conf struct {
	types.PluginConf
	Bridge                    string  `json:"bridge"`
	IsGW                      bool    `json:"isGateway"`
	IsDefaultGW               bool    `json:"isDefaultGateway"`
	ForceAddress              bool    `json:"forceAddress"`
	IPMasq                    bool    `json:"ipMasq"`
	IPMasqBackend             *string `json:"ipMasqBackend"`
	MTU                       int     `json:"mtu"`
	HairpinMode               bool    `json:"hairpinMode"`
	PromiscMode               bool    `json:"promiscMode"`
	Vlan                      int     `json:"vlan"`
	VlanTrunk                 []trunk `json:"vlanTrunk"`
	PreserveDefaultVlan       bool    `json:"preserveDefaultVlan"`
	MacSpoofChk               bool    `json:"macspoofchk"`
	EnableDad                 bool    `json:"enabledad"`
	DisableContainerInterface bool    `json:"disableContainerInterface"`
	PortIsolation             bool    `json:"portIsolation"`

	mac   string
	vlans []uint16 // of vlanTrunk, sorted, each once
}

// trunk is a VLAN or a range of them.
type trunk struct {
	MinID *int `json:"minID"`
	MaxID *int `json:"maxID"`
	ID    *int `json:"id"`
}

// filtering tells whether the bridge must know VLANs.
func (c *conf) filtering() bool { return c.Vlan != 0 || len(c.vlans) > 0 }

func load(r *plugin.Request) (*conf, error) {
	c, err := plugin.Decode[conf](r)
	if err != nil {
		return nil, err
	}
	if c.Bridge == "" {
		c.Bridge = "cni0"
	}
	if c.IsDefaultGW {
		c.IsGW = true
	}
	switch {
	case c.Vlan < 0 || c.Vlan > 4094:
		return nil, errs.Invalid("key vlan: %d is no VLAN; give 0 (none) to 4094", c.Vlan)
	case c.HairpinMode && c.PromiscMode:
		return nil, errs.Invalid("keys hairpinMode and promiscMode exclude each other: remove one")
	case c.DisableContainerInterface && c.IPAM.Type != "":
		return nil, errs.Invalid("keys disableContainerInterface and ipam exclude each other: remove one")
	}
	if c.vlans, err = vlans(c.VlanTrunk); err != nil {
		return nil, err
	}
	c.mac, err = plugin.MAC(r)
	return c, err
}

// vlans lists the VLANs of a trunk.
func vlans(t []trunk) ([]uint16, error) {
	var out []uint16
	for i, e := range t {
		first, last := e.MinID, e.MaxID
		if e.ID != nil {
			if !valid(*e.ID) {
				return nil, errs.Invalid("key vlanTrunk[%d].id: %d is no VLAN; give 1 to 4094", i, *e.ID)
			}
			out = append(out, uint16(*e.ID))
		}
		if first == nil && last == nil {
			continue
		}
		if first == nil || last == nil || !valid(*first) || !valid(*last) || *first > *last {
			return nil, errs.Invalid("key vlanTrunk[%d]: minID and maxID must both be there, in order, from 1 to 4094", i)
		}
		for v := *first; v <= *last; v++ {
			out = append(out, uint16(v))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func valid(vlan int) bool { return vlan >= 1 && vlan <= 4094 }
