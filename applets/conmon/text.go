package conmon

import "syscall"

// plain tells whether s may be a file name and the last word of a command line.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '/' || s[i] < ' ' {
			return false
		}
	}
	return s != "" && s != "." && s != ".." && s[0] != '-' && len(s) <= 255
}

func hasEnv(name string) bool {
	_, ok := syscall.Getenv(name)
	return ok
}

// cut splits at the first c; without one all is before.
func cut(s string, c byte) (before, after string) {
	for i := 0; i < len(s); i++ {
		if s[i] == c {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// atoi reads a decimal number that may be negative.
func atoi(s string) (n int64, ok bool) {
	digits := s
	if s != "" && s[0] == '-' {
		digits = s[1:]
	}
	for i := 0; i < len(digits); i++ {
		if digits[i] < '0' || digits[i] > '9' || n > 1<<62/10 {
			return 0, false
		}
		n = n*10 + int64(digits[i]-'0')
	}
	if len(digits) < len(s) {
		n = -n
	}
	return n, digits != ""
}

func usage() string {
	text := "usage: conmon -c ID -u UUID -r RUNTIME -l LOG [OPTION...]\n\n"
	for i := range options {
		o := &options[i]
		if o.about == "" {
			continue
		}
		line := "  --" + o.long
		if o.short != 0 {
			line = "  -" + string(rune(o.short)) + ", --" + o.long
		}
		if o.value {
			line += " V"
		}
		for len(line) < 34 {
			line += " "
		}
		text += line + o.about + "\n"
	}
	return text
}
