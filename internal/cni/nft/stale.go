package nft

import "github.com/containernetworking/cni/pkg/types"

// Stale is for the verb GC: it tells of an owner of a network whether its
// attachment is none of the valid ones. Owners of other networks are not stale.
func Stale(network string, valid []types.GCAttachment) func(Owner) bool {
	return func(o Owner) bool {
		if !(Owner{network, o.ID, o.IfName}).Is(o) {
			return false
		}
		for _, a := range valid {
			if o.Is(Owner{network, a.ContainerID, a.IfName}) {
				return false
			}
		}
		return true
	}
}

// Only tells whether an owner is this one.
func Only(o Owner) func(Owner) bool { return func(p Owner) bool { return p.Is(o) } }
