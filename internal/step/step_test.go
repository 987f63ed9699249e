package step

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// life notes what was done to it; the steps in fails do not succeed.
type life struct {
	did   []string
	fails []string
	trail Trail
}

func (*life) Kind() string  { return "life" }
func (*life) Ident() string { return "of one" }

func (l *life) Trail() *Trail { return &l.trail }

func (l *life) do(what string) error {
	l.did = append(l.did, what)
	if slices.Contains(l.fails, what) {
		return errors.New(what + " broke")
	}
	return nil
}

func table() (t Table[*life]) {
	for _, n := range []string{"a", "b", "c"} {
		t = append(t, Step[*life]{Name: n, Up: func(l *life, _ context.Context) error { return l.do("+" + n) },
			Down: func(l *life, _ context.Context) error { return l.do("-" + n) }})
	}
	return t
}

func TestWalks(t *testing.T) {
	for _, c := range []struct{ fails, did, says string }{
		{"", "+a +b +c", ""},
		{"+b", "+a +b -b -a", "cannot make life of one: b: +b broke"},
		{"+c -b", "+a +b +c -c -b -a", "cannot unmake life of one: b: -b broke"}, // each down is tried
	} {
		l := &life{fails: strings.Fields(c.fails)}
		undone, err := table().Climb(context.Background(), l)
		if got := strings.Join(l.did, " "); got != c.did {
			t.Errorf("with %q failing: %s", c.fails, got)
		}
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || undone != !strings.Contains(c.fails, "-") {
			t.Errorf("with %q failing: undone %v, %v", c.fails, undone, err)
		}
	}
	l := &life{}
	if err := table().Named("c", "a").Descend(context.Background(), l); err != nil || strings.Join(l.did, " ") != "-c -a" {
		t.Errorf("named steps: %v, %v", l.did, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := table().Climb(ctx, &life{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who is gone: %v", err)
	}
}

// TestHangingDown: a down that never returns does not take the walk with it.
func TestHangingDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		tab := table()
		tab[1].Down = func(*life, context.Context) error { <-release; return nil }
		l := &life{}
		err := tab.Descend(context.Background(), l)
		if err == nil || !strings.Contains(err.Error(), "b: it hangs") || strings.Join(l.did, " ") != "-c -a" {
			t.Errorf("%v, %v", l.did, err)
		}
		close(release)
	})
}
