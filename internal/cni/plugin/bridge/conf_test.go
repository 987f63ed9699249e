package bridge

import (
	"slices"
	"testing"

	"github.com/monocrio/monocrio/internal/cni/plugin"
	"github.com/monocrio/monocrio/internal/errs"
)

func TestConf(t *testing.T) {
	for text, good := range map[string]bool{
		`{}`:            true,
		`{"vlan":4095}`: false,
		`{"vlan":-1}`:   false,
		`{"hairpinMode":true,"promiscMode":true}`:                false,
		`{"vlanTrunk":[{"id":0}]}`:                               false,
		`{"vlanTrunk":[{"minID":5}]}`:                            false,
		`{"vlanTrunk":[{"minID":7,"maxID":5}]}`:                  false,
		`{"vlanTrunk":[{"minID":1,"maxID":4095}]}`:               false,
		`{"disableContainerInterface":true,"ipam":{"type":"x"}}`: false,
		`{"mtu":"big"}`: false,
	} {
		if _, err := load(&plugin.Request{Config: []byte(text)}); (err == nil) != good || (err != nil && !errs.Is(err, errs.KindInvalid)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	c, err := load(&plugin.Request{Config: []byte(`{"isDefaultGateway":true,"vlanTrunk":[{"id":9},{"minID":7,"maxID":10}]}`), Args: "MAC=02:00:00:00:00:01"})
	if err != nil || !c.IsGW || c.Bridge != "cni0" || c.mac != "02:00:00:00:00:01" || !slices.Equal(c.vlans, []uint16{7, 8, 9, 10}) {
		t.Errorf("%+v, %v", c, err)
	}
}
