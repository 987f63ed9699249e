package manual

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestWords(t *testing.T) {
	cmd := &cobra.Command{Use: "why ID"}
	for _, c := range []struct {
		least, most int
		args        string
		want        string
	}{{0, 0, "", ""}, {0, 0, "x", `"x" is one word too many`}, {1, 1, "", "something is missing; usage: why ID"}, {1, 1, "a b", `"b" is one`}, {1, -1, "a b c", ""}} {
		err := Words(c.least, c.most)(cmd, strings.Fields(c.args))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// What has a meaning in roff or Markdown is protected.
func TestEscapes(t *testing.T) {
	p := Page{Name: "x", Section: 1, Short: "a-b", Blocks: []Block{Heading("See"), Text(".dot \\ <b> *"), Code("'quote\n--flag"), Term("--f", "what it does"), Sub("sub")}}
	var man, md strings.Builder
	if err := p.Man(&man); err != nil {
		t.Fatal(err)
	}
	if err := p.Markdown(&md); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{".TH X 1", `a\-b`, ".SH SEE", "\\&.dot \\e <b> *", "\\&'quote\n\\-\\-flag", ".TP\n\\fB\\-\\-f\\fR\nwhat it does", ".SS sub"} {
		if !strings.Contains(man.String(), want) {
			t.Errorf("no %q in\n%s", want, man.String())
		}
	}
	for _, want := range []string{"# x(1)", "## See", `&lt;b> \*`, "    'quote\n    --flag", "- `--f`: what it does", "### sub"} {
		if !strings.Contains(md.String(), want) {
			t.Errorf("no %q in\n%s", want, md.String())
		}
	}
}
