package cni

import (
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/cni/plugin/bridge"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostlocal"
	"github.com/monocrio/monocrio/internal/cni/plugin/loopback"
	"github.com/monocrio/monocrio/internal/cni/plugin/portmap"
)

// Embedded returns the plugins that are part of this program.
func Embedded() []*plugin.Plugin {
	return []*plugin.Plugin{
		&bridge.Plugin, &hostlocal.Plugin, &loopback.Plugin, &portmap.Plugin,
	}
}

// Tables returns the packet filter tables of the embedded plugins.
func Tables() []*nft.Table {
	return []*nft.Table{nft.MasqueradeTable(), bridge.SpoofTable(), portmap.Table()}
}
