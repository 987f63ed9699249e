package client

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// table prints aligned columns. On a terminal its last column ends where the terminal
// does.
type table struct {
	w    io.Writer
	rows [][]string
	// ends are the rows whose last cell is cut at its beginning: an error, whose cause
	// stands at the end.
	ends map[int]bool
}

func newTable(w io.Writer, head ...string) *table {
	return &table{w: w, rows: [][]string{head}, ends: map[int]bool{}}
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// failure adds a row that ends with an error.
func (t *table) failure(cells ...string) {
	t.ends[len(t.rows)] = true
	t.row(cells...)
}

// print cuts lines at the terminal's edge, whole leaves them as long as they are.
func (t *table) print() error { return t.write(columns(t.w)) }

func (t *table) whole() error { return t.write(0) }

func (t *table) write(width int) error {
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, r := range t.rows {
		cells := make([]string, len(r))
		for i := range r {
			cells[i] = strings.Map(printable, r[i])
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	n := -1
	for line := range strings.Lines(b.String()) {
		n++
		line = strings.TrimRight(line, " \n")
		if r := []rune(line); width > 0 && len(r) > width {
			last := len([]rune(t.rows[n][len(t.rows[n])-1]))
			keep := width - 1 - (len(r) - last) // runes of the last cell
			if t.ends[n] && keep > 0 {
				line = string(r[:len(r)-last]) + "…" + string(r[len(r)-keep:])
			} else {
				line = string(r[:width-1]) + "…"
			}
		}
		if _, err := fmt.Fprintln(t.w, line); err != nil {
			return err
		}
	}
	return nil
}

// printable keeps what whoever made a pod has written from moving the cursor.
func printable(r rune) rune {
	if unicode.IsControl(r) {
		return '?'
	}
	return r
}

// columns is the width of the terminal behind w; 0: it is none.
func columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	n, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return n
}

// age is a time as people say it: 12s, 3m12s, 5h03m, 2d4h.
func age(d time.Duration) string {
	s := int(d / time.Second)
	switch {
	case s < 0:
		return "0s"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s/3600%24)
}

// took is how long something lasted, which may be short.
func took(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d < time.Second:
		return fmt.Sprintf("%.1fms", seconds*1000)
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", seconds)
	default:
		return age(d)
	}
}

// clock is a point in time, seen from now.
func clock(t, now time.Time) string {
	t = t.In(time.Local)
	if now.Sub(t) > 20*time.Hour {
		return t.Format("Jan 02 15:04:05")
	}
	return t.Format("15:04:05.000")
}

// since is the age of something whose beginning may not be known.
func since(t *time.Time, now time.Time) string {
	if t == nil {
		return "?"
	}
	return age(now.Sub(*t))
}

// line makes one line of a text, and short ids of long ones.
func line(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	var b strings.Builder
	for s != "" {
		n := len(s) - len(strings.TrimLeft(s, "0123456789abcdef"))
		if n == 64 {
			b.WriteString(s[:12])
		} else {
			b.WriteString(s[:n])
		}
		rest := strings.IndexAny(s[n:], "0123456789abcdef")
		if rest < 0 {
			rest = len(s) - n
		}
		b.WriteString(s[n : n+rest])
		s = s[n+rest:]
	}
	return b.String()
}

// spaced passes a text on without the empty lines at its beginning.
type spaced struct {
	w     io.Writer
	begun bool
}

func (s *spaced) Write(p []byte) (int, error) {
	n := 0
	if !s.begun {
		n = len(p) - len(bytes.TrimLeft(p, "\n"))
		s.begun = n < len(p)
	}
	m, err := s.w.Write(p[n:])
	return n + m, err
}

// Size tells bytes as people count them.
func Size[N int64 | uint64](n N) string {
	for _, u := range []struct {
		bytes N
		name  string
	}{{1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if n >= u.bytes {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.bytes), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// times says how often, if that is more than once.
func times(n int, what string) string {
	if n <= 1 {
		return ""
	}
	return fmt.Sprintf("%d %s: ", n, what)
}
