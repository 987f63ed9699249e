package log

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// Options: crio.runtime.log_level, crio.runtime.log_filter, --log-format
func TestLevelAndFilter(t *testing.T) {
	var b bytes.Buffer
	l, c := New(&b, "text")
	for _, s := range []struct {
		level, filter, want string
	}{
		{"info", "", "info warn error"}, {"warning", "", "warn error"}, {"fatal", "", "error"},
		{"debug", "", "debug info warn error"}, {"trace", "", "trace debug info warn error"}, {"trace", "^(debug|error)$", "debug error"},
	} {
		b.Reset()
		var re *regexp.Regexp
		if s.filter != "" {
			re = regexp.MustCompile(s.filter)
		}
		c.Set(s.level, re)
		with := l.With("pod", "p")
		with.Log(context.Background(), LevelTrace, "trace")
		with.Debug("debug")
		with.Info("info")
		with.Warn("warn")
		with.Error("error")
		var got []string
		for line := range strings.Lines(b.String()) {
			_, rest, _ := strings.Cut(line, "msg=")
			msg, _, _ := strings.Cut(rest, " ")
			if got = append(got, msg); !strings.Contains(line, "level="+strings.ToUpper(msg)+" ") || !strings.Contains(line, "pod=p") {
				t.Errorf("line %q", line)
			}
		}
		if strings.Join(got, " ") != s.want {
			t.Errorf("level %s, filter %q: %v, want %s", s.level, s.filter, got, s.want)
		}
	}
}

// An error that there is none is not told.
func TestNoError(t *testing.T) {
	for format, want := range map[string]string{"text": "msg=ended code=0", "json": `"msg":"ended","code":0`} {
		var b bytes.Buffer
		var none error
		l, _ := New(&b, format)
		l.Info("ended", "err", none, "code", 0)
		l.With("err", none).Info("ended", "code", 0)
		if got := b.String(); strings.Count(got, want) != 2 || strings.Contains(got, "err") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// What libraries log comes once, however often a log is made.
func TestBridge(t *testing.T) {
	New(&bytes.Buffer{}, "text")
	var b bytes.Buffer
	New(&b, "json")
	logrus.WithField("a", 1).Warn("from below")
	if got := strings.Count(b.String(), "from below"); got != 1 || !strings.Contains(b.String(), `"a":1`) || !strings.Contains(b.String(), `"from":"library"`) {
		t.Errorf("%d times: %s", got, b.String())
	}
}
