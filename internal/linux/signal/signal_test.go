package signal

import (
	"syscall"
	"testing"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]syscall.Signal{"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMAX-14": 50, "RTMAX": 64,
		"CLD": syscall.SIGCHLD, "SIGPOLL": syscall.SIGIO, "IOT": syscall.SIGABRT,
		"": 0, "0": 0, "65": 0, "-1": 0, "SIGNONE": 0, "RTMIN+31": 0, "RTMAX-31": 0, "RTMINx": 0} {
		if got := Parse(s); got != want {
			t.Errorf("Parse(%q) = %d, want %d", s, got, want)
		}
	}
}
