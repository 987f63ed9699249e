package bare

import (
	"encoding/json"
	"testing"
)

func TestIndexNewline(t *testing.T) {
	buf := make([]byte, 40)
	for n := range 41 {
		for at := -1; at < n; at++ {
			for i := range buf {
				buf[i] = []byte{0, 'x', 9, 11, 0x8a, 0xff}[i%6]
			}
			if at >= 0 {
				buf[at] = '\n'
			}
			if got := IndexNewline(buf[:n]); got != at {
				t.Fatalf("length %d: %d, not %d", n, got, at)
			}
		}
	}
}

func TestQuoteJSON(t *testing.T) {
	for _, s := range []string{"", "plain", "\"\\\n\r\t\x00\x1f\x7f", "grüße 世界", "a/b"} {
		var got string
		if err := json.Unmarshal([]byte(QuoteJSON(s)), &got); err != nil || got != s {
			t.Errorf("%q became %q: %v", s, got, err)
		}
	}
	if !json.Valid([]byte(QuoteJSON("\xff\xc3"))) {
		t.Error("broken UTF-8 makes broken JSON")
	}
}

func TestAtoi(t *testing.T) {
	for s, want := range map[string]int{"0": 0, "12": 12, "2147483647": 2147483647, "": -1, "-1": -1, "1x": -1, "99999999999999999999": -1} {
		got, ok := Atoi(s)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d %v", s, got, ok)
		}
	}
}
