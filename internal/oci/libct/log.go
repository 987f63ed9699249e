package libct

import (
	"context"
	"io"
	"log/slog"
	"strconv"

	"github.com/sirupsen/logrus"
)

// Diagnostics is where libcontainer's own messages go. It writes them through
// logrus' global logger, which monitors and engines know the format of, so the
// runc applet speaks through the same; the daemon bridges that logger to its own
// and does not call this.
type Diagnostics struct {
	// To gets the lines; nil leaves them on standard error.
	To   io.Writer
	JSON bool
	// Plain writes the text alone, for a caller that passes it on to people.
	Plain bool
	Debug bool
}

// Apply sets it for the whole process.
func (d Diagnostics) Apply() {
	if d.To != nil {
		logrus.SetOutput(d.To)
	}
	if d.JSON {
		logrus.SetFormatter(new(logrus.JSONFormatter))
	}
	if d.Plain {
		logrus.SetFormatter(plain{})
	}
	if d.Debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
}

// Error writes an error as a line of the log.
func (Diagnostics) Error(err error) { logrus.Error(err) }

// Warn writes a warning.
func (Diagnostics) Warn(text string) { logrus.Warn(text) }

// logLevel is how much libcontainer's stages tell, by logrus' numbers. Unless they
// are told, they tell all, dozens of lines through a pipe for each start.
func (r *Runtime) logLevel() string {
	level := logrus.GetLevel()
	if r.logged && !r.o.Log.Enabled(context.Background(), slog.LevelDebug) {
		level = min(level, logrus.WarnLevel)
	}
	return strconv.Itoa(int(level))
}

// plain is the form of a message without time and level; what is no error says so.
type plain struct{}

// Format implements logrus.Formatter.
func (plain) Format(e *logrus.Entry) ([]byte, error) {
	if e.Level > logrus.ErrorLevel {
		return []byte(e.Level.String() + ": " + e.Message + "\n"), nil
	}
	return []byte(e.Message + "\n"), nil
}
