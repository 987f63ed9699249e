package integration

import (
	"strings"
	"testing"

	"github.com/monocrio/monocrio/internal/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestEveryCall: there is no call of the CRI that is not built, whatever is asked.
func TestEveryCall(t *testing.T) {
	w := world.New(t, world.Options{})
	all := methods(t)
	if len(all) != 43 {
		t.Errorf("the CRI has %d calls; 43 were known when this was written: are the new ones built?", len(all))
	}
	for _, m := range all {
		err := call(t, w, m, newMessage(t, m.Input()))
		switch status.Code(err) {
		case codes.Unimplemented, codes.Unknown, codes.Internal:
			t.Errorf("%s, asked with nothing, answers %v", m.Name(), err)
		}
		if err != nil && strings.TrimSpace(status.Convert(err).Message()) == "" {
			t.Errorf("%s refuses without a word", m.Name())
		}
	}
}
