package loop

import "unsafe"

// The few things of strconv, bytes and encoding/json that a monitor needs. Those
// packages would be initialised first, and half of the executable with them.

func itoa(n int64) string {
	var b [20]byte
	return string(appendInt(b[:0], n))
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendInt(append(b, '-'), -n)
	}
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// appendPadded writes exactly width digits.
func appendPadded(b []byte, n int64, width int) []byte {
	for i := 0; i < width; i++ {
		b = append(b, '0')
	}
	for i := len(b) - 1; i >= len(b)-width; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// atoi reads a decimal number without sign; false for anything else and above 2^31.
func atoi(s string) (int, bool) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || n > 1<<31/10 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

// lastIndexByte is indexByte from the end.
func lastIndexByte(s string, c byte) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == c {
			return i
		}
	}
	return -1
}

func indexByte(s string, c byte) int {
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// fields splits at blanks and tabs.
func fields(s string) []string {
	var out []string
	start := -1
	for i := 0; i <= len(s); i++ {
		blank := i == len(s) || s[i] == ' ' || s[i] == '\t'
		if !blank && start < 0 {
			start = i
		} else if blank && start >= 0 {
			out = append(out, s[start:i])
			start = -1
		}
	}
	return out
}

// eachLine calls f for each line, without its end, until f says no.
func eachLine(s string, f func(line string) bool) {
	for s != "" {
		i := indexByte(s, '\n')
		if i < 0 {
			f(s)
			return
		}
		if !f(s[:i]) {
			return
		}
		s = s[i+1:]
	}
}

// indexNewline finds the first newline, eight bytes at a time.
func indexNewline(b []byte) int {
	const ones, highs, newlines = 0x0101010101010101, 0x8080808080808080, 0x0a0a0a0a0a0a0a0a
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := *(*uint64)(unsafe.Pointer(&b[i])) ^ newlines
		if (x-ones)&^x&highs != 0 { // a byte of x is zero
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] == '\n' {
			return i
		}
	}
	return -1
}

// quoteJSON returns s as a JSON string. Bytes that are not UTF-8 pass as they are;
// readers replace them.
func quoteJSON(s string) string {
	const hex = "0123456789abcdef"
	b := append(make([]byte, 0, len(s)+16), '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return string(append(b, '"'))
}

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
	appendPadded(c.text[20:20], nsec, 9)
	return c.text[:]
}

func (c *clock) setSecond(local int64) {
	days, rest := local/86400, local%86400
	year, month, day := civil(days)
	b := appendPadded(c.text[:0], year, 4)
	b = appendPadded(append(b, '-'), month, 2)
	b = appendPadded(append(b, '-'), day, 2)
	b = appendPadded(append(b, 'T'), rest/3600, 2)
	b = appendPadded(append(b, ':'), rest/60%60, 2)
	b = appendPadded(append(b, ':'), rest%60, 2)
	_ = append(b, '.')
	ahead, sign := c.ahead/60, byte('+')
	if ahead < 0 {
		ahead, sign = -ahead, '-'
	}
	b = appendPadded(append(c.text[:29], sign), ahead/60, 2)
	appendPadded(append(b, ':'), ahead%60, 2)
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
