package facts

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestCheckCPUs(t *testing.T) {
	for _, list := range []string{"", "0", "0-" + strconv.Itoa(runtime.NumCPU()-1)} {
		if err := CheckCPUs(list); err != nil {
			t.Errorf("%q: %v", list, err)
		}
	}
	for _, list := range []string{"90000", "0,90000", "0-90000", "99999999999999999999"} {
		if err := CheckCPUs(list); !errs.Is(err, errs.KindInvalid) {
			t.Errorf("%q: %v", list, err)
		}
	}
}
