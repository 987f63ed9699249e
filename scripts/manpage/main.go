// Command manpage turns one of our Markdown manuals, on stdin, into a page for man(1).
//
// crio and crio-status print their own. conmon and pinns run before the Go runtime has
// a heap worth the name and do not carry their manuals; docs/ has them.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/monocrio/monocrio/internal/manual"
)

func main() {
	p, err := read(os.Stdin)
	if err == nil {
		err = p.Man(os.Stdout)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "manpage: %v\n", err)
		os.Exit(1)
	}
}

// reader collects the lines of one paragraph, code or item.
type reader struct {
	page  manual.Page
	lines []string
	code  bool
	item  bool
	tests bool // the last column of the table names tests, which is for developers
}

func read(in io.Reader) (manual.Page, error) {
	var r reader
	s := bufio.NewScanner(in)
	for s.Scan() {
		if err := r.line(s.Text()); err != nil {
			return r.page, err
		}
	}
	r.flush()
	if r.page.Name == "" || r.page.Short == "" {
		return r.page, fmt.Errorf("this is no manual: it begins with \"# NAME(SECTION)\" and \"NAME: what it is\"")
	}
	return r.page, s.Err()
}

func (r *reader) line(l string) error {
	switch {
	case strings.HasPrefix(l, "# "):
		m := regexp.MustCompile(`^# ([\w.-]+)\((\d)\)$`).FindStringSubmatch(l)
		if m == nil {
			return fmt.Errorf("cannot read %q: it is not \"# NAME(SECTION)\"", l)
		}
		r.page.Name = m[1]
		r.page.Section, _ = strconv.Atoi(m[2])
	case r.page.Short == "" && strings.HasPrefix(l, r.page.Name+": "):
		r.page.Short = strings.TrimPrefix(l, r.page.Name+": ")
	case strings.HasPrefix(l, "### "):
		r.flush()
		r.page.Blocks = append(r.page.Blocks, manual.Sub(plain(l[4:])))
	case strings.HasPrefix(l, "## "):
		r.flush()
		r.page.Blocks = append(r.page.Blocks, manual.Heading(plain(l[3:])))
	case strings.HasPrefix(l, "|"):
		r.flush()
		r.row(l)
	case strings.TrimSpace(l) == "":
		r.flush()
	case strings.HasPrefix(l, "    ") && (r.code || len(r.lines) == 0):
		r.code = true
		r.lines = append(r.lines, l[4:])
	case strings.HasPrefix(l, "- "):
		r.flush()
		r.item = true
		r.lines = append(r.lines, l[2:])
	default:
		r.lines = append(r.lines, strings.TrimSpace(l))
	}
	return nil
}

func (r *reader) flush() {
	lines := r.lines
	code, item := r.code, r.item
	r.lines, r.code, r.item = nil, false, false
	text := strings.Join(lines, " ")
	switch {
	case len(lines) == 0, strings.HasPrefix(text, "The last column names"):
	case code:
		r.page.Blocks = append(r.page.Blocks, manual.Code(strings.Join(lines, "\n")))
	case item:
		if term, rest, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(text, "`") {
			r.page.Blocks = append(r.page.Blocks, manual.Term(plain(term), plain(rest)))
		} else {
			r.page.Blocks = append(r.page.Blocks, manual.Text("- "+plain(text)))
		}
	default:
		r.page.Blocks = append(r.page.Blocks, manual.Text(plain(text)))
	}
}

// row makes a term of a table's row.
func (r *reader) row(l string) {
	cells := strings.Split(strings.Trim(strings.ReplaceAll(l, `\|`, "\x00"), "| "), " | ")
	switch last := cells[len(cells)-1]; {
	case strings.HasPrefix(l, "|-"):
		return
	case !strings.HasPrefix(cells[0], "`"): // the head
		r.tests = last == "shown by"
		return
	case r.tests:
		cells = cells[:len(cells)-1]
	}
	for i, c := range cells {
		cells[i] = plain(strings.ReplaceAll(strings.TrimSpace(c), "\x00", "|"))
	}
	r.page.Blocks = append(r.page.Blocks, manual.Term(cells[0], strings.Join(cells[1:], "; ")))
}

// plain takes Markdown's marks away.
func plain(s string) string {
	s = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(s, "$1")
	return strings.NewReplacer("`", "", `\*`, "*", "&lt;", "<", "**", "").Replace(s)
}
