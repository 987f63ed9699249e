package cni

import (
	"github.com/monocrio/monocrio/internal/cni/nft"
	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/cni/plugin/bandwidth"
	"github.com/monocrio/monocrio/internal/cni/plugin/bridge"
	"github.com/monocrio/monocrio/internal/cni/plugin/firewall"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostdevice"
	"github.com/monocrio/monocrio/internal/cni/plugin/hostlocal"
	"github.com/monocrio/monocrio/internal/cni/plugin/loopback"
	"github.com/monocrio/monocrio/internal/cni/plugin/macvlan"
	"github.com/monocrio/monocrio/internal/cni/plugin/portmap"
	"github.com/monocrio/monocrio/internal/cni/plugin/ptp"
	"github.com/monocrio/monocrio/internal/cni/plugin/static"
	"github.com/monocrio/monocrio/internal/cni/plugin/tuning"
	"github.com/monocrio/monocrio/internal/cni/plugin/vlan"
)

// Embedded returns the plugins that are part of this program.
func Embedded() []*plugin.Plugin {
	return []*plugin.Plugin{
		&bandwidth.Plugin, &bridge.Plugin, &firewall.Plugin, &hostdevice.Plugin, &hostlocal.Plugin, &loopback.Plugin,
		&macvlan.Plugin, &portmap.Plugin, &ptp.Plugin, &static.Plugin, &tuning.Plugin, &vlan.Plugin,
	}
}

// Tables returns the packet filter tables of the embedded plugins.
func Tables() []*nft.Table {
	return []*nft.Table{nft.MasqueradeTable(), bridge.SpoofTable(), portmap.Table(), firewall.Table()}
}
