package cri

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestChunked: each item once and in order, no empty message, none above the bound but
// for a single item.
func TestChunked(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var items []*cri.Container
		for i := range r.IntN(200) {
			size := r.IntN(3000)
			if r.IntN(20) == 0 {
				size = r.IntN(3 * chunkBytes)
			}
			items = append(items, &cri.Container{Id: fmt.Sprint(i), ImageRef: strings.Repeat("x", size)})
		}
		var got []*cri.Container
		messages := 0
		err := chunked(slices.Values(items), func(c []*cri.Container) error {
			if len(c) == 0 {
				t.Error("an empty message")
			}
			if n := proto.Size(&cri.StreamContainersResponse{Containers: c}); n > chunkBytes && len(c) > 1 {
				t.Errorf("%d items in %d bytes", len(c), n)
			}
			messages++
			got = append(got, c...)
			return nil
		})
		if err != nil || !slices.Equal(got, items) {
			t.Fatalf("%d of %d items, %v", len(got), len(items), err)
		}
		if total := proto.Size(&cri.StreamContainersResponse{Containers: items}); messages > 2*total/chunkBytes+1 {
			t.Errorf("%d messages for %d bytes", messages, total)
		}
	}
}

func TestChunkedGivesUp(t *testing.T) {
	gone, sent := errors.New("the caller is gone"), 0
	endless := func(yield func(*cri.Container) bool) {
		for yield(&cri.Container{Id: strings.Repeat("x", 1000)}) {
		}
	}
	err := chunked(endless, func([]*cri.Container) error { sent++; return gone })
	if err != gone || sent != 1 {
		t.Errorf("%d messages, %v", sent, err)
	}
}
