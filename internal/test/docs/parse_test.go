package docs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block is a fenced block of a document, or a hidden one.
type block struct {
	Doc    string
	Line   int // of its first line of text
	Kind   string
	Needs  []string
	Fails  bool
	Again  bool
	Hidden bool
	Text   string
	Output *string // what it prints, as the document has it
}

func (b *block) name() string { return fmt.Sprintf("%s:%d", b.Doc, b.Line) }

// parse finds the blocks of a document. What could hide commands from being run is an
// error: an indented block, an unknown kind or word.
func parse(doc, text string) (list []*block, err error) {
	lines := strings.Split(text, "\n")
	var last *block // the block that ended just above, but for empty lines
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		info, fenced := strings.CutPrefix(line, "```")
		hidden := strings.HasPrefix(line, "<!-- sh")
		end := "```"
		switch {
		case hidden:
			info, end = strings.TrimPrefix(line, "<!-- "), "-->"
		case fenced:
		case strings.HasPrefix(line, "    ") && (i == 0 || strings.TrimSpace(lines[i-1]) == ""):
			return nil, fmt.Errorf("%s:%d: an indented block: fence it and say what it is", doc, i+1)
		case strings.Contains(line, "```") || strings.Contains(line, "~~~"):
			return nil, fmt.Errorf("%s:%d: a fence within a line: begin the line with it", doc, i+1)
		default:
			if strings.TrimSpace(line) != "" {
				last = nil
			}
			continue
		}
		b := &block{Doc: doc, Line: i + 2, Hidden: hidden}
		if err := b.words(strings.Fields(info)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", doc, i+1, err)
		}
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != end; i++ {
			b.Text += lines[i] + "\n"
		}
		if i == len(lines) {
			return nil, fmt.Errorf("%s:%d: the block does not end", doc, b.Line)
		}
		if b.Kind == "text" && last != nil && last.Kind == "sh" {
			last.Output, last = &b.Text, nil
			continue
		}
		list, last = append(list, b), b
	}
	return list, nil
}

func (b *block) words(w []string) error {
	if len(w) == 0 {
		return fmt.Errorf("the fence does not say what it holds")
	}
	b.Kind = w[0]
	if !slices.Contains([]string{"sh", "text", "console", "toml", "yaml", "json"}, b.Kind) {
		return fmt.Errorf("what is %q? doc.go lists the kinds of blocks", b.Kind)
	}
	for _, word := range w[1:] {
		needs, isNeeds := strings.CutPrefix(word, "needs=")
		switch {
		case b.Kind != "sh":
			return fmt.Errorf("%q stands at a block that is not run", word)
		case isNeeds:
			b.Needs = strings.Split(needs, ",")
		case word == "fails":
			b.Fails = true
		case word == "again":
			b.Again = true
		default:
			return fmt.Errorf("what is %q? doc.go lists the words", word)
		}
	}
	for _, n := range b.Needs {
		if _, ok := needs[n]; !ok {
			return fmt.Errorf("there is no need %q", n)
		}
	}
	return nil
}

var spaces = regexp.MustCompile(`[ \t]+`)

// differs compares what was printed with what the document shows: "" if it is that,
// otherwise the first line of the document that was not printed in its place.
func differs(printed, shown string) string {
	split := func(s string) (list []string) {
		for _, l := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
			list = append(list, strings.TrimSpace(spaces.ReplaceAllString(l, " ")))
		}
		return list
	}
	var got []string
	if strings.TrimSpace(printed) != "" {
		got = split(printed)
	}
	want := split(shown)
	far := 0 // the furthest line of the document that could be reached
	var fits func(g, w int) bool
	fits = func(g, w int) bool {
		far = max(far, w)
		switch {
		case w == len(want):
			return g == len(got)
		case want[w] == "...":
			for n := g; n <= len(got); n++ {
				if fits(n, w+1) {
					return true
				}
			}
			return false
		}
		return g < len(got) && like(got[g], want[w]) && fits(g+1, w+1)
	}
	if fits(0, 0) {
		return ""
	}
	if far == len(want) {
		return "(its end)"
	}
	return want[far]
}

func like(got, want string) bool {
	parts := strings.Split(want, "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(got)
}

func TestDiffers(t *testing.T) {
	for _, c := range []struct{ printed, shown, want string }{
		{"a\nb\n", "a\nb\n", ""},
		{"a   b\n", "a b\n", ""},
		{"a\nb\nc\n", "a\n...\nc\n", ""},
		{"a\nc\n", "a\n...\nc\n", ""},
		{"id 4711 running\n", "id ... running\n", ""},
		{"a\nb\n", "a\n", "(its end)"},
		{"a\n", "a\nb\n", "b"},
		{"", "a\n", "a"},
		{"a.c\n", "a?c\n", "a?c"},
	} {
		if got := differs(c.printed, c.shown); got != c.want {
			t.Errorf("printed %q, shown %q: %q, want %q", c.printed, c.shown, got, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	list, err := parse("x.md", "# X\n\n```sh needs=kubelet again\nls\n```\n\n```text\nfile\n```\n\n<!-- sh\nrm file\n-->\n\nThen:\n\n```text\na picture\n```\n")
	if err != nil || len(list) != 3 {
		t.Fatalf("%d blocks, %v", len(list), err)
	}
	if b := list[0]; b.Text != "ls\n" || b.Output == nil || *b.Output != "file\n" || !b.Again || b.Needs[0] != "kubelet" || b.name() != "x.md:4" {
		t.Errorf("%+v", b)
	}
	if b := list[1]; !b.Hidden || b.Kind != "sh" || b.Text != "rm file\n" {
		t.Errorf("%+v", b)
	}
	for _, bad := range []string{"```\nls\n```\n", "text\n\n    ls\n", "```bash\nls\n```\n", "```sh\nls\n", "```sh needs=luck\nls\n```\n", "```sh maybe\nls\n```\n", "```text again\nls\n```\n", " ```sh\nls\n ```\n"} {
		if _, err := parse("x.md", bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
