package flight

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/monocrio/monocrio/internal/errs"
)

func TestFind(t *testing.T) {
	x := NewIndex[int]("thing")
	x.Add("one", "aa11", 1)
	x.Add("two", "aa22", 2)
	for _, c := range []struct {
		id   string
		want int
		kind errs.Kind
	}{{"aa11", 1, 0}, {"aa2", 2, 0}, {"aa", 0, errs.KindInvalid}, {"bb", 0, errs.KindNotFound}, {"", 0, errs.KindNotFound}, {"../x", 0, errs.KindNotFound}} {
		got, err := x.Find(c.id)
		if got != c.want || err != nil && errs.KindOf(err) != c.kind || (err == nil) != (c.want != 0) {
			t.Errorf("Find(%q) = %d, %v", c.id, got, err)
		}
	}
	x.Remove("one", "aa11")
	if got := x.All(); len(got) != 1 || got[0] != 2 {
		t.Errorf("after the removal: %v", got)
	}
}

func TestFly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewIndex[int]("thing")
		free := func(int) error { return nil }
		release, runs := make(chan struct{}), 0
		slow := func() (string, error) { runs++; <-release; x.Add("n", "aa", 7); return "aa", nil }
		results := make(chan string, 3)
		for range 3 {
			go func() { id, _ := x.Fly(t.Context(), "n", free, slow); results <- id }()
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		synctest.Wait()
		if _, err := x.Fly(impatient, "n", free, slow); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who went away: %v", err)
		}
		close(release)
		for range 3 {
			if id := <-results; id != "aa" {
				t.Errorf("result %q", id)
			}
		}
		if runs != 1 {
			t.Errorf("%d flights", runs)
		}
		if id, err := x.Fly(t.Context(), "n", free, slow); id != "aa" || err != nil {
			t.Errorf("a held name: %q %v", id, err)
		}
		_, err := x.Fly(t.Context(), "other", free, func() (string, error) { panic("bad") })
		if err == nil || !strings.Contains(err.Error(), "bad") {
			t.Errorf("a panic: %v", err)
		}
		if _, err := x.Fly(t.Context(), "other", free, func() (string, error) { return "bb", nil }); err != nil {
			t.Errorf("after the panic: %v", err)
		}
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		if !g.Enter() {
			t.Fatal("an open gate is closed")
		}
		closed := make(chan error)
		go func() { closed <- g.Close(t.Context()) }()
		synctest.Wait()
		if g.Enter() {
			t.Error("let in while closing")
		}
		select {
		case <-closed:
			t.Error("closed while somebody is in")
		default:
		}
		g.Leave()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}
