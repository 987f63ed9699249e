package lsm

import (
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestAppArmor(t *testing.T) {
	if err := LoadAppArmorDefault(t.Context(), "a b; rm"); !errs.Is(err, errs.KindInvalid) {
		t.Errorf("a name that is none: %v", err)
	}
	if !AppArmorEnabled() {
		t.Skip("the kernel has no AppArmor")
	}
	for range 2 { // what is there is kept
		if err := LoadAppArmorDefault(t.Context(), "monocrio-test-default"); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := AppArmorLoaded("monocrio-test-default"); !ok || err != nil {
		t.Errorf("loaded: %v %v", ok, err)
	}
}
