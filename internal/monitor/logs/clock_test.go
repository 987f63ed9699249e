package logs

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	for _, zone := range []*time.Location{time.UTC, time.FixedZone("", 5*3600+45*60), time.FixedZone("", -3*3600-30*60)} {
		c := clock{offset: func(sec int64) int { _, off := time.Unix(sec, 0).In(zone).Zone(); return off }}
		for _, day := range []string{"1970-01-03", "1999-12-31", "2000-02-29", "2024-02-29", "2025-03-01", "2026-11-23", "2038-01-19", "2100-02-28", "2100-03-01"} {
			at, err := time.Parse("2006-01-02 15:04:05.000000000", day+" 23:59:58.000000123")
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				want := at.In(zone).Format("2006-01-02T15:04:05.000000000-07:00")
				if got := string(c.stamp(at.Unix(), int64(at.Nanosecond()))); got != want {
					t.Errorf("%s, not %s", got, want)
				}
				at = at.Add(700 * time.Millisecond)
			}
		}
	}
}

func TestClockFollowsSummerTime(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("this machine lacks the time zones")
	}
	c := clock{offset: func(sec int64) int { _, off := time.Unix(sec, 0).In(zone).Zone(); return off }}
	for at := time.Date(2026, 3, 29, 0, 59, 59, 0, time.UTC); at.Second() != 2; at = at.Add(time.Second) {
		if got, want := string(c.stamp(at.Unix(), 0)), at.In(zone).Format("2006-01-02T15:04:05.000000000-07:00"); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}
