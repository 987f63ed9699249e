package logs

import "github.com/monocrio/monocrio/internal/monitor/bare"

// clock writes the local time of log records. The part down to the seconds is
// kept between calls.
type clock struct {
	offset func(sec int64) int // seconds ahead of UTC
	sec    int64
	valid  bool
	quarter,
	ahead int64 // offset during this quarter of an hour: it never changes inside one
	text [35]byte // 2006-01-02T15:04:05.999999999+07:00
}

func (c *clock) stamp(sec, nsec int64) []byte {
	if !c.valid || sec != c.sec {
		if q := sec / 900; !c.valid || q != c.quarter {
			c.quarter, c.ahead = q, 0
			if c.offset != nil {
				c.ahead = int64(c.offset(sec))
			}
		}
		c.sec, c.valid = sec, true
		c.setSecond(sec + c.ahead)
	}
	bare.AppendPadded(c.text[20:20], nsec, 9)
	return c.text[:]
}

func (c *clock) setSecond(local int64) {
	days, rest := local/86400, local%86400
	year, month, day := civil(days)
	b := bare.AppendPadded(c.text[:0], year, 4)
	b = bare.AppendPadded(append(b, '-'), month, 2)
	b = bare.AppendPadded(append(b, '-'), day, 2)
	b = bare.AppendPadded(append(b, 'T'), rest/3600, 2)
	b = bare.AppendPadded(append(b, ':'), rest/60%60, 2)
	b = bare.AppendPadded(append(b, ':'), rest%60, 2)
	_ = append(b, '.')
	ahead, sign := c.ahead/60, byte('+')
	if ahead < 0 {
		ahead, sign = -ahead, '-'
	}
	b = bare.AppendPadded(append(c.text[:29], sign), ahead/60, 2)
	bare.AppendPadded(append(b, ':'), ahead%60, 2)
}

// civil turns days since 1970 into a date of the Gregorian calendar, for days not
// before 1970. Years begin in March here, so that leap days come last.
func civil(days int64) (year, month, day int64) {
	days += 719468 // since 0000-03-01
	era := days / 146097
	d := days % 146097
	y := (d - d/1460 + d/36524 - d/146096) / 365
	d -= 365*y + y/4 - y/100
	m := (5*d + 2) / 153
	day = d - (153*m+2)/5 + 1
	month = m + 3
	if m >= 10 {
		month = m - 9
	}
	year = y + era*400
	if month <= 2 {
		year++
	}
	return year, month, day
}
