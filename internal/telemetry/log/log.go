// Package log sets up the program's log: log/slog, as text or JSON to one stream, or in
// fields to the journal.
//
// The vocabulary of attributes is small: rpc, req, pod, ctr, image, step, dur, err.
// Libraries that write through logrus are bridged here, at debug level unless they
// warn, so that there is one log.
package log

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// LevelTrace is below debug.
const LevelTrace = slog.LevelDebug - 4

// Control changes what is logged while the program runs.
type Control struct {
	level  slog.LevelVar
	filter atomic.Pointer[regexp.Regexp]
}

// Set takes a level of crio.conf (unknown ones are info) and a regular expression that
// messages must match; nil: all do.
func (c *Control) Set(level string, filter *regexp.Regexp) {
	c.level.Set(parseLevel(level))
	c.filter.Store(filter)
}

func parseLevel(s string) slog.Level {
	switch s {
	case "trace":
		return LevelTrace
	case "debug":
		return slog.LevelDebug
	case "warn", "warning":
		return slog.LevelWarn
	case "error", "fatal", "panic":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// New makes a logger at level info and routes logrus into it. format is "text" or
// "json".
func New(w io.Writer, format string) (*slog.Logger, *Control) {
	c := &Control{}
	opts := &slog.HandlerOptions{Level: &c.level, ReplaceAttr: plain}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if format == "json" {
		h = slog.NewJSONHandler(w, opts)
	}
	return route(h, c), c
}

// route makes the logger, and sends what libraries log to it.
func route(h slog.Handler, c *Control) *slog.Logger {
	l := slog.New(filtered{h, c})
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.DebugLevel)
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(bridge{l})
	return l
}

// plain gives our level the name that crio.conf has for it, and leaves out the error
// that there is none: who reads err=<nil> at night looks for one.
func plain(_ []string, a slog.Attr) slog.Attr {
	if noError(a) {
		return slog.Attr{}
	}
	if a.Key == slog.LevelKey && a.Value.Any() == LevelTrace {
		a.Value = slog.StringValue("TRACE")
	}
	return a
}

// filtered drops records whose message does not match the filter.
type filtered struct {
	slog.Handler
	c *Control
}

func (f filtered) Handle(ctx context.Context, r slog.Record) error {
	if re := f.c.filter.Load(); re != nil && !re.MatchString(r.Message) {
		return nil
	}
	return f.Handler.Handle(ctx, r)
}

func (f filtered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return filtered{f.Handler.WithAttrs(attrs), f.c}
}

func (f filtered) WithGroup(name string) slog.Handler {
	return filtered{f.Handler.WithGroup(name), f.c}
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

// noError tells an attribute that was handed a nil error.
func noError(a slog.Attr) bool {
	return a.Key == "err" && a.Value.Kind() == slog.KindAny && a.Value.Any() == nil
}
