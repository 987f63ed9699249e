package step

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// text shows a trail in one line.
func text(t *Trail) string {
	var b strings.Builder
	for _, e := range t.Entries() {
		fmt.Fprintf(&b, "%s-%s", e.Verb, e.What)
		if e.Tries > 1 {
			fmt.Fprintf(&b, "*%d", e.Tries)
		}
		if e.Running {
			fmt.Fprintf(&b, "(%s:%s)", e.Took, e.Waits)
		}
		if e.Err != "" {
			fmt.Fprintf(&b, "[%s]", e.Err)
		}
		b.WriteByte(' ')
	}
	return strings.TrimSpace(b.String())
}

// TestTrailOfWalks: climbs and descents leave what they did, with the errors; trying
// again replaces and counts.
func TestTrailOfWalks(t *testing.T) {
	l := &life{fails: []string{"+c", "-b"}}
	if _, err := table().Climb(context.Background(), l); err == nil {
		t.Fatal("it does not fail")
	}
	if got, want := text(&l.trail), "up-a up-b up-c[+c broke] down-c down-b[-b broke] down-a"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
	l.fails = nil
	if err := table().Descend(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	if got, want := text(&l.trail), "up-a up-b up-c[+c broke] down-c*2 down-b*2 down-a*2"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

// TestTrailWaits: what goes on tells since when and what it waits for, and what was
// wrong the last time.
func TestTrailWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, release := &life{}, make(chan struct{})
		tab := table()
		tab[1].Up = func(_ *life, ctx context.Context) error {
			Waits(ctx, "a plugin")
			<-release
			return errors.New("no")
		}
		climb := func() { go func() { _, _ = tab.Climb(context.Background(), l) }() }
		climb()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := text(&l.trail); got != "up-a up-b(3s:a plugin)" {
			t.Error(got)
		}
		release <- struct{}{}
		synctest.Wait()
		climb()
		synctest.Wait()
		if got := text(&l.trail); !strings.HasSuffix(got, "up-b*2(0s:a plugin)[no]") {
			t.Error(got)
		}
		close(release)
	})
	Waits(context.Background(), "nobody's step") // must not panic
	var none *Trail
	none.Reach("x")
	_, end := none.Begin(context.Background(), Call, "y")
	if end(nil); none.Entries() != nil {
		t.Error("a nil trail keeps something")
	}
}

// TestTrailBounds: neither many things nor long errors make a trail large.
func TestTrailBounds(t *testing.T) {
	var tr Trail
	for i := range 1000 {
		_, end := tr.Begin(context.Background(), Call, fmt.Sprint(i))
		end(errors.New(strings.Repeat("x", 10000) + "the cause"))
	}
	list := tr.Entries()
	if len(list) != trailMost || list[len(list)-1].What != "999" || len(list[0].Err) > 2*errorBytes || !strings.HasSuffix(list[0].Err, "the cause") {
		t.Errorf("%d entries, error of %d bytes", len(list), len(list[0].Err))
	}
	var losses Losses
	for i := range 1000 {
		losses.Begin(Loss{Kind: "pod", Name: fmt.Sprint(i % 100)}, &tr)(errors.New("no"))
	}
	all := losses.All()
	if len(all) != lossesMost || all[len(all)-1].Times < 1 {
		t.Errorf("%d losses", len(all))
	}
	end := losses.Begin(Loss{Kind: "pod", Name: "99"}, &tr)
	if p := losses.Pending(); len(p) != 1 || p[0].Name != "99" || len(p[0].Trail) != trailMost {
		t.Errorf("pending: %+v", p)
	}
	end(errors.New("again"))
	if all = losses.All(); all[len(all)-1].Times != 2 || all[len(all)-1].Err != "again" || len(all) != lossesMost {
		t.Errorf("%+v", all[len(all)-1])
	}
	losses.Begin(Loss{Kind: "pod", Name: "99"}, &tr)(nil)
	if len(losses.All()) != lossesMost-1 || len(losses.Pending()) != 0 {
		t.Error("not forgotten")
	}
}
