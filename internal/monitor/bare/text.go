package bare

import "unsafe"

// Itoa writes a decimal number.
func Itoa(n int64) string {
	var b [20]byte
	return string(AppendInt(b[:0], n))
}

// AppendInt appends a decimal number.
func AppendInt(b []byte, n int64) []byte {
	if n < 0 {
		return AppendInt(append(b, '-'), -n)
	}
	if n >= 10 {
		b = AppendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// AppendPadded writes exactly width digits.
func AppendPadded(b []byte, n int64, width int) []byte {
	for i := 0; i < width; i++ {
		b = append(b, '0')
	}
	for i := len(b) - 1; i >= len(b)-width; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// Atoi reads a decimal number without sign; false for anything else and above 2^31.
func Atoi(s string) (int, bool) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || n > 1<<31/10 {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

// LastIndexByte is IndexByte from the end.
func LastIndexByte(s string, c byte) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// IndexByte finds the first c, or -1.
func IndexByte(s string, c byte) int {
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// Fields splits at blanks and tabs.
func Fields(s string) []string {
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

// EachLine calls f for each line, without its end, until f says no.
func EachLine(s string, f func(line string) bool) {
	for s != "" {
		i := IndexByte(s, '\n')
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

// IndexNewline finds the first newline, eight bytes at a time.
func IndexNewline(b []byte) int {
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

// QuoteJSON returns s as a JSON string. Bytes that are not UTF-8 pass as they are;
// readers replace them.
func QuoteJSON(s string) string {
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
