// Package log sets up the program's log: log/slog, as text or JSON, to one stream.
//
// The vocabulary of attributes is small: rpc, req, pod, ctr, image, step, dur, err.
// Libraries that write through logrus are bridged here, at debug level unless they
// warn, so that there is one log.
package log

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// Level can be changed while the program runs.
type Level = slog.LevelVar

// ParseLevel reads a level of crio.conf; unknown ones are info.
func ParseLevel(s string) slog.Level {
	switch s {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// New makes a logger and routes logrus into it. format is "text" or "json".
func New(w io.Writer, format string, level *Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if format == "json" {
		h = slog.NewJSONHandler(w, opts)
	}
	l := slog.New(h)
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.DebugLevel)
	logrus.AddHook(bridge{l})
	return l
}

type bridge struct{ l *slog.Logger }

func (bridge) Levels() []logrus.Level { return logrus.AllLevels }

func (b bridge) Fire(e *logrus.Entry) error {
	attrs := make([]any, 0, 2*len(e.Data)+2)
	attrs = append(attrs, "from", "library")
	for k, v := range e.Data {
		attrs = append(attrs, k, v)
	}
	switch {
	case e.Level <= logrus.ErrorLevel:
		b.l.Error(e.Message, attrs...)
	case e.Level == logrus.WarnLevel:
		b.l.Warn(e.Message, attrs...)
	default:
		b.l.Debug(e.Message, attrs...)
	}
	return nil
}
