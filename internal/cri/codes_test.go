package cri

import (
	"fmt"
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/errs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// TestReasons: the kubelet's words stand first, whatever was said on the way up, and
// they are the ones it knows.
func TestReasons(t *testing.T) {
	for reason, known := range map[errs.Reason]error{
		errs.RegistryUnavailable:       crierrors.ErrRegistryUnavailable,
		errs.SignatureValidationFailed: crierrors.ErrSignatureValidationFailed,
		errs.RROUnsupported:            crierrors.ErrRROUnsupported,
		errs.ImageVolumeMountFailed:    crierrors.ErrImageVolumeMountFailed,
	} {
		if string(reason) != known.Error() {
			t.Errorf("%s is %s to the kubelet", reason, known)
		}
		err := fmt.Errorf("cannot do it: %w", errs.Errorf(errs.KindDenied, "%.0wno: %w", reason, errs.NotFound("thing", "x")))
		st := status.Convert(toStatus(err))
		if st.Code() != codes.PermissionDenied || !strings.HasPrefix(st.Message(), known.Error()+": cannot do it: no: there is no") {
			t.Errorf("%s became %v", reason, st)
		}
	}
}

// TestCodes: every kind has its code; what is a status already passes.
func TestCodes(t *testing.T) {
	seen := map[codes.Code]errs.Kind{}
	for k := errs.KindInternal; k <= errs.KindDenied; k++ {
		c := code(k)
		if other, twice := seen[c]; twice {
			t.Errorf("kinds %d and %d are both %s", other, k, c)
		}
		seen[c] = k
		if got := status.Code(toStatus(errs.Errorf(k, "x"))); got != c {
			t.Errorf("kind %d became %s", k, got)
		}
	}
	if err := status.Error(codes.Aborted, "x"); toStatus(err) != err || toStatus(nil) != nil {
		t.Error("a status or nil does not pass")
	}
}
