package lsm

import (
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestAppArmor(t *testing.T) {
	if err := LoadAppArmorDefault(t.Context(), AppArmorUnconfined); err != nil {
		t.Errorf("none at all: %v", err)
	}
	if !AppArmorEnabled() {
		t.Skip("the kernel has no AppArmor")
	}
	for range 2 { // what is there is kept
		if err := LoadAppArmorDefault(t.Context(), AppArmorDefault); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := AppArmorLoaded(AppArmorDefault); !ok || err != nil {
		t.Errorf("loaded: %v %v", ok, err)
	}
	if err := LoadAppArmorDefault(t.Context(), "nobody-has-loaded-it"); !errs.Is(err, errs.KindPrecondition) {
		t.Errorf("a profile of others that is not there: %v", err)
	}
}
